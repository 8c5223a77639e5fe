"""A Weights & Biases report that compares the runs of a sweep: `python -m ebmbench report wandb SWEEP`.

It shows runs that were logged with logger=wandb, one W&B run per seed (see `ebmbench.loggers`), so that W&B's own
grouping by method gives means with their spread. Which runs: those whose configuration hash is among the report's.
"""

from __future__ import annotations

import contextlib
from typing import Any

from ebmbench.core import registry
from ebmbench.core.errors import UserError, first_line
from ebmbench.display import palette
from ebmbench.display.rendering import methods_of
from ebmbench.display.table import markdown
from ebmbench.engine.loggers import has_login
from ebmbench.report import html
from ebmbench.report import settings as reported
from ebmbench.report.frame import Results, Run, has_values
from ebmbench.tasks.base import Metric, Task


def publish(results: Results, project: str, entity: str | None) -> str:
    """Saves the report on W&B; returns its address.

    Raises:
        UserError: no login, no finished run, or W&B refuses or cannot be reached.
    """
    if results.done.empty:
        raise UserError(f"{results.name} has no finished run yet, so there is nothing to report")
    if not has_login():
        raise UserError("a W&B report needs a W&B login: run `wandb login`, or set WANDB_API_KEY.")
    import wandb

    try:
        owner = entity or wandb.Api().default_entity
        if not owner:
            raise UserError("the W&B account has no default entity: name one with --entity.")
        return str(build(results, project, owner).save().url)
    except UserError:
        raise
    except Exception as error:  # the client's own kinds: usage, communication, GraphQL
        raise UserError(f"W&B did not take the report: {first_line(error)}") from error


def build(results: Results, project: str, entity: str) -> Any:
    """The report, not yet saved."""
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.TableOfContents(), wr.H1("What was run"), *_what(results, wr)]
    for label in results.tasks:
        blocks += [wr.H1(label), _grid(results, label, project, entity, wr)]
    blocks += [wr.H1("Tables"), wr.P("From the run directories, by `python -m ebmbench report`.")]
    tables = html.all_tables(results)
    blocks += [wr.MarkdownBlock(markdown(table, level=3)) for table in tables]
    return wr.Report(
        project=project,
        entity=entity,
        title=f"ebmbench: {results.name}"[:128],
        description=results.description or "How to train an energy-based model for regression: methods compared.",
        blocks=blocks,
        width="fluid",
    )


def _what(results: Results, wr: Any) -> list[Any]:
    about = html.facts(results)
    jobs = results.done["run_id"].nunique()
    text = (
        f"{about['models']} models in {jobs} jobs: {', '.join(methods_of(results.done))} on {about['datasets']}; "
        f"commit {about['commit']}, finished {about['finished']}."
    )
    blocks = [wr.P(text)]
    warnings = html.warnings(results)
    if warnings:
        blocks.append(wr.UnorderedList(items=warnings))
    commands = [line.command for line in html.again(results, f"python -m ebmbench report {results.name}")]
    return [*blocks, wr.P("To get all of this again:"), wr.CodeBlock("\n".join(commands), language="yaml")]


