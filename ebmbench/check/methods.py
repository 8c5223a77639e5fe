"""What a training method must keep to: checks that `ebmbench check` and the tests run.

A check is a function of the class that yields a sentence for each thing that fails, and nothing if all is well. A
`Note` says something that is no failure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ebmbench.core.energy import AutogradEnergy, Energy
from ebmbench.core.errors import UserError
from ebmbench.core.proposal import Proposal
from ebmbench.core.rng import Streams
from ebmbench.core.step import Step
from ebmbench.methods.base import Method, trial_step
from ebmbench.proposals.mixture import GaussianMixture

DIMENSIONS = (1, 4)
Q = GaussianMixture(stds=(0.2, 0.8))


class Note(str):
    """A sentence about a component that is no failure."""


def _proposal(method: Method) -> Proposal | None:
    return Q if method.uses_proposal else None


def smooth_energy(parameters: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns a small smooth `f(y) = Σ_j a_j tanh(w_j·y + b_j) − 0.3 ‖y‖²`, with parameters `[J, D + 2]`."""

    def f(y: Tensor) -> Tensor:
        if y.dim() < 3:
            raise UserError(
                f"f was given candidates of shape {tuple(y.shape)}; it takes [..., M, D], as y.unsqueeze(-2)"
            )
        dim = y.shape[-1]
        w, b, a = parameters[:, :dim], parameters[:, dim], parameters[:, dim + 1]
        return torch.tanh(y @ w.T + b) @ a - 0.3 * y.square().sum(-1)

    return f


def energy_parameters(dim: int) -> Tensor:
    """Returns parameters of `smooth_energy`, the same at each call: `[3, D + 2]`."""
    return Streams([99], stacked=False).at(0).normal("energy", (3, dim + 2), torch.float64)


def targets(count: int, dim: int) -> Tensor:
    """Returns targets, the same at each call: `[count, D]`."""
    return Streams([98], stacked=False).at(0).normal("targets", (count, dim), torch.float64)


def _loss(method: Method, f: Energy, y: Tensor, number: int = 0) -> Tensor:
    step = trial_step(method, _proposal(method), y, number=number)
    step.log_partition = _log_partition
    return _checked_loss(method, f, y, step)


def _checked_loss(method: Method, f: Energy, y: Tensor, step: Step) -> Tensor:
    """Returns the loss; raises UserError if it is no tensor, or did what a loss must not."""
    before = y.clone()
    loss = method.loss(f, y, step)
    if not isinstance(loss, Tensor):
        raise UserError(f"loss returned a {type(loss).__name__}, and no tensor")
    if not torch.equal(before, y):
        raise UserError("loss changes its argument y in place")
    unknown = set(step.counts) - set(method.counters)
    if unknown:
        raise UserError(f"loss counts {', '.join(sorted(unknown))}, which the class's counters do not name")
    return loss


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two losses are equal, up to rounding; nan equals nan, which another check is about."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-9, atol=1e-9, equal_nan=True)


def _log_partition(f: Energy) -> Tensor:
    """Returns log Z of a one-dimensional energy, by quadrature."""
    nodes = torch.linspace(-8, 8, 401, dtype=torch.float64).view(1, -1, 1)
    return torch.logsumexp(f(nodes), dim=-1) + math.log(16 / 400)


def _dimensions(method: Method) -> tuple[int, ...]:
    return (1,) if method.needs_partition else DIMENSIONS


def method_looks(cls: type[Method]) -> Iterator[str]:
    """It has a reference, a colour and a marker."""
    from matplotlib.colors import is_color_like
    from matplotlib.lines import Line2D

    if not cls.reference:
        yield "reference is empty: say who published it, or 'this file'"
    if not is_color_like(cls.color):
        yield f"color={cls.color!r} is no colour that matplotlib knows"
    if cls.marker not in Line2D.markers:
        yield f"marker={cls.marker!r} is no marker that matplotlib knows"


def method_shapes(cls: type[Method]) -> Iterator[str]:
    """Its loss is one finite number for each example, for D = 1 and 4."""
    method = cls.model_validate({})
    for dim in _dimensions(method):
        y = targets(6, dim)
        loss = _loss(method, AutogradEnergy(smooth_energy(energy_parameters(dim))), y)
        if loss.shape != y.shape[:-1]:
            yield f"for targets {tuple(y.shape)} the loss has shape {tuple(loss.shape)}, not {tuple(y.shape[:-1])}"
        elif not loss.isfinite().all():
            yield f"the loss is not finite for D = {dim}"


def method_is_repeatable(cls: type[Method]) -> Iterator[str]:
    """Its loss is a function of the step alone: random numbers come from step.draws."""
    method, f, y = cls.model_validate({}), AutogradEnergy(smooth_energy(energy_parameters(1))), targets(6, 1)
    if not _same(_loss(method, f, y), _loss(method, f, y)):
        yield "the same step gives two different losses"


