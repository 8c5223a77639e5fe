"""The one reader of YAML: plain data within bounds, and no key twice."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ebmbench.config import folders
from ebmbench.core.errors import UserError
from ebmbench.system import yamlfile

BOMB = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40))
REFUSED = {
    "aliases of aliases": (BOMB, "nodes"),
    "an alias within itself": ("a: &a [*a]", "nodes"),
    "many aliases": ("a: &a 1\nb: [" + "*a, " * 5000 + "]", "aliases"),
    "deep": ("[" * 10_000, "levels|depth"),
    "a key twice": ("a: 1\nb: 2\na: 3", "the key a is there twice"),
    "a key twice, deeper": ("x:\n  a: 1\n  a: 3", "the key a is there twice"),
    "an object": ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    "long": ("a" * (yamlfile.MOST_BYTES + 1), "longer than"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_person_writes_is_refused_at_once(kind: str) -> None:
    text, sentence = REFUSED[kind]
    started = time.monotonic()
    with pytest.raises(UserError, match=sentence):
        yamlfile.parse(text)
    assert time.monotonic() - started < 2


def test_plain_data_are_read() -> None:
    text = "\ufeffbase: &b {x: 1, y: [2, 3]}\nmore:\n  <<: *b\n  x: 5\nnone:\n"
    assert yamlfile.parse(text) == {
        "base": {"x": 1, "y": [2, 3]},
        "more": {"x": 5, "y": [2, 3]},
        "none": None,
    }


def test_files_that_hydra_would_read_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "bomb.yaml").write_text(BOMB)
    with pytest.raises(UserError, match=r"bomb\.yaml cannot be read: it has more than"):
        folders.check_files()
    (tmp_path / "sweeps" / "bomb.yaml").write_text("a: [")  # whoever uses it says what is wrong
    folders.check_files()
