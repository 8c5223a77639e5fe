"""The figures hold the numbers that they show."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ebmbench.core import registry
from ebmbench.display import palette, rendering
from ebmbench.report import frame, html, plots
from tests.report.made_runs import METHODS_1D
from tests.report.test_tables import frame_of, noisy

MDN = "mdn"
METHODS = METHODS_1D  # the seven that the paper compares
METHOD_COLORS = {name: palette.color(name) for name in METHODS}
METHOD_MARKERS = {name: palette.marker(name) for name in METHODS}


def by_name(results: Path, sweep: str) -> dict[str, rendering.Figure]:
    return {figure.name: figure for figure in plots.all_figures(frame.find([sweep], results))}


def test_every_figure_of_the_paper_sweep(results: Path) -> None:
    figures = by_name(results, "paper_1d")
    assert set(figures) == {
        *("ranking", "ranking-others", "strip", "calibration", "pareto"),
        *(f"{kind}-{label}" for kind in ("densities", "slices", "curves") for label in ("1d-1", "1d-2")),
    }
    assert len(figures["densities-1d-1"].panels) == 8  # the truth and seven methods
    ranking = figures["ranking"].data
    row = ranking[(ranking["label"] == "1d-1") & (ranking["metric"] == "d_kl") & (ranking["method"] == "sm")].iloc[0]
    assert (row["seeds"], row["without_value"]) == (4, 1)
    metrics = [pd.read_csv(p) for p in (results / "runs").glob("1d-1-sm-*/metrics.csv")]
    assert row["mean"] == pytest.approx(metrics[0]["d_kl"].mean())
    assert row["low"] < row["mean"] < row["high"]


def test_a_sweep_over_draws_is_ranked_over_all_of_them_and_its_networks_apart() -> None:
    """A model that is the best at the first draw alone is not the best one."""
    axes = ("data.data_seed", "network")
    models = {"nce": "paper", MDN: None}
    values = {
        (method, draw, network): [0.1 if (method == "nce") == (draw == 0) else 0.3] * 3
        for method, network in models.items()
        for draw in range(4)
    }
    found = frame.Results("made", frame_of(values, axes), axes, tables=("draws",))
    ranking = next(figure for figure in plots.ranking(found) if figure.name == "ranking").data
    assert dict(zip(ranking["method"], ranking["mean"], strict=True)) == pytest.approx({"nce": 0.25, MDN: 0.15})
    assert set(ranking["draws"]) == {4} and len(found.models) == 2 * 4 * 3 and len(found.comparison) == 2 * 3
    assert [table.file for table in html.all_tables(found)] == ["draws.csv"]
    assert palette.color(MDN) != palette.color("ml-exact") and palette.marker(MDN) != palette.marker("ml-exact")


def test_the_m_sweep_is_drawn_against_m(results: Path) -> None:
    figure = by_name(results, "num_samples")["settings-method-num_samples"]
    table = figure.data[(figure.data["metric"] == "d_kl") & (figure.data["method"] == "nce")]
    assert sorted(table["method.num_samples"]) == [1, 4, 16, 64, 256, 1024]
    assert figure.legend == ("nce+", "nce", "ml-is", "kld-is")


def test_the_map_has_the_grid_s_means_and_frames_the_best(results: Path) -> None:
    grid = {"grid": {"by": "method.num_samples", "metrics": ["d_kl"]}}
    found = frame.find(["num_samples"], results)
    found = dataclasses.replace(found, tables=(grid,), frame=found.frame.assign(trusted=1))
    (figure,) = plots.named(found, "map")
    panel, data = figure.panels[0], figure.data
    table = data[(data["label"] == "1d-1") & (data["metric"] == "d_kl")].pivot(
        index="method", columns="method.num_samples", values="mean"
    )
    axes = axes_of(panel)
    methods = [tick.get_text() for tick in axes.get_yticklabels()]
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    for row, method in enumerate(methods):
        for column, value in enumerate(sorted(table.columns)):
            assert float(shown[column, row]) == pytest.approx(table.loc[method, value], rel=0.05)
    framed = {(patch.get_x() + 0.46, patch.get_y() + 0.42) for patch in axes.patches if not patch.get_fill()}
    best = {(column, methods.index(table[value].idxmin())) for column, value in enumerate(sorted(table.columns))}
    assert {(round(x), round(y)) for x, y in framed} == best


def test_the_map_puts_in_brackets_what_no_trusted_seed_supports(results: Path) -> None:
    grid = {"grid": {"by": "method.num_samples", "metrics": ["d_kl"]}}
    found = dataclasses.replace(frame.find(["num_samples"], results), tables=(grid,))
    rows = found.frame.copy()
    rows["trusted"] = 1
    rows.loc[(rows["method"] == "nce") & (rows["method.num_samples"] == 4), "trusted"] = 0
    (figure,) = plots.named(dataclasses.replace(found, frame=rows), "map")
    axes = axes_of(figure.panels[0])
    methods = [tick.get_text() for tick in axes.get_yticklabels()]
    unsure = {text.get_position() for text in axes.texts if text.get_text().startswith("(")}
    assert unsure == {(1, methods.index("nce"))}  # 1, 4, 16, ...


@pytest.mark.parametrize(("name", "count"), [("settings", 1), ("pareto", 2)])  # pareto: a panel for each cost
def test_a_mean_with_seeds_that_are_not_trusted_is_hollow(name: str, count: int) -> None:
    axes = ("method.num_samples",)
    rows = frame_of({(method, m): noisy(1 / m, key=m) for method in ("nce", "sm") for m in (1, 1024)}, axes)
    rows = rows.assign(train_seconds=1.0, energy_evaluations=2.0)
    for is_doubtful in (False, True):
        if is_doubtful:
            rows.loc[(rows["method"] == "nce") & (rows[axes[0]] == 1024) & (rows["seed"] == 3), "trusted"] = 0
        (figure,) = plots.named(frame.Results("made", rows, axes), name)
        drawn = [line for panel in figure.panels for line in axes_of(panel).lines]
        hollow = [line for line in drawn if len(line.get_xdata()) and line.get_markerfacecolor() == rendering.PAPER]
        assert {(line.get_color(), len(line.get_xdata())) for line in hollow} == (
            {(METHOD_COLORS["nce"], 1)} if is_doubtful else set()
        )
        assert len(hollow) == count * is_doubtful and bool(figure.note) == is_doubtful


def test_detection_has_its_stages_and_sizes(results: Path) -> None:
    figures = by_name(results, "shapes")
    assert {"ranking", "stages", "sizes", "pareto", "curves-detection-shapes"} <= set(figures)
    stages = figures["stages"].data
    assert set(stages["stage"]) == {"base_ap", "nms_ap", "ap", "base_ap75", "nms_ap75", "ap75"}
    metrics = pd.read_csv(next((results / "runs").glob("detection-shapes-sm-*/metrics.csv")))
    row = stages[(stages["method"] == "sm") & (stages["stage"] == "ap")].iloc[0]
    assert row[["low", "mean", "high"]].tolist() == pytest.approx(
        [metrics["ap"].agg(how) for how in ("min", "mean", "max")]
    )


def axes_of(panel: rendering.Panel) -> Axes:
    axes = Figure(figsize=panel.size).add_subplot()
    panel.draw(axes)
    return axes


@pytest.mark.parametrize("name", ["ranking", "strip", "pareto"])
def test_one_metric_has_one_scale_in_a_sweep(results: Path, name: str) -> None:
    seen: dict[str, set[tuple[float, ...]]] = {}
    for panel in by_name(results, "paper_1d")[name].panels:
        axes = axes_of(panel)
        if "enlarged" not in panel.title:
            seen.setdefault(axes.get_xlabel(), set()).add(
                (*axes.get_xlim(), *(axes.get_ylim() if name == "pareto" else ()))
            )
    assert seen and all(len(limits) == 1 for limits in seen.values())


def test_the_enlarged_strip_tells_the_good_methods_apart_and_counts_the_rest() -> None:
    figure = plots.strip(frame.load(Path(__file__).parent.parent.parent / "results" / "paper_1d"))
    assert figure is not None and figure.paired and len(figure.panels) == 16
    whole, near = (axes_of(panel) for panel in figure.panels[:2])
    (low, high), (left, right) = near.get_xlim(), whole.get_xlim()
    values = figure.data[figure.data["label"] == "1d-1"].set_index("method")["d_kl"]
    assert left < low < high < right and high < values["dsm"].min()
    counts = dict(zip([t.get_text() for t in near.get_yticklabels()], [t.get_text() for t in near.texts], strict=True))
    assert counts["sm (3‡)"] == "20 ›" and counts["ml-is"] == f"{(values['ml-is'] > high).sum()} ›".replace("0 ›", "")


def test_slices_are_not_cut_and_densities_have_a_scale() -> None:
    figures = list(plots.named(frame.load(Path(__file__).parent.parent.parent / "results" / "paper_1d"), "densities"))
    densities, slices = figures[:2]
    for panel, (_, own) in zip(slices.panels, slices.data.groupby("x"), strict=True):
        axes = axes_of(panel)
        seen = own[own["y"].between(*axes.get_xlim())].drop(columns=["x", "y"])
        assert axes.get_ylim()[1] > seen.max().max()
    first = axes_of(densities.panels[0])
    assert len(first.child_axes) == 1 and first.get_ylim()[0] > -2 and first.get_ylim()[1] < 2


def test_a_scale_is_logarithmic_for_wide_ranges_and_holds_the_ends_of_intervals() -> None:
    scale = rendering.Scale.of([0.1, 5.0], [-0.2, 0.05, 9.0])
    assert scale is not None and scale.log and 0.03 < scale.low < 0.05 and scale.high > 9
    linear = rendering.Scale.of([1.0, 2.0, np.nan], [-1.0])
    assert linear is not None and not linear.log and linear.low < -1
    assert rendering.Scale.of([np.nan]) is None
    assert rendering.Scale(1, 100, True).share(rendering.Scale(10, 1000)) == pytest.approx(0.5)


def test_the_pareto_front_is_what_nothing_beats(results: Path) -> None:
    table = by_name(results, "paper_1d")["pareto"].data
    table = table[(table["label"] == "1d-1") & (table["cost_name"] == "energy_evaluations")]
    for row in table.to_dict("records"):
        better = table[(table["cost"] <= row["cost"]) & (table["mean"] <= row["mean"])]
        beaten = ((better["cost"] < row["cost"]) | (better["mean"] < row["mean"])).any()
        assert row["on_front"] == (not beaten)


def test_an_svg_is_sound_themed_and_has_ids_of_its_own(results: Path) -> None:
    seen: set[str] = set()
    for figure in by_name(results, "shapes").values():
        for index, panel in enumerate(figure.panels[:1]):
            text = rendering.to_svg(panel, f"{figure.name}-{index}")
            root = ElementTree.fromstring(text)
            ids = {e.attrib["id"] for e in root.iter() if "id" in e.attrib}
            assert not ids & seen
            seen |= ids
            for target in re.findall(r'(?:url\(#|xlink:href="#)([^)"]+)', text):
                assert target in ids
            assert "var(--ink)" in text and rendering.INK not in text
            assert "<text" in text  # text stays text


def test_paper_figures_are_written_as_pdf_png_and_csv(results: Path, tmp_path: Path) -> None:
    (figure,) = plots.named(frame.find(["paper_1d"], results), "calibration")
    pdf, png, csv = rendering.save_figure(figure, tmp_path)
    assert pdf.read_bytes()[:5] == b"%PDF-"
    assert Image.open(png).size[0] > 1500
    assert len(pd.read_csv(csv)) == 13 * 19  # levels


def test_one_colour_and_marker_for_each_method() -> None:
    own = list(registry.known("method"))
    assert len({(palette.color(name), palette.marker(name)) for name in own}) == len(own) >= len(METHODS)
    assert len(set(METHOD_COLORS.values())) == len(set(METHOD_MARKERS.values())) == 7


def test_the_page_has_the_marker_of_each_method_and_none_vanishes_on_dark_paper() -> None:
    own = list(registry.known("method"))
    assert len({re.sub('fill: [^"]*', "", html.swatch(name)) for name in own}) == len(own)
    dark = rendering.dark_colors()
    assert palette.color("ml-exact") in dark and palette.color("nce") not in dark
    assert palette.on_dark("#000000", "#000000") == "#666666"  # luminance 0.13; 0.25 less white has 0.097, not 0.1
    for color, light in dark.items():
        assert f"var(--c{color[1:].lower()}, {color})" == rendering.themed(color) and light > color


def test_every_panel_of_a_figure_has_the_same_axis_of_the_setting() -> None:
    rows = frame_of({(m, k): noisy(1, 4) for m in ("nce", "ml-is") for k in (1, 2, 4, 16)}, ("method.num_samples",))
    rows["nll"] = rows["d_kl"].where(rows["method.num_samples"] > 2)  # alone, 4 and 16 would be linear
    figures = list(plots.settings(frame.Results("made", rows, ("method.num_samples",))))
    assert [figure.name for figure in figures] == ["settings-method-num_samples", "settings-method-num_samples-others"]
    assert [axes_of(panel).get_xscale() for figure in figures for panel in figure.panels] == ["log", "log"]


# Linear RGB to what a dichromat sees (Viénot, Brettel & Mollon 1999), protanopia and deuteranopia.
_DICHROMATS = {
    "protan": np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]]),
    "deutan": np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]]),
}


def _lab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.clip(to_xyz @ rgb / np.array([0.9505, 1.0, 1.089]), 0.008856, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", _DICHROMATS)
def test_the_colours_are_told_apart_by_the_colour_blind(kind: str) -> None:
    seen = {}
    for method, color in METHOD_COLORS.items():
        srgb = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        seen[method] = _lab(np.clip(_DICHROMATS[kind] @ linear, 0, 1))
    for first in METHODS:
        for second in METHODS:
            if first < second:
                assert np.linalg.norm(seen[first] - seen[second]) > 10, (first, second)


def test_a_curve_says_at_which_value_of_the_other_setting_it_is() -> None:
    rows = frame.load(Path(__file__).parent.parent.parent / "results" / "mcmc")
    figures = {figure.name.removeprefix("settings-method-"): figure for figure in plots.settings(rows)}
    assert figures["langevin_steps"].note.endswith("At method.langevin_step = 0.00625.")
    # The setting that the sweep's tables are by has a panel for each value of the other one.
    titles = [panel.title for panel in figures["langevin_step"].panels]
    assert "langevin_steps 1" in titles[0] and len(titles) == len(set(titles)) > 2
    alone = rows.done[rows.done["method.langevin_steps"] == 16]
    for figure in plots.settings(frame.Results("made", alone, ("method.langevin_steps", "method.langevin_step"))):
        assert "At " not in figure.note