def method_seeds(cls: type[Method]) -> Iterator[str]:
    """Seeds are independent: one model's loss does not depend on another's targets."""
    method = cls.model_validate({})
    if method.networks(1, 1) or method.memory(1):
        return  # a short run with two seeds says it
    y = torch.stack((targets(5, 1), targets(5, 1) + 1))
    f = AutogradEnergy(lambda v: -v.square().sum(-1) + v.sin().sum(-1))

    def losses(targets: Tensor, seeds: list[int]) -> Tensor:
        step = Step(Streams(seeds).at(3), _proposal(method), log_partition=_log_partition)
        return _checked_loss(method, f, targets, step)

    together = losses(y, [0, 7])
    if together.shape != (2, 5):
        yield f"for targets (2, 5, 1) of two seeds the loss has shape {tuple(together.shape)}, not (2, 5)"
        return
    if not _same(losses(torch.stack((y[0], y[1] + 5)), [0, 7])[0], together[0]):
        yield "the first seed's loss changes with the second seed's targets"
    if not _same(losses(y[1:], [7])[0], together[1]):
        yield "seed 7 alone has another loss than beside seed 0"


def method_gradient(cls: type[Method]) -> Iterator[str]:
    """Its gradient is finite, and that of finite differences with the samples held."""
    method = cls.model_validate({})
    for dim in _dimensions(method):
        y, parameters = targets(3, dim), energy_parameters(dim).requires_grad_()
        start = AutogradEnergy(smooth_energy(parameters.detach()))

        class Held(AutogradEnergy):
            """Samples that follow the gradient of f are constants of the loss."""

            def grad(self, y: Tensor, create_graph: bool = False, start: AutogradEnergy = start) -> Tensor:
                return super().grad(y, create_graph=True) if create_graph else start.grad(y)

        def total(values: Tensor, y: Tensor = y) -> Tensor:
            return _loss(method, Held(smooth_energy(values)), y).sum()

        gradient = torch.autograd.grad(total(parameters), parameters)[0]
        if not gradient.isfinite().all():
            yield f"the gradient is not finite for D = {dim}"
            continue
        if not gradient.any():
            yield f"the gradient is 0 for D = {dim}: nothing would be learned"
        worst, size = 0.0, gradient.abs().max().item()
        for index in range(parameters.numel()):
            bump = torch.zeros(parameters.numel(), dtype=torch.float64)
            bump[index] = 1e-5
            bump = bump.view_as(parameters)
            difference = (total(parameters.detach() + bump) - total(parameters.detach() - bump)) / 2e-5
            worst = max(worst, abs(gradient.flatten()[index].item() - difference.item()))
        if worst > 1e-4 * (1 + size):
            yield f"for D = {dim} it differs from finite differences by {worst:.2g} (its largest entry is {size:.2g})"


def _gaussian(mean: Tensor, log_precision: Tensor, y: Tensor) -> Tensor:
    return -0.5 * log_precision.exp() * (y[..., 0] - mean).square()


def method_gaussian(cls: type[Method]) -> Iterator[str]:
    """It finds the Gaussian distribution that `recovers` claims, where it claims one."""
    method, variance = cls.model_validate({}), 0.04
    claimed = method.recovers(variance, _proposal(method))
    slope, level, found = fitted_gaussian(method, 0.8, variance)
    numbers = f"slope {slope:.3f}, level {level:.3f} and variance {found:.4f}"
    if claimed is None:
        yield Note(
            f"recovers claims nothing, so this is not tested. On data of slope 0.8, level 0 and variance {variance} "
            f"it finds {numbers}; a likelihood finds the same as the data"
        )
    elif not (abs(found / claimed - 1) <= 0.15 and abs(slope - 0.8) <= 0.05 and abs(level) <= 0.05):
        yield f"the data have slope 0.8, level 0 and claimed variance {claimed:.4f}; found {numbers}"


def fitted_gaussian(method: Method, slope: float, variance: float, steps: int = 400) -> tuple[float, float, float]:
    """Returns slope, level and variance of `exp f = N(y; slope x + level, variance)`, trained by a method with Adam.

    The data are 2000 points of that form with level 0.
    """
    draws = Streams([2], stacked=False).at(0)
    x = 2 * draws.uniform("x", (2000, 1), torch.float64) - 1
    y = slope * x + math.sqrt(variance) * draws.normal("noise", (2000, 1), torch.float64)
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / steps)
    for number in range(steps):
        part = slice(500 * number % 2000, 500 * number % 2000 + 500)
        mean = theta[0] * x[part] + theta[1]
        f = AutogradEnergy(partial(_gaussian, mean, theta[2]))
        optimizer.zero_grad()
        _loss(method, f, y[part], number).mean().backward()
        optimizer.step()
        schedule.step()
    return theta[0].item(), theta[1].item(), math.exp(-theta[2].item())


CHECKS = (method_looks, method_shapes, method_is_repeatable, method_seeds, method_gradient, method_gaussian)