def _grid(results: Results, label: str, project: str, entity: str, wr: Any) -> Any:
    """The panels of one dataset over its runs."""
    part, task = results.done[results.done["label"] == label], results.tasks[label]
    hashes, metrics = sorted(set(part["config_hash"])), _metrics(task, part)
    method = wr.Config("method.name")
    runset = wr.Runset(
        entity=entity,
        project=project,
        name=label,
        filters=f"Config('config_hash') in {hashes!r}",
        groupby=["config.method.name"],
        pinned_columns=["config:method.value.name", "config:seed.value"],
        visible_columns=[f"summary:{metric.name}" for metric in metrics],
    )
    small, wide = {"w": 8, "h": 8}, {"w": 12, "h": 9}
    by_method = {"groupby": method, "groupby_aggfunc": "mean", "max_runs_to_show": 1000}

    def bars(title: str, name: str, **spread: str) -> Any:
        layout = wr.Layout(**small)
        return wr.BarPlot(title=title, metrics=[name], max_bars_to_show=20, layout=layout, **by_method, **spread)

    def lines(title: str, name: str) -> Any:
        shown = {"groupby_rangefunc": "minmax", "ignore_outliers": True, "layout": wr.Layout(**wide)}
        return wr.LinePlot(title=title, x="Step", y=[name], **by_method, **shown)

    panels: list[Any] = []
    for metric in metrics:
        title = f"{metric.heading}: mean over seeds ± standard error"
        panels.append(bars(title, metric.name, groupby_rangefunc="stderr"))
    for metric in metrics[:1]:
        title, layout = f"{metric.heading}: a point for each seed", wr.Layout(**small)
        panels.append(wr.ScatterPlot(title=title, x=wr.Config("seed"), y=wr.SummaryMetric(metric.name), layout=layout))
    panels += [bars(f"{name}: mean over seeds", name) for name in _counters(part)]
    if task.selection and task.selection in _history(results, label):
        panels.append(lines("validation by method", task.selection))
    panels.append(lines("training loss by method (different quantities: compare shapes, not heights)", "loss"))
    panels.append(
        wr.ParallelCoordinatesPlot(
            title="the settings that equations name and what is varied, against quality",
            columns=_coordinates(results, label, wr),
            layout=wr.Layout(**wide),
        )
    )
    pictures = sorted({path.stem for run in _runs(results, label) for path in run.folder.glob("figures/*.png")})
    if pictures:
        keys = [f"figures/{name}" for name in pictures]
        panels.append(wr.MediaBrowser(title="figures", media_keys=keys, num_columns=3, layout=wr.Layout(w=24, h=12)))
    panels.append(wr.RunComparer(diff_only="split", layout=wr.Layout(w=24, h=10)))
    _place(panels)
    colors = {
        wr.RunsetGroup(runset_name=label, keys=(wr.RunsetGroupKey(key=method, value=name),)): palette.color(name)
        for name in methods_of(part)
    }
    return wr.PanelGrid(runsets=[runset], panels=panels, custom_run_colors=colors)


def _runs(results: Results, label: str) -> list[Run]:
    return [run for run in results.runs if run.label == label]


def _counters(part: Any) -> list[str]:
    """Returns the methods' counters, such as underflows, that counted something."""
    known = {name for cls in registry.known("method").values() for name in getattr(cls, "counters", {})}
    return sorted(name for name in known if name in part and (part[name] > 0).any())


def _history(results: Results, label: str) -> set[str]:
    """Returns the columns of the training histories."""
    found: set[str] = set()
    for run in _runs(results, label):
        with contextlib.suppress(OSError), open(run.folder / "history.csv") as file:
            found |= set(file.readline().strip().split(","))
    return found


def _metrics(task: type[Task], part: Any) -> list[Metric]:
    """Returns the metrics that the strip or the ranking shows, as far as there are values."""
    shown = [metric for metric in task.metrics if {"ranking", "strip"} & set(metric.figures)]
    return [metric for metric in shown if not isinstance(metric.better, float) and has_values(part, metric)]


def _coordinates(results: Results, label: str, wr: Any) -> list[Any]:
    """Returns the axes: the method, the settings that equations name, what else is varied, and the headline metric."""
    column = wr.ParallelCoordinatesPlotColumn
    task, metric = results.tasks[label].name, results.tasks[label].metrics[0]
    values: dict[str, list[Any]] = {}
    methods: dict[str, list[str]] = {}
    varied = {key for keys in results.varied.values() for key in keys}
    for run in _runs(results, label):
        for key, value in run.settings.items():
            if value is not None and (key in varied or reported.sign(key, task, run.method)):
                values.setdefault(key, []).append(value)
                methods.setdefault(key, []).append(run.method)
    headline = results.done.loc[results.done["label"] == label, metric.name].dropna().tolist()
    name, is_log = metric.heading, metric.better == "lower" and _are_positive(headline)
    return [
        column(wr.Config("method.name"), display_name="method"),
        *(
            column(wr.Config(key), display_name=reported.title(key, task, methods[key]), log=_are_positive(found))
            for key, found in values.items()
        ),
        column(wr.SummaryMetric(metric.name), display_name=name, log=is_log),
    ]


def _are_positive(values: list[Any]) -> bool:
    return bool(values) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and value > 0 for value in values
    )


def _place(panels: list[Any]) -> None:
    """Rows from left to right in W&B's 24 columns."""
    x = y = height = 0
    for panel in panels:
        if x + panel.layout.w > 24:
            x, y, height = 0, y + height, 0
        panel.layout.x, panel.layout.y = x, y
        x, height = x + panel.layout.w, max(height, panel.layout.h)
