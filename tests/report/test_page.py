"""The page: self-contained, safe, and sound in a real browser."""

from __future__ import annotations

import base64
import io
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from ebmbench.core.errors import UserError
from tests.report.browser import CHROMIUM, Browser
from tests.sweep.made import command

HOSTILE = "<script>alert('error')</script>"  # made_runs puts it into an error, and below into a run's folder name


@pytest.fixture(scope="session")
def pages(results: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The paper sweep's page and the detection sweep's, made through the command line."""
    folder = tmp_path_factory.mktemp("pages")
    made = {name: folder / f"{name}.html" for name in ("paper_1d", "shapes")}
    for name, path in made.items():
        assert command("report", name, f"results_dir={results}", "--out", str(path)) == 0
    return made


def test_the_page_is_self_contained_and_small(pages: dict[str, Path]) -> None:
    for path in pages.values():
        text = path.read_text()
        assert len(text) < 10_000_000
        loaded = re.findall(r"""(?:\ssrc=|xlink:href=|<link [^>]*href=|url\()["']?([^"'\s>)]{0,12})""", text)
        assert loaded and {part.split(":")[0] if part.startswith("data:") else part[0] for part in loaded} <= {
            "data",
            "#",
        }


def test_what_runs_say_is_escaped(pages: dict[str, Path]) -> None:
    text = pages["paper_1d"].read_text()
    assert HOSTILE not in text
    assert "&lt;script&gt;alert(" in text


def test_it_opens_with_what_was_found_and_the_figure_that_shows_it(pages: dict[str, Path]) -> None:
    text = pages["paper_1d"].read_text()
    parts = ('id="found"', 'id="ranking"', 'id="headline"', 'id="tests"', 'id="reservations"', 'id="table-1"')
    found, figure, *rest = (text.index(part) for part in parts)
    assert [found, figure, *rest] == sorted([found, figure, *rest])
    head = text[rest[0] : text.index("</thead>", rest[0])]
    assert 2 <= head.count("<th ") <= 6
    said = re.sub(r"<[^>]+>", "", text[found:figure])
    assert "1D, dataset 1. " in said and "There is no ranking by mean D_KL" in said and "Too few seeds (4)" in text


def test_a_clone_makes_the_page_of_committed_results_without_their_runs(tmp_path: Path) -> None:
    from ebmbench.report import frame, html

    committed = Path(__file__).parent.parent.parent / "results"
    text = html.render(frame.load(committed / "paper_1d"), "")
    for name in ("ranking", "strip", "densities-1d-1", "slices-1d-2", "calibration", "pareto"):
        assert f'id="{name}"' in text, name
    assert "figures that need them are left out (curves)" in text and "as collected" not in text


def test_every_figure_has_its_numbers_beside_it(pages: dict[str, Path]) -> None:
    text = pages["paper_1d"].read_text()
    links = dict(re.findall(r'download="([^"]+)" href="data:text/csv;base64,([^"]+)"', text))
    assert {"ranking.csv", "strip.csv", "densities-1d-1.csv", "calibration.csv", "pareto.csv", "jobs.csv"} <= set(links)
    strip = pd.read_csv(io.BytesIO(base64.b64decode(links["strip.csv"])))
    assert len(strip) == 13 * 4 and strip["d_kl"].notna().sum() == 13 * 4 - 1


def test_the_default_place_is_beside_the_sweeps_tables(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = next(iter((results / "runs").glob("detection-*")))
    assert command("report", str(run), f"results_dir={results}") == 0
    assert capsys.readouterr().out.strip() == str(results / "report" / f"{run.name}.html")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nosuch"], "nosuch"),
        ([], "needs a sweep or run directories"),
        (["paper_1d", "--colour"], "--colour"),
        (["figures", "nosuch"], "nosuch"),
        (["paper_1d", "--out", "/dev/null/x.html"], "/dev/null"),
        (["paper_1d", "--out", "/"], "'/'"),
    ],
)
def test_bad_input_is_one_sentence(results: Path, argv: list[str], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        command("report", *[*argv, *([f"results_dir={results}"] if argv else [])])


def test_a_sweep_without_results_still_has_a_page(tmp_path: Path) -> None:
    from ebmbench.config.compose import compose
    from tests.report import made_runs

    config = compose(["task=1d", "method=nce", f"results_dir={tmp_path}"])
    made_runs.make_1d(config, state="failed", error=HOSTILE)
    assert command("report", str(config.run_dir), f"results_dir={tmp_path}", "--out", str(tmp_path / "x.html")) == 0
    assert "nothing to draw" in (tmp_path / "x.html").read_text()
    assert command("report", "figures", str(config.run_dir), f"results_dir={tmp_path}") == 1


def test_runs_of_which_every_seed_diverged_have_a_page_beside_those_of_another_task(
    results: Path, tmp_path: Path
) -> None:
    from ebmbench.config.compose import compose
    from ebmbench.report import frame, html
    from tests.report import made_runs

    runs = []
    for method in ("nce", "sm"):
        config = compose(["task=1d", f"method={method}", "seeds=2", f"results_dir={tmp_path}"])
        runs.append(str(made_runs.make_1d(config, diverged=(0, 1))))
    assert command("report", *[*runs[:1], f"results_dir={tmp_path}"]) == 0
    found = frame.find([*runs, *(str(path) for path in (results / "runs").glob("detection-*"))], tmp_path)
    tables = {table.title.partition(":")[0]: table for table in reversed(html.all_tables(found))}
    heads = {title: [cell.text for cell in table.header] for title, table in tables.items()}
    assert "D_KL ↓" in heads["1D, dataset 1"] and "AP ↑" not in heads["1D, dataset 1"]
    assert "AP ↑" in heads["Detection, shapes"] and "D_KL ↓" not in heads["Detection, shapes"]
    rows = [[cell.text for cell in row] for row in tables["1D, dataset 1"].rows]
    assert tables["1D, dataset 1"].rows[0][1].marks == "†"
    assert [row[1:] for row in rows] == [["–", "–"]] * 2
    lost = html.failures(found)
    assert [[cell.text for cell in row[1:]] for row in lost[0].rows] == [
        ["nce", "diverged", "2 of 2", "0 (step 812), 1 (step 812)"],
        ["sm", "diverged", "2 of 2", "0 (step 812), 1 (step 812)"],
    ]
    assert "1D, dataset 1: which method beats which" in html.render(found, "")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with Browser() as opened:
        yield opened


@pytest.mark.browser
@pytest.mark.parametrize("name", ["paper_1d", "shapes"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_in_a_browser(pages: dict[str, Path], browser: Browser, name: str, width: int, dark: bool) -> None:
    browser.console.clear()
    browser.requests.clear()
    browser.open(pages[name], width=width, dark=dark)
    assert browser.evaluate("[...document.querySelectorAll('details')].every(d => !d.open)")
    assert browser.evaluate("document.querySelector('#headline').getBoundingClientRect().width > 200")
    browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; }), 1")
    assert browser.console == []
    assert {url.split(":")[0] for url in browser.requests} <= {"file", "data"}
    assert sum(url.startswith("file:") for url in browser.requests) == 1  # the page itself
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    sections = browser.evaluate("[...document.querySelectorAll('section.figure')].map(s => s.id)")
    wanted = {
        "paper_1d": {"ranking", "strip", "densities-1d-2", "calibration", "pareto"},
        "shapes": {"stages", "sizes"},
    }
    assert wanted[name] <= set(sections)
    # Every panel is drawn, with something in it, at a size that can be seen, inside the window.
    sizes = browser.evaluate(
        "[...document.querySelectorAll('.panel > svg')].map(s => { const r = s.getBoundingClientRect();"
        " return [r.width, r.height, r.right, s.querySelectorAll('path, image, use').length]; })"
    )
    assert len(sizes) == browser.evaluate("document.querySelectorAll('section.figure .panel').length") > 4
    assert all(w > 120 and h > 80 and right <= width and shapes > 3 for w, h, right, shapes in sizes)
    if name == "shapes":
        images = browser.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0)")
        assert len(images) == 3 and all(images)
    # What the panels draw, their labels too, is inside of them; and so are the words of the navigation.
    outside = browser.evaluate(
        "[...document.querySelectorAll('.panel > svg')].flatMap(s => { const r = s.getBoundingClientRect();"
        " return [...s.querySelectorAll('text')].map(t => [t.textContent.trim(), t.getBoundingClientRect()])"
        " .filter(([, b]) => b.left < r.left - 2 || b.right > r.right + 2)"
        " .map(([text]) => text); })"
    )
    assert outside == []
    assert browser.evaluate(
        "[...document.querySelectorAll('nav a')].every(a => a.getBoundingClientRect().right <= innerWidth)"
    )
    if width == 1280:
        wide = browser.evaluate(
            "[...document.querySelectorAll('#headline .scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
        )
        assert wide == 0
    ink = browser.evaluate("getComputedStyle(document.querySelector('.panel svg text')).fill")
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    light, shade = (sum(map(int, re.findall(r"\d+", color)[:3])) for color in (ink, paper))
    assert (light > shade) == dark and abs(light - shade) > 500


@pytest.mark.browser
def test_tables_sort_both_ways_with_empty_values_last(pages: dict[str, Path], browser: Browser) -> None:
    browser.open(pages["paper_1d"])
    column = (
        "(() => { const t = document.querySelector('#table-1 table');"
        " const i = [...t.tHead.rows[0].cells].findIndex(c => c.textContent.startsWith('D_KL'));"
        " t.tHead.rows[0].cells[i].querySelector('button').click();"
        " return [t.tHead.rows[0].cells[i].ariaSort, ...[...t.tBodies[0].rows].map(r => r.cells[i].dataset.v)]; })()"
    )
    up, down = browser.evaluate(column), browser.evaluate(column)
    assert (up[0], down[0]) == ("ascending", "descending")
    values = [float(value) for value in up[1:]]
    assert len(values) == 7 and values == sorted(values) and [float(v) for v in down[1:]] == values[::-1]
    names = browser.evaluate(
        "(() => { const t = document.querySelector('#jobs table');"
        " t.tHead.rows[0].cells[1].querySelector('button').click();"
        " return [...t.tBodies[0].rows].map(r => r.cells[1].textContent.trim()); })()"
    )
    assert names == sorted(names) and len(names) == 14
    assert browser.console == []


@pytest.mark.browser
def test_numbers_stand_on_the_right_with_equal_decimals(pages: dict[str, Path], browser: Browser) -> None:
    browser.open(pages["paper_1d"])
    cells = browser.evaluate(
        "[...document.querySelectorAll('#table-1 tbody td:nth-child(2)')].map(c =>"
        " [getComputedStyle(c).textAlign, c.querySelector('span').textContent])"
    )
    assert len(cells) == 7 and {align for align, _ in cells} == {"right"}
    assert len({len(text.partition(".")[2]) for _, text in cells}) == 1


@pytest.mark.browser
def test_it_prints(pages: dict[str, Path], browser: Browser, tmp_path: Path) -> None:
    browser.open(pages["paper_1d"], dark=True, media="print")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes()[:5] == b"%PDF-"


@pytest.mark.slow
def test_280_runs_make_their_page_in_half_a_minute(tmp_path: Path) -> None:
    from ebmbench.config.compose import compose
    from ebmbench.config.run import RunConfig
    from tests.report import made_runs

    for dataset in (1, 2):
        for method in made_runs.METHODS_1D:
            overrides = ["task=1d", f"method={method}", f"data=law{dataset}", f"results_dir={tmp_path}"]
            raw = compose([*overrides, "+sweep={name: single}"]).to_dict()
            for seed in range(20):
                made_runs.make_1d(RunConfig.from_dict(raw | {"seeds": [seed]}))
    started = time.process_time()
    assert command("report", "single", f"results_dir={tmp_path}") == 0
    seconds = time.process_time() - started
    page = tmp_path / "single" / "report.html"
    print(f"{seconds:.1f} s of processor time, {page.stat().st_size / 1e6:.1f} MB")
    assert seconds < 30
    assert page.stat().st_size < 10_000_000
    text = page.read_text()
    assert text.count("1d-2-ml-is-") >= 20 and "The first 200 of 280; runs.csv has them all." in text
