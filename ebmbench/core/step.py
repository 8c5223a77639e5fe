"""What a loss may use in a training step, beside the energy and the targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ebmbench.core.energy import Energy
from ebmbench.core.rng import Draws

if TYPE_CHECKING:
    from torch import Tensor

    from ebmbench.core.proposal import Proposal


@dataclass
class Step:
    """One training step of a mini-batch.

    Attributes:
        draws: the random numbers of the step.
        proposal: where a method that draws from a proposal gets its samples; None for the others.
        heads: own networks of the method and the proposal, by name. Each is a function of nothing that returns its
            output for the examples of the mini-batch, `[..., outputs]`.
        memory: what the method keeps for each training example between visits, `[..., *shape]`, by name. A loss
            writes with `remember`.
        log_partition: returns `log Z` of each example for an energy, `[...]`: by quadrature where a target is one
            number, 0 for a model that is normalised by construction. None where the task has no such integral.
        kept: what a proposal drew in this step, by name, so that its own loss need not draw again.
        counts: what `count` was told, by name: `[...]` bool.
    """

    draws: Draws
    proposal: Proposal | None = None
    heads: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    log_partition: Callable[[Energy], Tensor] | None = None
    kept: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)
    remembered: dict[str, Tensor] = field(default_factory=dict)
    _outputs: dict[str, Tensor] = field(default_factory=dict)

    def head(self, name: str) -> Tensor:
        """Returns the output of an own network for the examples of the mini-batch: `[..., outputs]`.

        It is computed once in a step, however often it is asked for.
        """
        if name not in self.heads:
            raise KeyError(f"networks() returned no {name!r}; it has {', '.join(self.heads) or 'none'}")
        if name not in self._outputs:
            self._outputs[name] = self.heads[name]()
        return self._outputs[name]

    def q(self) -> Proposal:
        """Returns the proposal of a method that has one."""
        assert self.proposal is not None, "the method must say uses_proposal = True"
        return self.proposal

    def count(self, name: str, examples: Tensor) -> None:
        """Counts the examples for which something happened, such as an underflow: `[...]` bool.

        The name must be one of the method's `counters`.
        """
        self.counts[name] = examples

    def remember(self, name: str, values: Tensor) -> None:
        """Keeps values `[..., *shape]` for these training examples, until their next visit."""
        self.remembered[name] = values.detach()


def no_counts(counters: Mapping[str, str], seeds: int, device: torch.device) -> dict[str, Tensor]:
    """Returns a zero per counter and seed: `[S]` int64 each."""
    return {name: torch.zeros(seeds, dtype=torch.int64, device=device) for name in counters}
