"""What a run says of its time where the output is no terminal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ebmbench.engine import progress as display


@pytest.mark.parametrize(("seconds", "said"), [(1.0, [11, 41, 71]), (0.01, [])])
def test_a_long_run_says_after_ten_steps_how_long_it_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seconds: float, said: list[int]
) -> None:
    now = 0.0
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: now))
    shown = display.ProgressDisplay("run", cast(Any, SimpleNamespace(num_steps=1000)), quiet=False)
    for step in range(1, 101):
        shown.step(cast(Any, SimpleNamespace(step=step)))
        now += seconds
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"run: {step / 10:.0f} %, step {step}/1000, about {1000 - step} s left" for step in said]
