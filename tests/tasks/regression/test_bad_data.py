"""Tables with mistakes: each ends in one sentence, or in a treatment that is stated."""

from __future__ import annotations

import codecs
import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from ebmbench.cli.main import main
from ebmbench.config.compose import compose
from ebmbench.core.errors import UserError
from ebmbench.core.extras import has
from ebmbench.supports.integers import Integers
from ebmbench.supports.measure import BaseDensity
from ebmbench.supports.real import Real
from ebmbench.supports.targets import Targets
from ebmbench.tasks.regression import fitting
from ebmbench.tasks.regression.data import function, transforms
from ebmbench.tasks.regression.data.base import Split, check_targets
from ebmbench.tasks.regression.data.cells import amounts, days
from ebmbench.tasks.regression.data.files import read_table
from ebmbench.tasks.regression.data.function import arrays_split
from ebmbench.tasks.regression.data.images import Images
from ebmbench.tasks.regression.data.notes import column_notes, outside_notes, target_notes
from ebmbench.tasks.regression.data.table import PUBLISHED, UCI, Table
from ebmbench.tasks.regression.scaling import Scaling


def good(count: int = 60) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"a": random.normal(size=count).round(3), "b": random.integers(0, 9, count)})
    return frame.assign(y=(2 * frame["a"] + random.normal(size=count)).round(3))


