"""What a training method is, and the few estimators that several of them share.

Sign convention of the whole project: `f` is the unnormalised log-density, `p(y|x) = exp f(x, y) / Z(x)`. Everything is
computed in log space.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal, cast

import torch
from pydantic import Field

from ebmbench.core import registry
from ebmbench.core.energy import Energy
from ebmbench.core.proposal import Proposal
from ebmbench.core.rng import Streams
from ebmbench.core.settings import Component
from ebmbench.core.step import Step

if TYPE_CHECKING:
    from torch import Tensor, nn

PAPER = "Gustafsson, Danelljan, Timofte, Schön, How to Train Your Energy-Based Model for Regression, BMVC 2020"


class Method(Component):
    """A training method: frozen settings and a loss. It knows nothing of networks, images or grids.

    A subclass is all that the harness has to know. Its fields are its settings: typed, range-checked (pydantic's
    `Field(default, ge=..., description=...)`), and set on the command line as `method.<field>`. The class also says:
        name: what users type.
        reference: who published it.
        color, marker: how figures show it (matplotlib's names).
        order: its place in tables and legends; methods without one come last, by name.
        uses_proposal: whether it draws from a proposal, `step.q()`.
        needs_partition: whether it needs the exact log Z, `step.log_partition`, which a task may lack.
        y_derivatives: the highest derivative of f in y that it takes: 0, 1 or 2. A piecewise linear network has no
            second one.
        moves_target: whether it smooths the target by noise of its own, so that each y must have neighbours.
        counters: what it may `count`, by name, with a sentence for people: what happened, and what helps.
        default_for: the targets for which it is chosen where no method is named.
        tuning: the search space of its settings (see `Section`).
    """

    group: ClassVar[str] = "method"
    name: ClassVar[str]
    reference: ClassVar[str] = ""
    color: ClassVar[str] = "#7F7F7F"
    marker: ClassVar[str] = "o"
    order: ClassVar[int] = 1000
    default_for: ClassVar[Literal["", "one target", "several targets", "published tasks"]] = ""
    uses_proposal: ClassVar[bool] = False
    needs_partition: ClassVar[bool] = False
    y_derivatives: ClassVar[int] = 0
    moves_target: ClassVar[bool] = False
    counters: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @abstractmethod
    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor:
        """Returns the loss of each example.

        Args:
            f: the energy of the mini-batch.
            y: the targets, `[..., D]`.
            step: random numbers, the proposal, and outputs of own networks.

        Returns:
            `[...]`.
        """

    def networks(self, features: int, dim: int) -> dict[str, nn.Module]:
        """Returns the method's own networks, each a map of the features of x: `[..., features] -> [..., outputs]`.

        They train with the model, on detached features, one copy for each seed. `step.head(name)` gives their output.
        """
        return {}

    def memory(self, dim: int) -> dict[str, tuple[int, ...]]:
        """Returns what the method keeps for each training example between its visits: shapes by name.

        It starts as nan, is `step.memory[name]` in a step, and `step.remember` writes it. Checkpoints hold it.
        """
        return {}

    def blur(self, proposal: Proposal | None) -> Sequence[float] | None:
        """Returns the standard deviations of the normal noise by which the density is smoothed that it finds.

        It finds this density with plenty of data and samples. Each standard deviation is equally likely. Empty where it
        finds the density of the data itself; None for a method that claims nothing.
        """
        return None

    def recovers(self, variance: float, proposal: Proposal | None) -> float | None:
        """Returns the variance that the method finds with plenty of data, where the law is Gaussian with this variance.

        None for a method that claims nothing. `ebmbench check` holds a method to it.
        """
        stds = self.blur(proposal)
        return None if stds is None else variance + sum(std**2 for std in stds) / max(1, len(stds))

    def population(self, f: Energy, y: Tensor, step: Step) -> Tensor | None:
        """Returns the loss of each example in the limit of many samples, by quadrature, for D = 1: `[...]`.

        A constant may be missing: `python -m benchmarks gradients` compares the method's gradient with this one's. None
        for a method that has no such limit, or does not say it.
        """
        return None

    @property
    def samples(self) -> int:
        """The number of samples M for each target; 0 for a method that draws none."""
        return int(getattr(self, "num_samples", 0))


def default_method(num_targets: int | None) -> str:
    """Returns the name of the method for so many targets where none is named; None: that of the published tasks.

    It is the exact likelihood for one target: methods that sample are biased where a target repeats a value, and cost
    not much less (docs/which-method.md).
    """
    counted = "one target" if num_targets == 1 else "several targets"
    wanted = "published tasks" if num_targets is None else counted
    methods = cast(Mapping[str, type[Method]], registry.known("method"))
    return next(name for name, method in methods.items() if method.default_for == wanted)


class Sampling(Method):
    """A method that draws M samples for each target from a proposal."""

    uses_proposal = True

    num_samples: int = Field(64, ge=1, le=1_048_576, description="M, samples per target")


def own_networks(method: Method, proposal: Proposal | None, features: int, dim: int) -> dict[str, nn.Module]:
    """Returns the networks of a method and its proposal, on `features` features of x, for targets of `dim` numbers."""
    made = dict(method.networks(features, dim))
    return made if proposal is None else made | proposal.networks(features, dim)


def energies(f: Energy, target: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Returns `f` at the targets `[..., D]` and at their samples `[..., M, D]`, in one pass: `[...]` and `[..., M]`."""
    values = f(torch.cat((target.unsqueeze(-2), samples), dim=-2))
    return values[..., 0], values[..., 1:]


def log_partition(values: Tensor, log_q: Tensor) -> Tensor:
    """Returns the importance-sampling estimate `log 1/M Σ_m exp(f_m) / q_m`: `[..., M] -> [...]`."""
    return torch.logsumexp(values - log_q, dim=-1) - math.log(values.shape[-1])


def exact_nll(f: Energy, y: Tensor, step: Step) -> Tensor:
    """Returns `log Z(x) − f(x, y_i)`, log Z as the step gives it: `[...]`."""
    assert step.log_partition is not None, "the task has no exact log Z"
    return step.log_partition(f) - f(y.unsqueeze(-2)).squeeze(-1)


def normal_nodes(like: Tensor) -> tuple[Tensor, Tensor]:
    """Returns 257 places of a standard normal variable and their weights, which sum to one: `[Q]` each.

    The trapezoidal rule on [-8, 8], which converges geometrically for smooth integrands.
    """
    places = torch.linspace(-8, 8, 257, dtype=like.dtype, device=like.device)
    return places, torch.softmax(-0.5 * places.square(), 0)


def normal_mean(f: Energy, y: Tensor, std: float) -> Tensor:
    """Returns the mean of `f(y_i + ν)`, `ν ~ N(0, std²)`, by quadrature, for D = 1: `[..., 1] -> [...]`."""
    places, weights = normal_nodes(y)
    return f(y.unsqueeze(-2) + std * places.unsqueeze(-1)) @ weights


TRIAL_FEATURES = 5
TRIAL_NODES = 201


def trial_step(method: Method, proposal: Proposal | None, y: Tensor, number: int = 0, nodes: int = TRIAL_NODES) -> Step:
    """Returns a step outside of any training, for targets y `[B, D]`: to count evaluations, and for tests.

    Own networks of the method and the proposal run on random features.

    Args:
        nodes: of the quadrature for `log Z`, for D = 1; with 0 of them, or a higher D, it is taken as 0.
    """
    draws = Streams([0], y.device, stacked=False).at(number)
    features = draws.normal("features", (len(y), TRIAL_FEATURES), y.dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = own_networks(method, proposal, TRIAL_FEATURES, y.shape[-1])
        outputs = {name: module.to(y.dtype)(features) for name, module in networks.items()}
    heads = {name: lambda output=output: output for name, output in outputs.items()}
    memory = {name: y.new_full((len(y), *shape), torch.nan) for name, shape in method.memory(y.shape[-1]).items()}
    return Step(draws, proposal, heads, memory, log_partition=lambda f: _trial_log_partition(f, y, nodes))


def _trial_log_partition(f: Energy, y: Tensor, count: int) -> Tensor:
    if y.shape[-1] > 1 or not count:
        return y.new_zeros(y.shape[:-1])
    nodes = torch.linspace(-10, 10, count, dtype=y.dtype, device=y.device)
    values = f(nodes.view(-1, 1).expand(*y.shape[:-1], -1, 1))
    return torch.logsumexp(values, dim=-1) + math.log(20 / (count - 1))
