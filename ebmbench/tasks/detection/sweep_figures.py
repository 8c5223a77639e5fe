"""Figures and tables of sweeps of detection: what each stage gains, and AP by object size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ebmbench.boxes.comparison import joint_bootstrap
from ebmbench.display import palette
from ebmbench.display.palette import TRUTH_COLOR
from ebmbench.display.rendering import Figure, Panel, Scale, labels_with, methods_of
from ebmbench.display.table import Cell, Table, number, plain
from ebmbench.tasks.base import SweepResults

if TYPE_CHECKING:
    from ebmbench.tasks.detection.evaluation import Evaluation

BASE_SEED = "task.base.seed"
NUM_TRAIN = "data.num_train"
RESAMPLES = 400

Groups = list[tuple[list["Evaluation"], list["Evaluation"]]]
"""Of each base detector what is compared, a list for each side, with an evaluation for each seed."""
Recorded = dict[tuple[Any, ...], dict[Any, tuple["Evaluation", dict[int, "Evaluation"]]]]
"""By label, method and settings, then by the base's seed: the evaluation of the base, and of each head by its seed."""


def stages(results: SweepResults) -> Iterator[Figure]:
    """AP of the base detector, with f-ordered NMS alone, and with refinement."""
    frame = results.comparison
    stages = {
        "AP": ("base_ap", "nms_ap", "ap"),
        "AP75": ("base_ap75", "nms_ap75", "ap75"),
    }
    panels, rows = [], []
    for title, columns in stages.items():
        found = {
            label: _over_seeds(frame[frame["label"] == label], columns)
            for label in labels_with(frame, columns[-1])
            if set(columns) <= set(frame.columns)
        }
        scale = Scale.of(
            np.concatenate([table[["low", "high"]].to_numpy().ravel() for table in found.values()] or [[]])
        )
        for label, table in found.items():
            rows.append(table.assign(label=label).rename(columns={"metric": "stage"}))
            panels.append(Panel(f"{label}: {title}", _stages_panel(table, columns, title, scale)))
    if not panels:
        return
    yield Figure(
        "stages",
        "What each stage gains",
        "Grey line: the base detector. Hollow: non-maximum suppression ordered by f alone. Filled: with "
        "gradient-ascent refinement of the boxes. Mean over seeds; bars: the lowest and the highest seed.",
        tuple(panels),
        pd.concat(rows),
    )


