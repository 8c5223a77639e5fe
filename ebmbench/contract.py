"""The contract: what a component must keep to, and whether it does. `python -m ebmbench check my_method.py`.

Each check is a function that yields nothing if all is well, and otherwise sentences that say what fails.
"""

from __future__ import annotations

import inspect
import math
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import is_color_like
from matplotlib.lines import Line2D
from pydantic import ValidationError
from torch import Tensor

from ebmbench.config import compose, plugins
from ebmbench.core.energy import AutogradEnergy, Energy
from ebmbench.core.errors import UserError, first_line
from ebmbench.core.proposal import Proposal
from ebmbench.core.rng import Streams
from ebmbench.core.settings import Component, Section, choice_of, sections_of
from ebmbench.core.step import Step
from ebmbench.engine.execute import execute
from ebmbench.engine.train import Training
from ebmbench.methods.base import Method, trial_step
from ebmbench.proposals.mixture import GaussianMixture
from ebmbench.tasks.base import Setup, Task
from ebmbench.tasks.regression.data.base import Split, check_targets
from ebmbench.tasks.regression.networks.base import Network
from ebmbench.tasks.regression.networks.outside import Outside, Rows
from ebmbench.tasks.regression.stack import Place

Check = Callable[[Any], Iterator[str]]
DIMENSIONS = (1, 4)
Q = GaussianMixture(stds=(0.2, 0.8))


@dataclass(frozen=True)
class Finding:
    """What came of a check: nothing, or what fails."""

    component: str
    check: str
    faults: tuple[str, ...]


def main(path: str) -> int:
    """Checks every component of a plug-in and says what fails; returns the exit code.

    Raises:
        UserError: the plug-in cannot be loaded, or registers nothing.
    """
    failed = 0
    for finding in check(path):
        print(f"{'FAILS' if finding.faults else 'ok':6}{finding.component}: {finding.check}", flush=True)
        for fault in finding.faults:
            print(f"      {fault}", flush=True)
        failed += bool(finding.faults)
    print(f"{failed} checks fail" if failed else "all checks pass")
    return 1 if failed else 0


def check(path: str) -> Iterator[Finding]:
    """Yields what came of each check of each component of a plug-in."""
    (name,) = plugins.load([path])
    components = plugins.registered_by(name)
    if not components:
        raise UserError(f"{path} registers nothing: put the decorator @register above a class of its own")
    for cls in components:
        yield from check_component(cls)
        words = _smoke_run(cls, name)
        if words and _can_be_made(cls):
            yield _finding(cls, f"a short run ends: {' '.join(words)}", partial(short_run, words))


def check_component(cls: type[Component]) -> Iterator[Finding]:
    """Yields what came of each check of a component, a short run apart."""
    for title, function in _checks(cls):
        found = _finding(cls, title, partial(function, cls))
        yield found
        if function is settings and found.faults and not _can_be_made(cls):
            return


def _can_be_made(cls: type[Component]) -> bool:
    """Whether the class can be used with its default settings; a choice inside it may have none."""
    try:
        cls.model_validate({})
    except ValidationError:
        return any(choice_of(field) for field in cls.model_fields.values())
    except TypeError:  # a method is missing
        return False
    return True


def _finding(cls: type[Component], title: str, function: Callable[[], Iterator[str]]) -> Finding:
    try:
        faults = tuple(function())
    except UserError as error:
        faults = (str(error),)
    except Exception as error:
        faults = (f"{type(error).__name__}: {_reason(error)}{_place(cls, error)}",)
    return Finding(f"{cls.group} {cls.registered()}", title, faults)


def _reason(error: Exception) -> str:
    """Returns what is wrong in a line; of settings, the first fault with its field."""
    if isinstance(error, ValidationError):
        fault = error.errors()[0]
        return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
    return first_line(error)


def _place(cls: type[Component], error: Exception) -> str:
    """Returns the line of the component's own file in which an error was raised last, if there is one."""
    file = inspect.getfile(cls)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({Path(file).name}, line {lines[-1]})" if lines else ""


