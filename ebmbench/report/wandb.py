"""A Weights & Biases report that compares the runs of a sweep: `python -m ebmbench report wandb SWEEP`.

It shows runs that were logged with logger=wandb, one W&B run per seed (see `ebmbench.loggers`), so that W&B's own
grouping by method gives means with their spread. Which runs: those whose configuration hash is among the report's.
"""

from __future__ import annotations

import os
from typing import Any

from ebmbench.core import registry
from ebmbench.core.errors import UserError
from ebmbench.display import palette
from ebmbench.engine.loggers import has_login
from ebmbench.report import html, plots, scores
from ebmbench.report.data import Results, axis_title, provenance, setting_keys

_NOISE = ("noise.sigma", "noise.beta", "noise.langevin_step")


def publish(results: Results, project: str, entity: str | None) -> str:
    """Saves the report on W&B; returns its address.

    Raises:
        UserError: no login, no finished run, or W&B refuses or cannot be reached.
    """
    if results.frame.empty:
        raise UserError(f"{results.name} has no finished run yet, so there is nothing to report")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
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
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"W&B did not take the report: {first}") from error


def build(results: Results, project: str, entity: str) -> Any:
    """The report, not yet saved."""
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.TableOfContents(), wr.H1("What was run"), *_what(results, wr)]
    for label in sorted(set(results.frame["label"])):
        blocks += [wr.H1(label), _grid(results, label, project, entity, wr)]
    blocks += [wr.H1("Tables"), wr.P("From the run directories, by `python -m ebmbench report`.")]
    tables = [*html.score_tables(results), *html.comparison_tables(results)]
    blocks += [wr.MarkdownBlock(_markdown(table)) for table in tables]
    return wr.Report(
        project=project,
        entity=entity,
        title=f"ebmbench: {results.name}"[:128],
        description=results.description or "How to train an energy-based model for regression: methods compared.",
        blocks=blocks,
        width="fluid",
    )


def _what(results: Results, wr: Any) -> list[Any]:
    origin = provenance(results)
    methods = [str(m) for m in palette.in_order(results.frame["method"])]
    labels = ", ".join(sorted(set(results.frame["label"])))
    text = (
        f"{len(results.frame)} models in {origin['runs']} jobs: {', '.join(methods)} on {labels}; "
        f"commit {origin['commit']}, {origin['from']} to {origin['to']}."
    )
    blocks = [wr.P(text)]
    warnings = html.warnings(results)
    if warnings:
        blocks.append(wr.UnorderedList(items=warnings))
    commands = [line.command for line in html.again(results, f"python -m ebmbench report {results.name}")]
    return [*blocks, wr.P("To get all of this again:"), wr.CodeBlock("\n".join(commands), language="yaml")]


def _grid(results: Results, label: str, project: str, entity: str, wr: Any) -> Any:
    """The panels of one dataset over its runs."""
    part = results.frame[results.frame["label"] == label]
    hashes = sorted(set(part["config_hash"]))
    method = wr.Config("method.name")
    runset = wr.Runset(
        entity=entity,
        project=project,
        name=label,
        filters=f"Config('config_hash') in {hashes!r}",
        groupby=["config.method.name"],
        pinned_columns=["config:method.value.name", "config:seed.value"],
        visible_columns=[f"summary:{metric}" for metric in _metrics(part)],
    )
    panels: list[Any] = []
    for metric in _metrics(part):
        panels.append(
            wr.BarPlot(
                title=f"{plots.METRIC_TITLES[metric]}: mean over seeds ± standard error",
                metrics=[metric],
                groupby=method,
                groupby_aggfunc="mean",
                groupby_rangefunc="stderr",
                max_runs_to_show=1000,
                max_bars_to_show=20,
                layout=wr.Layout(w=8, h=8),
            )
        )
    panels.append(
        wr.LinePlot(
            title="training loss by method (different quantities: compare shapes, not heights)",
            x="Step",
            y=["loss"],
            groupby=method,
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            max_runs_to_show=1000,
            ignore_outliers=True,
            layout=wr.Layout(w=12, h=9),
        )
    )
    panels.append(
        wr.ParallelCoordinatesPlot(
            title="noise scales and what is varied, against quality",
            columns=_coordinates(results, part, wr),
            layout=wr.Layout(w=12, h=9),
        )
    )
    panels.append(wr.RunComparer(diff_only="split", layout=wr.Layout(w=24, h=10)))
    _place(panels)
    colors = {
        wr.RunsetGroup(runset_name=label, keys=(wr.RunsetGroupKey(key=method, value=name),)): palette.color(name)
        for name in registry.known("method")
        if name in set(part["method"])
    }
    return wr.PanelGrid(runsets=[runset], panels=panels, custom_run_colors=colors)


def _metrics(part: Any) -> list[str]:
    wanted = ("d_kl", "nll", "crps", "ap", "ap75", "ap_gain", "box_nll")
    return [metric for metric in wanted if metric in part and part[metric].notna().any()]


def _coordinates(results: Results, part: Any, wr: Any) -> list[Any]:
    """Method, the noise scales that any run has, what else is varied, and the headline metric."""
    column = wr.ParallelCoordinatesPlotColumn
    varied = {key for keys in results.varied.values() for key in keys}
    keys = [k for k in setting_keys(part) if (k in _NOISE and part[k].notna().any()) or k in varied]
    headline = scores.headline(part)
    return [
        column(wr.Config("method.name"), display_name="method"),
        *(column(wr.Config(key), display_name=axis_title(key), log=_is_positive(part[key])) for key in keys),
        column(wr.SummaryMetric(headline), display_name=plots.METRIC_TITLES[headline], log=headline == "d_kl"),
    ]


def _is_positive(values: Any) -> bool:
    numbers = [value for value in values.dropna() if isinstance(value, int | float) and not isinstance(value, bool)]
    return bool(numbers) and len(numbers) == values.notna().sum() and min(numbers) > 0


def _place(panels: list[Any]) -> None:
    """Rows from left to right in W&B's 24 columns."""
    x = y = height = 0
    for panel in panels:
        if x + panel.layout.w > 24:
            x, y, height = 0, y + height, 0
        panel.layout.x, panel.layout.y = x, y
        x, height = x + panel.layout.w, max(height, panel.layout.h)


def _markdown(table: html.Table) -> str:
    """A table as Markdown; what could be taken for its syntax is escaped."""

    def text(cell: html.Cell) -> str:
        return _escape(cell.text) + (" ★" if cell.mark == "best" else "")

    lines = [f"### {_escape(table.title)}", "", _escape(table.caption), ""]
    lines += ["| " + " | ".join(map(_escape, table.head)) + " |", "|" + "---|" * len(table.head)]
    lines += ["| " + " | ".join(map(text, row)) + " |" for row in table.rows]
    return "\n".join(lines)


def _escape(text: str) -> str:
    for character in "\\`*_[]<>|#":
        text = text.replace(character, "\\" + character)
    return text.replace("\n", " ")
