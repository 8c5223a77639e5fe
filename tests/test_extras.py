"""Packages that are optional: one that is installed and cannot be imported is treated as one that is not there."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ebmbench.core.errors import UserError
from ebmbench.core.extras import has, need
from ebmbench.tasks import examples


def test_a_package_that_cannot_be_imported_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "too_new.py").write_text("raise ImportError('too_new needs NumPy 2')")
    monkeypatch.syspath_prepend(tmp_path)
    assert not has("too_new") and not has("not_there_at_all") and has("json")
    with pytest.raises(UserError, match=r"the package too_new cannot be imported \(too_new needs NumPy 2\)"):
        need("too_new", "parquet")
    with pytest.raises(UserError, match=r"not_there_at_all is not installed.*pip install 'ebmbench\[parquet\]'"):
        need("not_there_at_all", "parquet")


def test_examples_are_one_file_whatever_wrote_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another environment wrote before, in the other format, must not be read in place of what is new."""
    pytest.importorskip("pyarrow")
    for there in (True, False, True):
        frame = pd.DataFrame({"seed": [0, 1], "log_prob": [0.5, float(there)]})
        monkeypatch.setattr(examples, "has", lambda module, there=there: there)
        examples.write_examples(tmp_path, frame)
        assert [path.suffix for path in tmp_path.iterdir()] == [".parquet" if there else ".gz"]
        pd.testing.assert_frame_equal(examples.read_examples(tmp_path), frame)