def _checks(cls: type[Component]) -> Iterator[tuple[str, Check]]:
    """Yields the checks of a component, by title: the first line of each one's docstring."""
    kinds: dict[type[Component], tuple[Check, ...]] = {
        Component: (settings,),
        Method: (method_looks, method_shapes, method_is_repeatable, method_seeds, method_gradient, method_gaussian),
        Proposal: (proposal_shapes, proposal_density, proposal_samples, proposal_partition, proposal_seeds),
        Network: () if issubclass(cls, Outside) else (network_shapes, network_gradient, network_seeds),
        Outside: (outside_fit, outside_density),
        Task: (task_metrics, task_step),
    }
    found = [check for kind, checks in kinds.items() if issubclass(cls, kind) for check in checks]
    found += [data_arrays] if hasattr(cls, "load") else []
    for function in found:
        sentence = str(function.__doc__).splitlines()[0].rstrip(".")
        yield sentence[0].lower() + sentence[1:], function


# ------------------------------------------------------------------------------------------------- all components


def settings(cls: type[Component]) -> Iterator[str]:
    """Its settings are described, with defaults that are allowed."""
    if not (cls.__doc__ or "").strip():
        yield "the class has no docstring: its first line is what users read"
    yield from _described(cls, cls.group.replace("/", "."))
    try:
        cls.model_validate({})
    except Exception as error:
        if not any(choice_of(field) for field in cls.model_fields.values()):
            yield _reason(error) if isinstance(error, TypeError) else f"the defaults are not allowed: {_reason(error)}"


def _described(cls: type[Section], prefix: str) -> Iterator[str]:
    for name, field in cls.model_fields.items():
        if choice_of(field) is not None:
            continue
        inner = sections_of(field)
        if inner:
            yield from _described(inner[0], f"{prefix}.{name}")
        elif not field.description:
            yield f"{prefix}.{name} has no description: give Field(..., description=...)"
        elif field.is_required():
            yield f"{prefix}.{name} has no default"


def _smoke_run(cls: type[Component], plugin: str) -> list[str]:
    """Returns the words of a short run that uses a component; none for what no short run can know."""
    name = cls.registered()
    if issubclass(cls, Method):
        words = ["task=1d", f"method={name}"]
    elif issubclass(cls, Proposal):
        words = ["task=1d", "method=ml-is", f"proposal={name}"]
    elif issubclass(cls, Outside):
        words = ["task=regression", f"network={name}", "method=ml-exact"]
    elif issubclass(cls, Network):
        words = ["task=regression", "method=nce", f"network={name}"]
    elif hasattr(cls, "load"):
        words = ["task=regression", "method=nce", f"data={name}"]
    else:
        return []
    return [*words, "+experiment=smoke", f"plugins=[{plugin}]", "device=cpu", "logger=none"]


