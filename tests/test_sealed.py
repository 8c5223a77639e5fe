"""Records cannot lie: whatever is changed in a file of a run, plan or collected sweep is refused by every reader."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ebmbench
from ebmbench.audit import files as audit
from ebmbench.core.errors import UserError
from ebmbench.engine import runs
from ebmbench.report import collected, frame
from ebmbench.report.planned import read_plan
from ebmbench.sweep import collect
from ebmbench.system import seal
from tests.sweep.made import command, made_plan, make_done


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan, its runs, and the tables that were collected of them."""
    folder = tmp_path_factory.mktemp("results")
    plan = made_plan(folder, seeds=3)
    for place, job in enumerate(plan.jobs):
        make_done(job, folder, [0.1 + place, 0.2, 0.3])
    collect.write(plan, collect.collect(plan, folder), folder)
    return folder


def bit_flipped(data: bytes, other: bytes, choice: random.Random) -> bytes:
    place = choice.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << choice.randrange(8)]) + data[place + 1 :]


def truncated(data: bytes, other: bytes, choice: random.Random) -> bytes:
    return data[: choice.randrange(len(data))]


def doubled(data: bytes, other: bytes, choice: random.Random) -> bytes:
    return data + data


def line_repeated(data: bytes, other: bytes, choice: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join([*lines, lines[choice.randrange(len(lines))]])


def line_lost(data: bytes, other: bytes, choice: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    lines.pop(choice.randrange(len(lines)))
    return b"".join(lines)


def digit_changed(data: bytes, other: bytes, choice: random.Random) -> bytes:
    places = [place for place, byte in enumerate(data) if 48 <= byte < 58]
    place = choice.choice(places)
    return data[:place] + bytes([48 + (data[place] - 48 + choice.randrange(1, 10)) % 10]) + data[place + 1 :]


def taken_from_another(data: bytes, other: bytes, choice: random.Random) -> bytes:
    return other


CHANGES = (bit_flipped, truncated, doubled, line_repeated, line_lost, digit_changed, taken_from_another)


def of_status(folder: Path) -> object:
    runs.need_whole(folder)
    return runs.read_status(folder)


def of_run(folder: Path) -> tuple[object, ...]:
    table = ebmbench.results(folder)
    return runs.read_status(folder), runs.read_result(folder), table.to_csv()


READERS: dict[str, tuple[str, Callable[[Path], object], int]] = {
    "status.json": ("runs/*/status.json", lambda path: of_status(path.parent), 1500),
    "metrics.csv": ("runs/*/metrics.csv", lambda path: of_run(path.parent), 300),
    "config.yaml": ("runs/*/config.yaml", lambda path: of_run(path.parent), 300),
    "plan.json": ("sweeps/*/plan.json", lambda path: read_plan(path.parents[2], path.parent.name), 1000),
    "sweep.json": ("*/sweep.json", lambda path: frame.load(path.parent).frame.to_csv(), 1000),
    "runs.csv": ("*/runs.csv", lambda path: frame.load(path.parent).frame.to_csv(), 1000),
}


@pytest.mark.parametrize("name", READERS)
def test_no_change_of_a_record_passes_in_silence(name: str, results: Path, tmp_path: Path) -> None:
    """5100 in all: what is read is refused, or is what was written."""
    pattern, read, count = READERS[name]
    folder = shutil.copytree(results, tmp_path / "results")
    path, *others = sorted(folder.glob(pattern))
    good, content = read(path), path.read_bytes()
    other = others[0].read_bytes() if others else b"{}"
    choice = random.Random(0)
    for number in range(count):
        change = CHANGES[number % len(CHANGES)]
        changed = change(content, other, choice)
        path.write_bytes(changed)
        try:
            found = read(path)
        except UserError as error:
            assert "\n" not in str(error).strip()
        else:
            assert found == good or changed == content, f"{change.__name__} of {name} passes"


@pytest.mark.parametrize("name", [*READERS, "checkpoint.pt", "environment.json", "tables.md"])
def test_audit_files_judges_every_file(name: str, results: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(results, tmp_path / "results")
    assert audit.main(folder) == 0
    pattern = READERS[name][0] if name in READERS else f"**/{name}"
    path = sorted(folder.glob(pattern))[0]
    path.write_bytes(digit_changed(path.read_bytes() + b"0", b"", random.Random(1)))
    assert audit.main(folder) == 1


@pytest.mark.parametrize(
    "change", [{"diverged": {"0": 7}}, {"run_hash": 12 * "0"}, {"method": "sm"}, {"seeds": [0, 1]}, {"commit": "x"}]
)
def test_one_word_of_a_status_is_refused_by_all_alike(change: dict[str, Any], results: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(results, tmp_path / "results")
    path = sorted(folder.glob("runs/*/status.json"))[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError):
        ebmbench.load(path.parent)
    with pytest.raises(UserError):
        ebmbench.results(path.parent)
    with pytest.warns(UserWarning, match="has no results in the table"):
        ebmbench.results("made", results_dir=folder)
    assert audit.main(folder) == 1 and runs.read_state(path.parent) == "damaged"
    assert command("sweep", "collect", "made", f"results_dir={folder}") == 1


def test_each_row_carries_the_seal_of_its_run_once(results: Path) -> None:
    table = frame.load(results / "made").frame
    seals = {run.parent.name: json.loads(run.read_text())["seal"] for run in results.glob("runs/*/status.json")}
    assert dict(zip(table["run_id"], table["record"], strict=True)) == seals
    assert not table.duplicated(["run_id", "seed"]).any()


def test_a_row_that_is_there_twice_is_refused_even_if_sealed(results: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(results / "made", tmp_path / "made")
    lines = (folder / "runs.csv").read_text().splitlines()
    (folder / "runs.csv").write_text("\n".join([*lines, lines[1]]) + "\n")
    with pytest.raises(UserError, match="not what was written"):
        frame.load(folder)
    collected.reseal(folder)
    with pytest.raises(UserError, match="more than once"):
        frame.load(folder)


def test_a_seal_is_of_all_keys_and_values() -> None:
    data = {"a": 1, "b": [1.5, None, "ü"], "schema": 3}
    text = seal.encode(data)
    assert {key: seal.decode(text, 3)[key] for key in data} == data
    assert seal.encode(seal.decode(text, 3)) == text
    with pytest.raises(seal.Broken):
        seal.decode(text.replace(b'"a"', b'"c"'), 3)
    with pytest.raises(seal.Broken):
        seal.decode(text.replace(b"{", b'{"a": 1,', 1), 3)
