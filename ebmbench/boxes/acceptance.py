"""Whether a refined result is to be reported in the place of the one that it started from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ebmbench.boxes.comparison import Interval
from ebmbench.core.errors import counted


@dataclass(frozen=True)
class Verdict:
    """What a gain on units that were not trained on decides.

    Attributes:
        gain: with its 95 % interval.
        units: how many it was measured on; of: what they are ("image").
    """

    gain: Interval
    units: int
    of: str = "image"

    @property
    def answer(self) -> Literal["accepted", "worse", "undecided"]:
        """accepted: the interval is above zero; worse: it is below; undecided: zero is in it, or nothing is known."""
        if self.gain.low > 0:
            return "accepted"
        return "worse" if self.gain.high < 0 else "undecided"

    @property
    def needed(self) -> int | None:
        """About how many units would decide, were the gain as it is now; None where no number of them would."""
        half = (self.gain.high - self.gain.low) / 2
        if not (self.gain.value and math.isfinite(half)):
            return None
        return math.ceil(self.units * (half / self.gain.value) ** 2)

    def sentence(self, metric: str = "AP", plural: str | None = None) -> str:
        """Returns the verdict in a sentence without an end."""
        gain = self.gain
        text = f"{self.answer}: {gain.value:+.1f} {metric} [{gain.low:+.1f}, {gain.high:+.1f}] on "
        text += counted(self.units, self.of, plural)
        if self.answer != "undecided":
            return text
        if self.needed is None or self.needed > 1000 * max(1, self.units):
            return f"{text}, and no gain is seen there that more of them could decide"
        enough = counted(max(self.needed, self.units + 1), self.of, plural)
        return f"{text}; about {enough} would decide a gain of this size"