def short_run(words: list[str]) -> Iterator[str]:
    """Runs a command in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        config = compose.compose([*words, f"results_dir={folder}"])
        outcome = execute(config, quiet=True)
        if outcome.state != "done":
            yield f"it ended as {outcome.state}"
        if outcome.undrawn:
            yield f"its figures are not drawn: {outcome.undrawn}"


# -------------------------------------------------------------------------------------------------------- methods


def _proposal(method: Method) -> Proposal | None:
    return Q if method.uses_proposal else None


def _energy(parameters: Tensor) -> Callable[[Tensor], Tensor]:
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


def _parameters(dim: int) -> Tensor:
    return Streams([99], stacked=False).at(0).normal("energy", (3, dim + 2), torch.float64)


def _targets(count: int, dim: int) -> Tensor:
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
    nodes = torch.linspace(-8, 8, 2001, dtype=torch.float64).view(1, -1, 1)
    return torch.logsumexp(f(nodes), dim=-1) + math.log(16 / 2000)


def _dimensions(method: Method) -> tuple[int, ...]:
    return (1,) if method.needs_partition else DIMENSIONS


def method_looks(cls: type[Method]) -> Iterator[str]:
    """It has a reference, a colour and a marker."""
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
        y = _targets(6, dim)
        loss = _loss(method, AutogradEnergy(_energy(_parameters(dim))), y)
        if loss.shape != y.shape[:-1]:
            yield f"for targets {tuple(y.shape)} the loss has shape {tuple(loss.shape)}, not {tuple(y.shape[:-1])}"
        elif not loss.isfinite().all():
            yield f"the loss is not finite for D = {dim}"


def method_is_repeatable(cls: type[Method]) -> Iterator[str]:
    """Its loss is a function of the step alone: random numbers come from step.draws."""
    method, f, y = cls.model_validate({}), AutogradEnergy(_energy(_parameters(1))), _targets(6, 1)
    if not _same(_loss(method, f, y), _loss(method, f, y)):
        yield "the same step gives two different losses"


def method_seeds(cls: type[Method]) -> Iterator[str]:
    """Seeds are independent: one model's loss does not depend on another's targets."""
    method = cls.model_validate({})
    if method.networks(1, 1) or method.memory(1):
        return  # a short run with two seeds says it
    y = torch.stack((_targets(5, 1), _targets(5, 1) + 1))
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
        y, parameters = _targets(3, dim), _parameters(dim).requires_grad_()
        start = AutogradEnergy(_energy(parameters.detach()))

        class Held(AutogradEnergy):
            """Samples that follow the gradient of f are constants of the loss."""

            def grad(self, y: Tensor, create_graph: bool = False, start: AutogradEnergy = start) -> Tensor:
                return super().grad(y, create_graph=True) if create_graph else start.grad(y)

        def total(values: Tensor, y: Tensor = y) -> Tensor:
            return _loss(method, Held(_energy(values)), y).sum()

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
    """It finds the Gaussian law that `recovers` claims."""
    method, std, slope = cls.model_validate({}), 0.2, 0.8
    proposal = _proposal(method)
    claimed = method.recovers(std**2, proposal)
    if claimed is None:
        return
    draws = Streams([2], stacked=False).at(0)
    x = 2 * draws.uniform("x", (2000, 1), torch.float64) - 1
    y = slope * x + std * draws.normal("noise", (2000, 1), torch.float64)
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    steps = 400
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
    found = 1 / theta[2].exp().item()
    if abs(found / claimed - 1) > 0.15 or abs(theta[0].item() - slope) > 0.05 or abs(theta[1].item()) > 0.05:
        yield (
            f"the law has slope {slope}, level 0 and claimed variance {claimed:.4f}; "
            f"found {theta[0].item():.3f}, {theta[1].item():.3f} and {found:.4f}"
        )


# ------------------------------------------------------------------------------------------------------ proposals


def _draw(proposal: Proposal, y: Tensor, count: int, number: int = 0) -> tuple[Tensor, Tensor, Step]:
    step = trial_step(_Sampler(), proposal, y, number=number)
    drawn = proposal.sample(y, count, step)
    if not isinstance(drawn, tuple) or len(drawn) != 2:
        raise UserError(
            f"sample returned a {type(drawn).__name__}; it must return two tensors, the samples and their log q"
        )
    return *drawn, step


class _Sampler(Method):
    """A method that does nothing, for steps in which a proposal alone is tried."""

    name = "none"

    def loss(self, f: Energy, y: Tensor, step: Step) -> Tensor:
        return y.sum(-1)


def proposal_shapes(cls: type[Proposal]) -> Iterator[str]:
    """Samples are [..., M, D] with one log q each, for D = 1 and 4."""
    proposal = cls.model_validate({})
    for dim in DIMENSIONS:
        samples, log_q, _ = _draw(proposal, _targets(5, dim), 7)
        if samples.shape != (5, 7, dim) or log_q.shape not in ((5, 7), (1, 7)):
            yield f"for targets (5, {dim}): samples {tuple(samples.shape)}, log q {tuple(log_q.shape)}"
        elif not (samples.isfinite().all() and log_q.isfinite().all()):
            yield f"samples or their log q are not finite for D = {dim}"


def _grid(proposal: Proposal, count: int) -> tuple[Tensor, float]:
    """Points of the support for some examples, `[count, 80001, 1]`, as far as [-40, 40], and their spacing."""
    low, high = (min(max(end, -40.0), 40.0) for end in proposal.support())
    points = torch.linspace(low, high, 80_001, dtype=torch.float64).view(1, -1, 1)
    return points.expand(count, -1, 1), (high - low) / 80_000


def proposal_density(cls: type[Proposal]) -> Iterator[str]:
    """Its density integrates to one, and is that of its samples."""
    proposal, y = cls.model_validate({}), _targets(3, 1) / 4
    samples, log_q, step = _draw(proposal, y, 50)
    again = proposal.log_prob(samples, y, step)
    if not torch.allclose(again, log_q.expand_as(again), atol=1e-6):
        yield "log_prob at the samples is not the log q that sample returns"
    grid, spacing = _grid(proposal, 3)
    mass = torch.trapezoid(proposal.log_prob(grid, y, step).exp(), dx=spacing)
    if not torch.allclose(mass, torch.ones_like(mass), atol=2e-3):
        yield f"its density integrates to {', '.join(f'{value:.4f}' for value in mass.tolist())} over its support"


def proposal_samples(cls: type[Proposal]) -> Iterator[str]:
    """Its samples follow its density."""
    proposal, y = cls.model_validate({}), _targets(2, 1) / 4
    samples, _, step = _draw(proposal, y, 20_000)
    grid, spacing = _grid(proposal, 2)
    distribution = (proposal.log_prob(grid, y, step).exp() * spacing).cumsum(-1)
    ordered = samples[..., 0].double().sort(dim=-1).values
    place = ((ordered - grid[0, 0, 0]) / spacing).long().clamp(0, 80_000)
    expected = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    distance = (distribution.gather(-1, place) - expected).abs().amax().item()
    if distance > 0.02:  # the 5 % point of Kolmogorov and Smirnov is 0.0096
        yield f"the largest distance between the two distribution functions is {distance:.3f}"


def proposal_partition(cls: type[Proposal]) -> Iterator[str]:
    """With it, importance sampling finds the partition function of a Gaussian."""
    for dim in (1, 2):
        proposal, y = cls.model_validate({}), _targets(4, dim) / 4
        samples, log_q, _ = _draw(proposal, y, 100_000)
        values = -0.5 * (samples / 0.3).square().sum(-1) - log_q
        found = torch.logsumexp(values, -1) - math.log(100_000)
        expected = dim * math.log(0.3 * math.sqrt(2 * math.pi))
        if (found - expected).abs().max() > 0.1 * dim:
            estimates = ", ".join(f"{v:.3f}" for v in found.tolist())
            yield f"for D = {dim} log Z is {expected:.3f}, and the estimates are {estimates}"


def proposal_seeds(cls: type[Proposal]) -> Iterator[str]:
    """Another step gives other samples, and the same step the same."""
    proposal, y = cls.model_validate({}), _targets(4, 1)
    first, again, later = (_draw(proposal, y, 5, number)[0] for number in (0, 0, 1))
    if not torch.equal(first, again):
        yield "the same step gives two different sets of samples"
    if torch.equal(first, later):
        yield "another step gives the same samples"


# ------------------------------------------------------------------------------------------------------- networks


def _stack(cls: type[Network], dim: int, seeds: list[int]) -> Any:
    network = cls.model_validate({})
    return network.stack(cls.trial_shape, dim, Place(seeds, torch.device("cpu"), torch.float64))


def _inputs(cls: type[Network], seeds: int, dim: int) -> tuple[Tensor, Tensor]:
    draws = Streams([97], stacked=False).at(0)
    shape = cls.trial_shape
    x = draws.normal("x", (1, 5, *shape), torch.float64).expand(seeds, 5, *shape)
    return x, draws.normal("y", (1, 5, 6, dim), torch.float64).expand(seeds, -1, -1, -1)


def network_shapes(cls: type[Network]) -> Iterator[str]:
    """The energy is one finite number for each candidate, for D = 1 and 4 and two seeds."""
    for dim in DIMENSIONS:
        x, y = _inputs(cls, 2, dim)
        f, _ = _stack(cls, dim, [0, 1]).bind(x)
        values = f(y)
        if values.shape != (2, 5, 6) or not values.isfinite().all():
            yield f"for x {tuple(x.shape)} and candidates {tuple(y.shape)}: f {tuple(values.shape)}, finite or not"
        elif not torch.allclose(_stack(cls, dim, [0, 1]).bind(x[:, :2])[0](y[:, :2]), values[:, :2]):
            yield "f of a row depends on the other rows of its mini-batch, as with batch normalisation"


def network_gradient(cls: type[Network]) -> Iterator[str]:
    """Its ∂f/∂y is that of finite differences, and a second derivative can be taken."""
    x, y = _inputs(cls, 1, 1)
    f, _ = _stack(cls, 1, [0]).bind(x)
    slope = f.grad(y, create_graph=True)
    difference = (f(y + 1e-5) - f(y - 1e-5)) / 2e-5
    if not torch.allclose(slope[..., 0], difference, atol=1e-5, rtol=1e-4):
        yield f"they differ by {(slope[..., 0] - difference).abs().max().item():.2g}"
    torch.autograd.grad(slope.square().sum(), [_stack(cls, 1, [0]).flat], allow_unused=True)


def network_seeds(cls: type[Network]) -> Iterator[str]:
    """A seed has the same weights alone and among others, and other seeds have others."""
    x, y = _inputs(cls, 2, 1)
    with torch.no_grad():
        together = _stack(cls, 1, [0, 5]).bind(x)[0](y)
        alone = _stack(cls, 1, [5]).bind(x[:1])[0](y[:1])
    if not torch.allclose(together[1], alone[0]):
        yield "seed 5 alone has another f than beside seed 0"
    if torch.allclose(together[0], together[1]):
        yield "seeds 0 and 5 have the same f: take initial weights from PyTorch's generator"


# ----------------------------------------------------------------------------------------- models of other libraries


def _line(cls: type[Outside], rows: int, dim: int) -> Rows:
    """Returns rows with `y_d = x_1 + 0.5 ε_d`, for inputs of the shape with which the model is tried."""
    draws = Streams([97], stacked=False).at(rows)
    x = draws.normal("x", (rows, *cls.trial_shape))
    y = x.flatten(1)[:, :1] + 0.5 * draws.normal("y", (rows, dim))
    return Rows(x.numpy(), y.double().numpy())


def _fitted(cls: type[Outside], dim: int) -> dict[str, np.ndarray]:
    network = cls.model_validate({})
    made = network.fit(_line(cls, 200, dim), _line(cls, 60, dim), 3, lambda done, total: None)
    return {name: np.asarray(value) for name, value in made.items()}


def outside_fit(cls: type[Outside]) -> Iterator[str]:
    """A fit is plain arrays of numbers, and the same each time."""
    first, again = _fitted(cls, 1), _fitted(cls, 1)
    for name, value in first.items():
        if value.dtype.kind not in "biuf":
            yield f"{name} holds {value.dtype}, and no numbers"
        elif name not in again or not np.array_equal(value, again[name]):
            yield f"{name} is another one when the same seed is fitted again"


def outside_density(cls: type[Outside]) -> Iterator[str]:
    """Its density integrates to one, is that of each row by itself, and takes two targets as well."""
    network, nodes = cls.model_validate({}), 3 * np.sinh(np.linspace(-4.9, 4.9, 20_001))
    for dim in (1, 2):
        fitted, rows = _fitted(cls, dim), _line(cls, 5, dim)
        candidates = np.repeat(rows.y[:, None], 4, axis=1)
        values = network.density(fitted, rows.x)(candidates)
        if values.shape != (5, 4) or not np.isfinite(values).all():
            yield f"for candidates {candidates.shape}: log p {values.shape}, finite or not"
        elif not np.allclose(network.density(fitted, rows.x[3:4])(candidates[3:4]), values[3:4], atol=1e-5):
            yield "a row has another density alone than among others"
        if dim == 1:
            density = torch.from_numpy(network.density(fitted, rows.x)(np.tile(nodes[:, None], (5, 1, 1)))).exp()
            masses = torch.trapezoid(density, torch.from_numpy(nodes))
            if not torch.allclose(masses, torch.ones_like(masses), atol=0.01):
                yield f"the mass on [-200, 200] is {masses.min():.3g} to {masses.max():.3g}"


# ---------------------------------------------------------------------------------------------- datasets and tasks


def data_arrays(cls: type[Component]) -> Iterator[str]:
    """Its arrays have shapes that fit, no gaps, and are the same each time."""
    data: Any = cls.model_validate({})
    split, again = data.load(), data.load()
    if not isinstance(split, Split):
        yield f"load returned a {type(split).__name__}, and no Split, such as arrays_split(x, y) makes"
        return
    check_targets(split)
    for name in ("train", "val", "test"):
        part, other = getattr(split, name), getattr(again, name)
        if len(part.x) != len(part.y) or part.y.dim() != 2 or not len(part.x):
            yield f"{name}: x {tuple(part.x.shape)} and y {tuple(part.y.shape)}; wanted are [N, ...] and [N, D], N > 0"
        elif not (part.x.isfinite().all() and part.y.isfinite().all()):
            yield f"{name}: there are numbers that are not finite"
        elif not (torch.equal(part.x, other.x) and torch.equal(part.y, other.y)):
            yield f"{name}: two calls of load give different arrays"


def task_metrics(cls: type[Task]) -> Iterator[str]:
    """It has metrics, the headline first, which is better lower or higher."""
    if not cls.metrics:
        yield "metrics is empty"
    elif cls.metrics[0].better is None:
        yield f"the headline {cls.metrics[0].name} is better neither lower nor higher"
    for metric in cls.metrics:
        if isinstance(metric.better, str) and metric.better not in ("lower", "higher"):
            yield f"the metric {metric.name} has better={metric.better!r}: give 'lower', 'higher', a number or None"


def task_step(cls: type[Task]) -> Iterator[str]:
    """Its models make a training step, and their scores are the metrics that it names."""
    config = compose.compose([f"task={cls.name}", "device=cpu", "seeds=2"])
    setup: Setup = config.setup
    with tempfile.TemporaryDirectory() as folder:
        groups = [config.seeds] if config.task.seed_bytes(setup, torch.device("cpu")) else [(0,)]
        learner = config.task.learner(setup, groups[0], torch.device("cpu"))
        training = Training(learner)
        before = [p.detach().clone() for p in learner.parameters.values()]
        training.step()
        if all(torch.equal(old, p) for old, p in zip(before, learner.parameters.values(), strict=True)):
            yield "a training step changes no parameter"
        scores = learner.evaluate(Path(folder), [False] * len(learner.seeds))
        if len(scores) != len(learner.seeds):
            yield f"evaluate returned {len(scores)} rows for {len(learner.seeds)} seeds"
        unknown = set(scores[0]) - {metric.name for metric in cls.metrics}
        if unknown:
            yield f"evaluate gives {', '.join(sorted(unknown))}, which metrics does not name"
        if cls.metrics[0].name not in scores[0]:
            yield f"evaluate does not give the headline {cls.metrics[0].name}"
        numbers = [name for name, value in scores[0].items() if not isinstance(value, int | float) or math.isnan(value)]
        if numbers:
            yield f"evaluate gives no number for {', '.join(sorted(numbers))}"