SHARED = Path(os.environ.get("EBMBENCH_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
BUILT_IN = ("diabetes", "breast_cancer", "iris", "wine", "linnerud", "digits")
NO_PARQUET = "is no Parquet file" if has("pyarrow") else "needs pyarrow"
PLAIN = good().to_csv(index=False)


def lines(row: str, count: int = 40, header: str = "a,b,y") -> str:
    """A file whose rows are made from their number i."""
    return header + "\n" + "\n".join(eval(f"f{row!r}", {"i": i}) for i in range(count))


def load(path: Path, **settings: object) -> Split:
    table = Table.model_validate({"path": str(path), **settings})
    split = table.load()
    check_targets(split)
    supports = table.supports(len(split.target_names))
    targets = Targets.of(split.target_names, supports, split.train.y, BaseDensity(), True)
    scaling = Scaling.of(split.train.x, targets)
    for part in (split.train, split.val, split.test):
        assert scaling.x(part.x).isfinite().all() and scaling.y(part.y).float().isfinite().all()
    spread = scaling.y(split.train.y).float().std(0, unbiased=False)
    torch.testing.assert_close(spread, torch.ones_like(spread), rtol=1e-3, atol=0)
    return split


def changed(row: int, column: str, value: object) -> str:
    frame = good().astype(object)
    frame.loc[row, column] = value
    return frame.to_csv(index=False)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            changed(3, "y", "n.a."),
            "the target 'y' of table.csv holds the text 'n.a.' in row 3, counting from 0; give numbers",
        ),
        (changed(3, "y", 1e308), "the column 'y' holds 1e+308 in row 3, counting from 0, beyond 1e+38"),
        (changed(3, "a", 1e308), "the column 'a' holds 1e+308 in row 3, counting from 0, beyond 1e+38"),
        (good().assign(y=3.0).to_csv(index=False), "the target 'y' is 3 in all training rows"),
        (good().assign(y=good()["y"] * 1e-40).to_csv(index=False), "varies too little for its size"),
        (good(1).to_csv(index=False), "the data have 1 row with a target; at least 10 are needed"),
        (good(2).to_csv(index=False), "the data have 2 rows with a target; at least 10 are needed"),
        (good().assign(y=np.nan).to_csv(index=False), "the data have 0 rows with a target"),
        ("a,b,y\n", "holds no rows"),
        ("", "is no CSV file that can be read"),
        ("\n\n\n", "is no CSV file that can be read"),
        ("a,a,y\n1,2,3\n", "has 2 columns named 'a'; rename one"),
        (lines("{i},{i % 7},{i * 1.5}", header="0,0,0.0"), "begins with a row of numbers"),
        (lines("{i},{'ab'[i % 2]},{i * 1.5}", header="0.5,a,7"), "begins with a row of cells like those below"),
        (lines("{i},5;{i % 7},5;{i},5", header="0,5;1,5;2,5"), "begins with a row of numbers"),
        (lines("{i}", header="y"), "has one column, 'y'; a target and an input are two"),
        (PLAIN.replace(",", " "), "has one column, 'a b y'; a target and an input are two"),
        ("Report\n\n" + PLAIN, "begins with the line 'Report', which is one cell, and line 3 has 3"),
        (lines("{i}.5,{i % 7},{i},1,2"), "has 3 names of columns in its first line, and 5 cells in a row"),
        (
            lines('{i}.5,{i % 7},"{i + 20},250"').replace('"20,250"', "20.25"),
            "the target 'y' of table.csv holds the text",
        ),
        (
            lines("{i % 5},{i % 7},2024-01-{i % 28 + 1:02d}"),
            "the target 'y' of table.csv holds the text '2024-01-01' in row 0",
        ),
        (
            lines("{i % 5},{i % 7},{'low' if i % 2 else 'high'}"),
            "holds the text 'high' in row 0, counting from 0; give numbers",
        ),
        (lines("5,,{i}"), "no column is left as an input"),
        (lines("id{i},x,{i}"), "no column is left as an input"),
        ("a,b,y\n" + "1,2,3\n" * 20 + "1,2,3,4,5\n", "is no CSV file that can be read"),
        ('a,b,y\n"1,2,3\n' + "1,2,3\n" * 20, "is no CSV file that can be read"),
        (PLAIN.replace("0.", "\0.", 1), "it holds bytes that are no text"),
        (gzip.compress(PLAIN.encode()), "it is compressed by gzip; unpack it first"),
        (b"PK\x03\x04" + bytes(60), "it is an Excel file or a zip archive; save the table as CSV"),
        (b"PAR1" + bytes(60), "it is a Parquet file; give it a name that ends in .parquet"),
        (bytes(range(256)) * 20, "it holds bytes that are no text"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(tmp_path: Path, content: str | bytes, sentence: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        load(path)
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "features", "note"),
    [
        (changed(3, "a", np.nan), ["a", "b"], None),
        (changed(3, "a", "oops"), ["a", "b"], "text in 1 row (such as 'oops' in row 3, counting from 0)"),
        (changed(3, "a", np.inf), ["a", "b"], "infinity in 1 row (such as inf in row 3"),
        (changed(3, "y", -np.inf), ["a", "b"], "1 row without a target is left out"),
        (changed(3, "y", np.nan), ["a", "b"], "1 row without a target is left out"),
        (good().assign(c=good()["a"])[["c", "a", "y"]].to_csv(index=False), ["c"], "left out, as a copy of 'c': a"),
        (good().assign(c=good()["y"]).to_csv(index=False), ["a", "b"], "left out, as a copy of the target 'c': y"),
        (PLAIN.replace(",", ";"), ["a", "b"], None),
        (PLAIN.replace(",", ";").replace(".", ","), ["a", "b"], "the comma is taken as the decimal point"),
        (PLAIN.replace(",", "\t"), ["a", "b"], None),
        (PLAIN.replace(",", "|"), ["a", "b"], None),
        ("sep=;\n" + PLAIN.replace(",", ";"), ["a", "b"], None),
        (PLAIN.replace("\n", ",\n"), ["a", "b"], None),
        (PLAIN.replace("\n", ",\n").replace("y,", "y", 1), ["a", "b"], None),
        (lines("r{i},{i}.5,{i % 7},{i}"), ["a", "b"], "the first one is taken for the row's name"),
        (lines("{i % 28 + 1}.01.2024;{i % 7},5;{i},5", header="a;b;y"), ["a", "b"], "the comma is taken as the"),
        (lines("{i % 28 + 1}.01.2024,{i % 7},{i}"), ["a", "b"], "dates become days: a"),
        (lines("{i % 12 + 1}/{i % 28 + 1}/2024,{i % 7},{i}"), ["a", "b"], "dates become days: a (month, day, year)"),
        (lines("{i % 28 + 1}/{i % 12 + 1}/24,{i % 7},{i}"), ["a", "b"], "dates become days: a (day, month, year)"),
        (lines("{i % 12 + 1}/{i % 10 + 1}/2024,{i % 7},{i}"), ["b"], "left out, as dates such as '1/1/2024'"),
        (lines("{i % 20 + 1}/{i % 20 + 1}/2024,{i % 7},{i}"), ["b"], "tells day from month, or cells differ"),
        (lines("{(i * 7) % 40},{i % 7},{i}"), ["b"], "it only counts or names the rows: a"),
        (lines("{i * 3 + 1000},{i % 7},{i}", header="id,b,y"), ["b"], "only counts or names the rows: id"),
        (lines("{i % 5},{i * 3 + 9},{i}", header="a,customer_id,y"), ["a"], "counts or names the rows: customer_id"),
        (lines("{i % 5},{i % 7},{i % 3 == 0}"), ["a", "b"], "the target 'y' is true or false: 1 stands for true"),
        (lines("{i % 5},{i % 7},{'-' if i == 3 else i}"), ["a", "b"], "1 row without a target is left out"),
        (lines("{i} %,{i % 7},{2 * i}"), ["a", "b"], "the column 'a' has numbers such as '0 %', read as 0"),
        (lines("€{i}.50,{i % 7},{i}"), ["a", "b"], "numbers such as '€0.50', read as 0.5"),
        (lines("{i % 5},{i % 7},{i} %"), ["a", "b"], "the column 'y' has numbers such as '0 %', read as 0"),
        (lines('"{i + 1},250",{i % 7},{i}'), ["a", "b"], "numbers such as '1,250', read as 1250"),
        (lines("{i + 1}'250,{i % 7},{i}"), ["a", "b"], "read as 1250"),
        (lines("0,{i + 10};{i % 7}.5;{i}", header="a;b;y"), ["a", "b"], "numbers such as '0,10', read as 0.1"),
        (lines("{i + 1}.250,5;{i % 7},5;{i},5", header="a;b;y"), ["a", "b"], "the comma is taken as the decimal"),
        (lines("{i % 7},5;{i % 5},5;{i},5", header='"a, m";"b, m";y'), ["a, m", "b, m"], "the comma is taken as the"),
        (PLAIN.replace("\n", " , \n"), ["a", "b"], None),
        (PLAIN.replace("\n", "\r\n"), ["a", "b"], None),
        (PLAIN.replace("\n", "\r"), ["a", "b"], None),
        ("\n\n" + PLAIN, ["a", "b"], None),
        (codecs.BOM_UTF8 + PLAIN.encode(), ["a", "b"], None),
        (PLAIN.encode("utf-16"), ["a", "b"], "it was read as UTF-16"),
        (PLAIN.replace("a,", "größe,").encode("latin-1"), ["größe", "b"], "was read as Latin-1"),
        (lines('"x, {i % 2}",{i % 7},{i}'), ["a=x, 0", "a=x, 1", "b"], "one input for each category: a (2)"),
        (lines('"{i % 9}"," {i % 7} ","{i}"'), ["a", "b"], None),
        (lines(" {i % 9} , {i % 7} , {i} ", header=" a , b , y "), ["a", "b"], None),
        (lines("{i % 2 == 0},{i % 7},{i}"), ["a", "b"], None),
        (lines("2024-01-{i % 28 + 1:02d},{i % 7},{i}"), ["a", "b"], "dates become days: a"),
        (lines("2024-01-{i % 28 + 1:02d} 12:00:00,{i % 7},{i}"), ["a", "b"], "dates become days: a"),
        (lines("2024/01/{i % 28 + 1:02d},{i % 7},{i}"), ["a", "b"], "dates become days: a"),
        (lines("{i % 12 + 1}/{i % 28 + 1}/24 9:30 PM,{i % 7},{i}"), ["a", "b"], "days: a (month, day, year)"),
        (lines("{i},{i % 7},{i}").replace("\n", "\n\n"), ["b"], "it only counts or names the rows: a"),
        (good().assign(z=1.0, w=None)[["a", "z", "w", "y"]].to_csv(index=False), ["a"], "left out, as constant: z"),
        (good().assign(b=[f"n{i}" for i in range(60)]).to_csv(index=False), ["a"], "a different category in most"),
    ],
)  # fmt: skip
def test_what_can_be_used_is_and_it_is_said_how(
    tmp_path: Path, content: str | bytes, features: list[str], note: str | None
) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    split = load(path)
    assert [name for name in split.feature_names if "is missing" not in name] == features
    assert note is None or any(note in said for said in split.notes), split.notes


def test_a_gap_becomes_the_median_with_an_input_that_says_so(tmp_path: Path) -> None:
    frame = good()
    frame.loc[::3, "a"] = np.nan
    frame.to_csv(tmp_path / "table.csv", index=False)
    split = load(tmp_path / "table.csv")
    assert split.feature_names == ["a", "a is missing", "b"]
    train = frame.iloc[split.train.rows]
    gap = torch.tensor(train["a"].isna().to_numpy())
    assert torch.equal(split.train.x[:, 1] == 1, gap)
    torch.testing.assert_close(split.train.x[gap, 0], torch.full((int(gap.sum()),), float(train["a"].median())))


def test_numbers_far_from_zero_keep_their_differences(tmp_path: Path) -> None:
    """Seconds since 1970 have steps of 128 in single precision."""
    frame = good().assign(a=1.7e9 + np.arange(60) % 7, y=1e9 + good()["y"])
    frame.to_csv(tmp_path / "table.csv", index=False)
    split = load(tmp_path / "table.csv")
    assert len(split.train.x[:, 0].unique()) == 7
    again = transforms.restore(split.transform.plain())
    torch.testing.assert_close(again.read(frame.iloc[split.train.rows])[0], split.train.x)


def test_dates_are_days_in_new_tables_too(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(lines("2024-01-{i % 28 + 1:02d},{i % 7},{i}"))
    transform = load(tmp_path / "table.csv").transform
    x = transform.read(pd.DataFrame({"a": ["2024-01-31", "2024-02-01", None], "b": [1, 1, 1]}))[0]
    assert x[1, 0] - x[0, 0] == 1
    with pytest.raises(UserError, match=r"holds no date such as 2024-01-31 \(but '01/02/2024'\)"):
        transform.read(pd.DataFrame({"a": ["01/02/2024"], "b": [1]}))
    _, notes = transform.read(pd.DataFrame({"a": ["2024-01-31", None], "b": [1, 1]}))
    assert "the column 'a' has no date in 1 row: training's median, 2024-01-09, is taken" in notes[0]


def test_dates_with_slashes_are_read_in_new_tables_as_training_s_were(tmp_path: Path) -> None:
    """The order of day and month is that of the training table, where a number above 12 tells it."""
    (tmp_path / "table.csv").write_text(lines("{i % 28 + 1}/{i % 12 + 1}/2024,{i % 7},{i}"))
    transform = transforms.restore(load(tmp_path / "table.csv").transform.plain())
    x = transform.read(pd.DataFrame({"a": ["3/4/2024", "2024-04-03", "2/4/2024"], "b": [1, 1, 1]}))[0]
    assert (x[:, 0] - x[0, 0]).tolist() == [0, 0, -1]


def test_the_time_of_day_is_a_part_of_the_day() -> None:
    texts = [
        "31/12/24 18:00",
        "31/12/24",
        "2024-12-31T06:00:00",
        "31/12/24 18:00:00",
        "31/12/24  6:00 PM",
        "31/12/24 later",
    ]
    made = days(pd.Series(texts), "%d %m %y")
    np.testing.assert_allclose(made - made[1], [0.75, 0, 0.25, 0.75, 0.75, np.nan])


def test_new_numbers_far_outside_those_of_training_are_named(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(lines("2024-01-{i % 28 + 1:02d},{i % 7},{i}"))
    transform = transforms.restore(load(tmp_path / "table.csv").transform.plain())
    _, notes = transform.read(pd.DataFrame({"a": ["2024-01-31", "2024-02-20"], "b": [-5.9, 12]}))
    assert notes == []
    _, notes = transform.read(pd.DataFrame({"a": ["2024-01-31", "2026-02-20", "2025-01-01"], "b": [1, -7, None]}))
    first, _, second = notes
    assert "'a' is far outside of training's 2024-01-01 to 2024-01-26 in 2 rows (such as 2026-02-20 in row 1, " in first
    assert "in row 1, counting from 0): no training row says what holds there" in first
    assert "'b' is far outside of training's 0 to 6 in 1 row (such as -7 in row 1, counting from 0)" in second


def test_amounts_are_the_numbers_that_people_mean() -> None:
    for texts, numbers in (
        (["12 %", "-3%", "0.5 %"], [12, -3, 0.5]),
        (["€ 1,250.50", "$-3", "−7 EUR", "£1,000,000"], [1250.5, -3, -7, 1e6]),
        (["1.250,5", "1.000.000", "3"], [1250.5, 1e6, 3]),
        (["1 250", "1\u202f250,5", "1'250"], [1250, 1250.5, 1250]),
        (["1,250", "2,500", "7"], [1250, 2500, 7]),
        (["1,250", "0,5", "7.25"], [1.25, 0.5, 7.25]),
        (["1,250", "7.25"], [np.nan, 7.25]),  # either a thousand or a decimal comma
        (["-", "?", None, "3"], [np.nan, np.nan, np.nan, 3]),
        (["x 3", "1.2.3", "31.12.2024", "2024-01-01", "3"], [np.nan] * 4 + [3]),
        (["1248 CC", "900 cc", "CC", "1,197 CC"], [1248, 900, np.nan, 1197]),
        (["23.4 kmpl", "17 km/kg", "20 kmpl", "21"], [23.4, np.nan, 20, 21]),  # another unit is another number
        (["€110.5M", "€600K"], [110.5e6, 600e3]),
        (["5M", "7M"], [5, 7]),  # metres or millions: a scale, either way
        (["10,000+", "500+"], [10000, 500]),
        (["3 years", "1 year", "10 Years"], [3, 1, 10]),
    ):
        np.testing.assert_allclose(amounts(pd.Series(texts)).numbers, numbers, err_msg=str(texts))


def test_new_rows_are_read_as_the_training_rows_were(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(lines("{i} %,{i % 28 + 1}.01.2024,{2 * i}"))
    transform = load(tmp_path / "table.csv").transform
    new = pd.DataFrame({"a": ["5 %", "-", 7], "b": ["3.1.2024", "2024-01-03", "04.01.2024"]})
    x, notes = transform.read(new)
    assert x[0, 0] == 5 and x[2, 0] == 7 and x[0, 1] == x[1, 1] == x[2, 1] - 1
    assert any("'5 %', read as 5" in note for note in notes) and any("has no number in 1 row" in n for n in notes)


def test_a_column_may_be_named_by_a_number_or_have_signs_in_its_name(tmp_path: Path) -> None:
    words = ["task=regression", "data=table", "data.path=~/a b.csv", "data.targets=price €"]
    data = compose(words).task.data  # type: ignore[attr-defined]
    assert data.path == "~/a b.csv" and data.targets == ("price €",)
    with pytest.raises(UserError, match=r"a text with signs in it in quotes"):
        compose(["task=regression", "data=table", "data.targets=size (m²)"])
    good().rename(columns={"y": "2024"}).to_csv(tmp_path / "t.csv", index=False)
    for targets in ("2024", "[2024]", "['2024']"):
        words = ["task=regression", "data=table", f"data.path={tmp_path}/t.csv", f"data.targets={targets}"]
        assert compose(words).task.data.targets == ("2024",)  # type: ignore[attr-defined]


def test_a_value_that_sets_the_scale_of_all_is_said(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(lines("{i % 5},{i % 7},{10**9 if i == 30 else i}"))
    for seed in range(10):
        split = Table(path=str(tmp_path / "table.csv"), split_seed=seed).load()
        notes = target_notes(split, [Real()])
        assert len(notes) == (30 in split.train.rows)
        assert all(
            "the target 'y' is 1e+09 in row 30, counting from 0" in note and "remove it if it is an error" in note
            for note in notes
        )


def test_a_single_row_is_not_counted_as_several(tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(
        "import numpy as np\ndef load():\n    x = np.arange(40.0)\n    return x, np.where(x == 3, np.nan, x)\n"
    )
    assert function.Function(function=f"{tmp_path}/made.py:load").load().notes == ["1 row without a target is left out"]
    with pytest.raises(UserError, match="0 for training, 1 for validation, 9 for test"):
        arrays_split(np.arange(10.0), np.arange(10.0), test_fraction=0.9)


def test_an_input_that_sets_the_scale_of_all_is_said(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"x": random.normal(size=400), "z": random.normal(size=400)})
    frame["y"] = 2 * frame["x"] + 0.1 * random.normal(size=400)
    (tmp_path / "splits.json").write_text('{"test": [[300, 301, 302]]}')
    for rows, value in ((range(30, 40), 1e7), (range(80), -99999), ([7], 1e30)):
        rows = list(rows)
        made = frame.assign(x=frame["x"].where(~frame.index.isin(rows), value))
        made.to_csv(tmp_path / "table.csv", index=False)
        split = Table(path=str(tmp_path / "table.csv"), split_file=str(tmp_path / "splits.json")).load()
        bad, count = sorted(set(rows) & set(split.train.rows.tolist())), len(split.train)
        said = (
            f"the input 'x' is {value:g} in row {bad[0]}, counting from 0, and between -"
            if len(bad) == 1
            else f"the input 'x' is {value:g} in {len(bad)} of {count} training rows and far from it in all others"
        )
        assert sum(said in note for note in split.notes) == 1, (value, split.notes)
    array = frame[["x", "z"]].to_numpy().copy()
    array[::40, 1] = 1e7
    assert [note[:24] for note in arrays_split(array, frame["y"].to_numpy()).notes] == ["the input 'x2' is 1e+07 "]


def test_ordinary_columns_are_not_said_to_be_far_away() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    sets = [getattr(datasets, f"load_{name}")(as_frame=True).frame for name in BUILT_IN]
    sets += [pd.read_csv(SHARED / "uci" / name / "data.csv") for name in PUBLISHED if (SHARED / "uci" / name).is_dir()]
    random = np.random.default_rng(0)
    zeros = np.where(random.random(1000) < 0.95, 0, random.integers(100, 99_999, 1000))
    skewed = {"money": random.lognormal(0, 2, 1000), "counts": random.poisson(0.1, 1000), "mostly zero": zeros}
    skewed |= {"one flag": np.arange(1000) == 3, "wait": random.exponential(size=1000), "one value": np.ones(1000)}
    sets.append(pd.DataFrame(skewed))
    assert len(sets) >= 1 + len(BUILT_IN) and sum(frame.shape[1] for frame in sets) > 100
    for frame in sets:
        for name in frame:
            assert not column_notes(str(name), frame[name].to_numpy(np.float64), None)


def test_a_target_outside_the_training_range_is_said_and_has_a_density(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = good()
    frame.loc[0, "y"] = 1000.0
    frame.to_csv(tmp_path / "table.csv", index=False)
    (tmp_path / "splits.json").write_text('{"test": [[0, 1, 2, 3]]}')
    words = ["task=regression", "data=table", f"data.path={tmp_path}/table.csv", "method=nce", "+experiment=smoke"]
    words += [f"data.split_file={tmp_path}/splits.json", f"results_dir={tmp_path}", "data.name=outside"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "1 of 4 test rows has a target 'y' outside the range of the training rows" in said.err
    nll = float(next(line.split()[1] for line in said.out.splitlines() if line.strip().startswith("nll ")))
    assert np.isfinite(nll) and nll > 100


def test_the_range_of_targets_far_from_zero_has_two_ends(tmp_path: Path) -> None:
    good().assign(y=1e9 + np.linspace(-0.01, 0.01, 60)).to_csv(tmp_path / "table.csv", index=False)
    (tmp_path / "splits.json").write_text('{"test": [[0, 1, 58, 59]]}')
    split = Table(path=str(tmp_path / "table.csv"), split_file=str(tmp_path / "splits.json")).load()
    [note] = outside_notes(split)
    assert "of the training rows, 999999999.99" in note and " to 1000000000.0" in note, note


@pytest.mark.parametrize(
    ("name", "sentence"), [("missing.csv", "is not a file"), ("folder.csv", "is not a file"), ("x.parquet", NO_PARQUET)]
)
def test_what_is_no_file_of_the_kind_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, sentence: str
) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "x.parquet").write_text(PLAIN)
    words = ["task=regression", "data=table", f"data.path={tmp_path / name}", "method=nce", f"results_dir={tmp_path}"]
    assert main(words) != 0
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error


def test_a_table_that_does_not_fit_into_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    path.write_text("a,b,c,y\n" + "0.123456,1.5,2.25,3.75\n" * 200_000)
    with pytest.raises(UserError, match=r"takes about \d+ MB of memory where 5 MB may be used"):
        read_table(path, 5)
    frame, _ = read_table(path, 500)
    assert len(frame) == 200_000


def test_parquet_keeps_types_and_a_named_index(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = good().assign(day=pd.date_range("2024", periods=60), kind=pd.Categorical(["x", "z"] * 30), flag=True)
    frame["flag"] = frame["b"] > 4
    frame[["a", "day", "kind", "flag", "y"]].set_index("a").to_parquet(tmp_path / "t.parquet")
    split = load(tmp_path / "t.parquet")
    assert split.feature_names == ["a", "day", "kind=x", "kind=z", "flag"]
    good().assign(b=pd.to_timedelta([None, *range(59)], unit="h")).to_parquet(tmp_path / "lasts.parquet")
    split = load(tmp_path / "lasts.parquet")
    assert split.feature_names == ["a", "b", "b is missing"] and "holds durations, which become days" in split.notes[1]
    assert split.transform.read(pd.DataFrame({"a": 1.0, "b": [pd.Timedelta(days=7)]}))[0][0, 1] == 7
    good().assign(y=pd.date_range("2024", periods=60)).to_parquet(tmp_path / "when.parquet")
    with pytest.raises(UserError, match=r"the target 'y' of when.parquet holds dates"):
        load(tmp_path / "when.parquet")
    good().assign(b=[[1, 2]] * 60).to_parquet(tmp_path / "nested.parquet")
    with pytest.raises(UserError, match=r"the column 'b' of .* holds lists"):
        load(tmp_path / "nested.parquet")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "splits.json cannot be read (No such file"),
        ("", 'is no file of splits: {"test": [[row, ...], ...]} is expected'),
        ('{"test": [[1, 2]', "is no file of splits"),
        ("[[1, 2]]", "is no file of splits"),
        ('{"train": [[1, 2]]}', "is no file of splits"),
        ('{"test": []}', "is no file of splits"),
        ('{"test": {"0": [1, 2]}}', "is no file of splits"),
        ('{"test": [1, 2]}', "split 0 must be a list of rows from 0 to 59"),
        ('{"test": [[]]}', "split 0 must be a list of rows from 0 to 59"),
        ('{"test": [[-1, 2]]}', "split 0 holds -1; give rows, whole numbers from 0 to 59"),
        ('{"test": [[1, 60]]}', "split 0 holds 60; give rows"),
        ('{"test": [[1, 2.5]]}', "split 0 holds 2.5; give rows"),
        ('{"test": [[1, 1e30]]}', "split 0 holds 1e+30; give rows"),
        ('{"test": [[1, 100000000000000000000]]}', "split 0 holds 100000000000000000000; give rows"),
        ('{"test": [[1, NaN]]}', "split 0 holds nan; give rows"),
        ('{"test": [[null, 1]]}', "split 0 holds None; give rows"),
        ('{"test": [["1", 2]]}', "split 0 holds '1'; give rows"),
        ('{"test": [[true, 2]]}', "split 0 holds True; give rows"),
        ('{"test": [[[1], [2, 3]]]}', "split 0 holds [1]; give rows"),
        ('{"test": [[1, 2, 2, 1, 3]]}', "split 0 names 2 rows more than once"),
        (f'{{"test": [{list(range(60))}]}}', "split 0 leaves 0 rows to train with"),
        ('{"test": [[1, 2]]}', None),
        ('{"test": [[1, 2], ["x"]]}', None),
    ],
)
def test_a_split_that_is_none_is_one_sentence(tmp_path: Path, content: str | None, sentence: str | None) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/data.csv").write_text(PLAIN)
    if content is not None:
        (tmp_path / "mine/splits.json").write_text(content)
    data = UCI(name="mine", root=str(tmp_path))
    if sentence is None:
        assert data.load().test.rows.tolist() == [1, 2]
        return
    with pytest.raises(UserError) as error:
        data.load()
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_uci_sets_go_by_their_contents_and_the_published_ones_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def identity(folder: str, csv: str, splits: str, name: str = "mine") -> dict[str, object]:
        (place := tmp_path / folder / name).mkdir(parents=True)
        (place / "data.csv").write_text(csv)
        (place / "splits.json").write_text(splits)
        return UCI(name=name, root=str(tmp_path / folder)).identity()

    one = identity("one", PLAIN, '{"test": [[1]]}')
    assert identity("moved", PLAIN, '{"test": [[1]]}') == one
    others = [identity("two", PLAIN + "1,2,3\n", '{"test": [[1]]}'), identity("three", PLAIN, '{"test": [[2]]}')]
    assert one not in others and others[0] != others[1]
    monkeypatch.setitem(PUBLISHED, "mine", one["contents"])
    assert UCI(name="mine", root=str(tmp_path / "one")).identity() == UCI(name="mine").identity()
    assert "contents" in identity("renamed", PLAIN, '{"test": [[1]]}', "other")
    assert "contents" in UCI(name="mine", root=str(tmp_path / "two")).identity()


def test_a_split_too_many_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/data.csv").write_text(PLAIN)
    for content, there in (("[[1]]", "one split, 0"), ("[[1], [2]]", "2 splits, 0 to 1")):
        (tmp_path / "mine/splits.json").write_text(f'{{"test": {content}}}')
        with pytest.raises(UserError, match=rf"data.split=7: .*splits.json has {there}$"):
            UCI(name="mine", root=str(tmp_path), split=7).load()


@pytest.mark.parametrize(
    ("name", "root", "sentence"),
    [
        ("wine-red", ".", "wine-red holds no data.csv; did you mean wine?"),
        ("Naval", ".", "Naval holds no data.csv; did you mean naval?"),
        ("protein", ".", "protein holds no data.csv; choose from naval, wine"),
        ("wine", "wine", "data.csv; give the folder above: data.root="),
        ("wine", "nowhere", "nowhere is no folder"),
        ("wine", "wine/data.csv", "data.csv is no folder"),
        ("wine", "empty", "empty holds no set at all"),
        ("naval", ".", "data.csv has no column 'y', which must be the target; it has a, b, Y"),
    ],
)
def test_a_set_that_is_not_there_is_one_sentence(tmp_path: Path, name: str, root: str, sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    for folder, content in (("wine", PLAIN), ("naval", PLAIN.replace("y", "Y", 1))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data.csv").write_text(content)
    with pytest.raises(UserError) as error:
        UCI(name=name, root=str(tmp_path / root)).load()
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"targets": ("y", "y")}, "data.targets names 'y' more than once"),
        ({"features": ("a", "a"), "targets": ("y",)}, "data.features names 'a' more than once"),
        ({"features": ("a", "y"), "targets": ("y",)}, "data.targets and data.features both name 'y'"),
        ({"targets": ("y",), "ignore": ("y",)}, "data.targets and data.ignore both name 'y'"),
        ({"targets": ("y",), "categorical": ("y",)}, "data.targets and data.categorical both name 'y'"),
        ({"features": ("a",), "ignore": ("a",)}, "data.features and data.ignore both name 'a'"),
        ({"targets": ("z",)}, "data.targets: table.csv has no column 'z'; choose from a, b, y"),
    ],
)
def test_columns_that_are_named_twice_are_one_sentence(
    tmp_path: Path, settings: dict[str, tuple[str, ...]], sentence: str
) -> None:
    (tmp_path / "table.csv").write_text(PLAIN)
    with pytest.raises(UserError) as error:
        load(tmp_path / "table.csv", **settings)
    assert sentence in str(error.value)


def test_words_that_are_often_there_count(tmp_path: Path) -> None:
    """Of 50 words and 40 that are in one row each, the 50 count; of 60 rare ones the 30 most common."""
    often = [f"w{i}" for i in range(50) for _ in range(20)] + [f"rare{i}" for i in range(40)]
    for words, count in ((often, 50), ([f"r{i % 60}" for i in range(240)], 30)):
        y = np.random.default_rng(0).normal(size=len(words))
        pd.DataFrame({"a": words, "y": y}).to_csv(tmp_path / "table.csv", index=False)
        split = load(tmp_path / "table.csv")
        assert len(split.feature_names) == count
        assert any(f"categories; the {count} most common ones are inputs" in note for note in split.notes)


def test_a_target_of_few_values_is_said() -> None:
    def split(y: np.ndarray) -> Split:
        return arrays_split(np.arange(len(y))[:, None], y[:, None], seed=0)

    grades = np.random.default_rng(0).integers(3, 9, 400)
    (note,) = target_notes(split(grades), [Real()])
    assert "the target 'y1' takes 6 different values in 256 training rows" in note
    assert not target_notes(split(grades), [Integers()])
    assert not target_notes(split(grades + np.random.default_rng(1).normal(size=400)), [Real()])


def test_a_file_that_changed_is_read_again_and_random_splits_can_be_an_axis(tmp_path: Path) -> None:
    words = ["task=regression", "data=table", f"data.path={tmp_path}/table.csv", "method=nce", "data.targets=y"]
    seen = []
    for content, split in ((PLAIN, 0), (PLAIN.replace("\n", "1\n").replace("y1", "y"), 0), (PLAIN, 1), (PLAIN, 0)):
        (tmp_path / "table.csv").write_text(content)
        seen.append(fitting.load(compose([*words, f"data.split={split}"]).task))
    assert not torch.equal(seen[0].train.y, seen[1].train.y) and torch.equal(seen[0].train.y, seen[3].train.y)
    assert set(seen[0].test.rows) != set(seen[2].test.rows)


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (np.ones((40, 2)), np.arange(39), "x has the shape (40, 2) and y (39, 1)"),
        (np.ones((40, 0)), np.arange(40), "x has the shape (40, 0)"),
        (np.ones((40, 2)), np.ones((40, 1, 1)), "y (40, 1, 1)"),
        (np.zeros((0, 2)), np.zeros(0), "the data have 0 rows"),
        (3, 4, "x has the shape ()"),
        (np.ones((40, 2)) * 1j, np.arange(40), "something that is no number"),
        (np.ma.masked_less(np.ones((40, 2)), 2), np.arange(40), "not finite numbers"),
        (np.ones((40, 2)), np.arange(40) * 1e38, "a target is 3.9e+39, beyond 1e+38"),
    ],
)
def test_what_a_function_returned_and_cannot_be_used_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, x: object, y: object, sentence: str
) -> None:
    monkeypatch.setattr(function, "_imported", lambda text: lambda: (x, y))
    with pytest.raises(UserError) as error:
        check_targets(function.Function(function="mine.py:load").load())
    assert sentence in str(error.value)