def _over_seeds(part: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Returns mean, lowest and highest seed of each metric: `method`, `metric`, `mean`, `low`, `high`."""
    long = part.melt(["method"], list(columns), "metric")
    table = long.groupby(["method", "metric"])["value"].agg(mean="mean", low="min", high="max")
    order = [(method, column) for method in methods_of(part) for column in columns]
    return table.loc[order].reset_index()


def _stages_panel(
    table: pd.DataFrame, columns: Sequence[str], title: str, scale: Scale | None
) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        base, nms, refined = (table[table["metric"] == column].set_index("method") for column in columns)
        axes.axvline(float(base["mean"].mean()), color=TRUTH_COLOR, lw=2, alpha=0.7)
        methods = list(base.index)[::-1]
        for place, method in enumerate(methods):
            color, marker = palette.color(method), palette.marker(method)
            for stage, up, face in ((nms, -0.14, "none"), (refined, 0.14, color)):
                row = stage.loc[method]
                axes.plot([row["low"], row["high"]], [place + up] * 2, color=color, lw=1.6, solid_capstyle="butt")
                axes.plot(row["mean"], place + up, marker=marker, mfc=face, mec=color, ms=5.5)
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(-0.6, len(methods) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"{title}, %")
        if scale:
            scale.apply(axes)

    return draw


def sizes(results: SweepResults) -> Iterator[Figure]:
    """AP by object size."""
    frame = results.comparison
    sizes = {"ap_small": "small", "ap_medium": "medium", "ap_large": "large"}
    if not set(sizes) <= set(frame.columns):
        return
    # A dataset may have no objects of a size.
    found = {
        label: _over_seeds(frame[frame["label"] == label], list(sizes)).dropna(subset="mean")
        for label in labels_with(frame, "ap_small")
    }
    if not found:
        return
    scale = Scale.of(end for table in found.values() for name in ("low", "high") for end in table[name])
    panels = [Panel(f"{label}: AP by object size", _sizes_panel(table, sizes, scale)) for label, table in found.items()]
    yield Figure(
        "sizes",
        "AP by object size",
        "After refinement, mean over seeds; bars: the lowest and the highest seed. Sizes as COCO defines them.",
        tuple(panels),
        pd.concat([table.assign(label=label) for label, table in found.items()]),
        legend=tuple(methods_of(frame[frame["ap_small"].notna()])),
    )


def _sizes_panel(table: pd.DataFrame, sizes: Mapping[str, str], scale: Scale | None) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        there = [column for column in sizes if column in set(table["metric"])]
        methods = methods_of(table)
        for index, method in enumerate(methods):
            own = table[table["method"] == method].set_index("metric")
            offset = (index - (len(methods) - 1) / 2) * 0.09
            for place, column in enumerate(there):
                row, color = own.loc[column], palette.color(method)
                axes.plot([place + offset] * 2, [row["low"], row["high"]], color=color, lw=1.4, solid_capstyle="butt")
                axes.plot(place + offset, row["mean"], marker=palette.marker(method), color=color, ms=5.5)
        axes.set_xticks(range(len(there)), [sizes[column] for column in there])
        axes.set_xlim(-0.5, len(there) - 0.5)
        if scale:
            scale.apply(axes, "y")
        axes.set_ylabel("AP, %")
        axes.grid(axis="x", visible=False)

    return draw


def gains(results: SweepResults) -> Iterator[Figure]:
    """The gain in AP on the base detector, its interval over images, seeds and base detectors together."""
    recorded, settings = _recorded(results)
    rows = []
    for key, of_method in recorded.items():
        groups = [([base], list(heads.values())) for base, heads in of_method.values() if heads]
        if groups:
            rows.append(_row(dict(zip(["label", "method", *settings], key, strict=True)), groups))
    yield from _gains_figure(
        rows,
        settings,
        "gains",
        "Gain on the base detector",
        "Mean over base detectors and seeds of what is reported. Interval: 95 %, by a bootstrap over images, seeds and "
        "base detectors together. Left of the line: worse than the base detector.",
        "gain in {}, points",
    )


def pairs(results: SweepResults) -> Iterator[Figure]:
    """The AP of each method less that of the best one, its interval over images, seeds and base detectors together."""
    recorded, settings = _recorded(results)
    rows = []
    for label, *values in dict.fromkeys((label, *values) for label, _, *values in recorded):
        own = {key[1]: found for key, found in recorded.items() if (key[0], *key[2:]) == (label, *values)}
        best = max(own, key=lambda method: _mean_ap(own[method]))
        for method in own:
            both = [(own[best][base][1], own[method][base][1]) for base in own[best] if base in own[method]]
            common = [(one, other, [seed for seed in one if seed in other]) for one, other in both]
            groups = [([a[s] for s in seeds], [b[s] for s in seeds]) for a, b, seeds in common if seeds]
            if method != best and groups:
                about = {"label": label, "method": method, **dict(zip(settings, values, strict=True)), "best": best}
                rows.append(_row(about, groups))
    yield from _gains_figure(
        rows,
        settings,
        "pairs",
        "Methods against the best one",
        "AP less that of the method with the best mean, over the same images, seeds and base detectors. Interval: "
        "95 %, by a bootstrap over all three together, of each difference by itself; the best one was chosen from the "
        "same numbers.",
        "difference in {}, points",
    )


def _recorded(results: SweepResults) -> tuple[Recorded, list[str]]:
    """Returns the evaluations that runs kept, and the settings that vary beside the seed of the base detector."""
    from ebmbench.tasks.detection.records import group
    from ebmbench.tasks.examples import example_file

    folders = {run_id: folder for run_id, folder in results.folders.items() if example_file(folder, "images")}
    there = results.done[results.done["run_id"].isin(list(folders))].drop_duplicates("run_id")
    settings = _varied(there, BASE_SEED)
    recorded: Recorded = {}
    for row in there.sort_values(["label", "method", *settings]).to_dict("records") if "ap_gain" in there else ():
        key = (row["label"], row["method"], *(row[name] for name in settings))
        base, heads = group(folders[row["run_id"]])  # a setting's seeds may be in several runs
        recorded.setdefault(key, {}).setdefault(row.get(BASE_SEED), (base, {}))[1].update(heads)
    return recorded, settings


def _varied(runs: pd.DataFrame, but: str) -> list[str]:
    """Returns the settings that differ between runs, all but one."""
    return [name for name in runs.columns if "." in name and name != but and runs[name].nunique(dropna=False) > 1]


def _mean_ap(found: Mapping[Any, tuple[Evaluation, Mapping[int, Evaluation]]]) -> float:
    values = [head.metrics["ap"] for _, heads in found.values() for head in heads.values()]
    return float(np.mean(values)) if values else -np.inf


def _row(about: dict[str, Any], groups: Groups) -> dict[str, Any]:
    """Returns a row of a figure's numbers: the gains of what is compared, with their intervals."""
    from ebmbench.tasks.detection.evaluation import GAINS

    row = {**about, "bases": len(groups), "seeds": sum(len(after) for _, after in groups)}
    for name, gain in joint_bootstrap(groups, GAINS, RESAMPLES).items():
        row |= gain.columns(f"{name}_gain")
    return row


def _gains_figure(
    rows: list[dict[str, Any]], settings: list[str], name: str, title: str, caption: str, across: str
) -> Iterator[Figure]:
    data, panels = pd.DataFrame(rows), []
    for label, part in data.groupby("label") if rows else ():
        names = [" ".join(map(str, [row["method"], *(f"{s.rpartition('.')[2]}={row[s]}" for s in settings)]))
                 for row in part.to_dict("records")]  # fmt: skip
        if "best" in part:
            names = [f"{own} − {best}" for own, best in zip(names, part["best"], strict=True)]
        size = (3.7, max(1.6, 0.8 + 0.24 * len(part)))
        for metric in ("ap", "ap75"):
            draw = _gains_panel(part, names, metric, across.format(metric.upper()))
            panels.append(Panel(f"{label}: {metric.upper()}", draw, size))
    if panels:
        yield Figure(name, title, caption, tuple(panels), data)


def _gains_panel(rows: pd.DataFrame, names: list[str], metric: str, across: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        axes.axvline(0, color=TRUTH_COLOR, lw=1.2, alpha=0.7)
        for place, row in enumerate(rows.to_dict("records")[::-1]):
            color = palette.color(row["method"])
            axes.plot([row[f"{metric}_gain_low"], row[f"{metric}_gain_high"]], [place] * 2, color=color, lw=2)
            axes.plot(row[f"{metric}_gain"], place, marker=palette.marker(row["method"]), color=color, ms=6)
        axes.set_yticks(range(len(names)), names[::-1])
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(across)
        axes.locator_params(axis="x", nbins=6)

    return draw


ORDERS = {"head": ("accepted", "NMS as set"), "other": ("other_accepted", "NMS in the other order")}
"""The heads' metrics in both orders: how their names begin, whether they are accepted, title."""
LINES = ("#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73", "#CC79A7")
"""Colours of settings that vary beside the number of images."""


def images(results: SweepResults) -> Iterator[Figure]:
    """The gain in AP by the number of training images, a line for each of the other settings, in both orders of NMS."""
    done = results.done
    if not {NUM_TRAIN, "head_gain"} <= set(done.columns) or done[NUM_TRAIN].nunique() < 2:
        return
    settings = _varied(done, NUM_TRAIN)
    rows = []
    for key, part in done.groupby(["label", "method", *settings, NUM_TRAIN], sort=True, dropna=False):
        for order, (accepted, _) in ORDERS.items():
            names = [f"{order}_gain", f"{order}_gain_low", f"{order}_gain_high", accepted]
            if set(names) <= set(part.columns) and part[names].notna().all(axis=None):
                values = dict(zip(("gain", "low", "high", "accepted"), part[names].mean(), strict=True))
                rows.append(
                    dict(zip(["label", "method", *settings, NUM_TRAIN], key, strict=True), order=order, **values)
                )
    data = pd.DataFrame(rows)
    if data.empty:
        return
    scale, base = Scale.of(data[["low", "high"]].to_numpy().ravel()), "data.base_seed"
    panels = [
        Panel(f"{label}: {ORDERS[order][1]}", _images_panel(part, settings, order == "head", scale), (4.2, 3.0))
        for (label, order), part in data.groupby(["label", "order"])
    ]
    yield Figure(
        "images",
        "Gain in AP by the number of training images",
        "AP of the head's boxes less that of the base detector's. Mean over seeds; bars: mean ends of a seed's 95 % "
        "interval over images. Filled: the validation split accepts every seed; hollow: not, and the base detector's "
        "boxes are reported."
        + (" base_seed null: the base has seen the head's training images." if base in settings else ""),
        tuple(panels),
        data,
        paired=True,
    )


def _images_panel(
    rows: pd.DataFrame, settings: list[str], with_legend: bool, scale: Scale | None
) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        axes.axhline(0, color=TRUTH_COLOR, lw=1.2, alpha=0.7)
        lines = list(rows.groupby(["method", *settings], sort=True, dropna=False))
        for place, (key, part) in enumerate(lines):
            color = LINES[place % len(LINES)]
            name = ", ".join(
                [key[0], *(f"{s.rpartition('.')[2]} {plain(v)}" for s, v in zip(settings, key[1:], strict=True))]
            )
            x = part[NUM_TRAIN] * 1.04 ** (place - (len(lines) - 1) / 2)
            axes.plot(x, part["gain"], color=color, lw=1.4, label=name)
            axes.vlines(x, part["low"], part["high"], color=color, lw=1.4)
            for at, row in zip(x, part.to_dict("records"), strict=True):
                face = color if row["accepted"] == 1 else axes.get_facecolor()
                axes.plot(at, row["gain"], marker="o", mfc=face, mec=color, ms=5)
        axes.set_xscale("log")
        ticks = sorted(set(rows[NUM_TRAIN]))
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("training images")
        axes.set_ylabel("gain in AP, points")
        if scale:
            scale.apply(axes, "y")
        if with_legend:
            axes.legend(fontsize=7, loc="best")

    return draw


def stages_table(title: str, group: pd.DataFrame) -> Table:
    """Detection: what NMS by f and what refinement gain, apart, with the interval over images."""
    rows = []
    joint = "mean_" if "mean_ap_gain_low" in group else ""
    for method in methods_of(group):
        mine = group[group["method"] == method]

        def mean(metric: str, mine: pd.DataFrame = mine) -> str:
            values = mine.loc[mine["diverged"] == 0, metric].astype(float) if metric in mine else pd.Series(dtype=float)
            good = values[np.isfinite(values)]
            return number(float(good.mean()), 2)  # of none it is nan, printed as a dash

        gains = [
            Cell(f"{mean(name)} [{mean(f'{joint}{name}_low')}, {mean(f'{joint}{name}_high')}]")
            for name in ("ap_gain", "ap75_gain")
        ]
        stages = [Cell(mean(name)) for name in ("base_ap", "nms_ap", "ap", "base_ap75", "nms_ap75", "ap75")]
        rows.append([Cell(str(method)), *stages, *gains])
    header = [Cell("method"), Cell("AP: base"), Cell("NMS by f"), Cell("refined"), Cell("AP75: base"), Cell("NMS by f")]
    header += [Cell("refined"), Cell("gain in AP"), Cell("gain in AP75")]
    interval = "95 % bootstrap interval over images"
    of = f"the {interval} and seeds together" if joint else f"means over seeds of the ends of the {interval}"
    notes = [f"Means over seeds. In brackets: {of}."]
    return Table(f"{title}: what each stage gains", header, rows, notes)