def test_a_function_s_arrays_keep_all_that_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets far from zero keep their digits, and an input named as the target stays an input."""
    x, y = torch.randn(40, requires_grad=True), 1e9 + np.arange(40) / 8
    monkeypatch.setattr(function, "_imported", lambda text: lambda: (x, y))
    split = function.Function(function="mine.py:load").load()
    assert split.train.x.shape == (26, 1) and np.array_equal(split.train.y[:, 0].numpy(), y[split.train.rows])
    frame = pd.DataFrame({"price": y + x.detach().numpy()})
    monkeypatch.setattr(function, "_imported", lambda text: lambda: (frame, pd.Series(y, name="price")))
    split = function.Function(function="mine.py:load").load()
    assert split.feature_names == ["price"] and split.target_names == ["price (target)"]


def test_images_of_any_depth_have_their_own_brightness(tmp_path: Path) -> None:
    grey = np.arange(40, 240, 10)
    for place, value in enumerate(grey):
        pixels = np.full((5 + place, 9), value)
        kinds = (pixels.astype(np.uint8), pixels.astype(np.uint16) * 257, pixels.astype(np.float32) / 255)
        Image.fromarray(kinds[place % 3]).save(tmp_path / f"{place}.tif")
    labels = pd.DataFrame({"file": [f"{place}.tif" for place in range(20)], "y": grey})
    labels.to_csv(tmp_path / "labels.csv", index=False)
    split = Images(root=str(tmp_path), size=8).load()
    brightness = 255 * split.train.x.flatten(1).mean(1)
    torch.testing.assert_close(brightness.double(), split.train.y[:, 0].double(), atol=1.5, rtol=0)
    pd.concat([labels, pd.DataFrame({"file": [None, "gone.tif"], "y": 1})]).to_csv(tmp_path / "more.csv", index=False)
    with pytest.raises(UserError, match=r"gone.tif, which the column 'file' names, is not there"):
        Images(root=str(tmp_path), labels="more.csv").load()
