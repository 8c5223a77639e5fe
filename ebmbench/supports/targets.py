"""The targets of a model: the support of each, fitted to the training rows, and the base measure of all together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from ebmbench.core.energy import Energy
from ebmbench.core.errors import UserError
from ebmbench.core.importance import normal
from ebmbench.supports.base import Support, support_of
from ebmbench.supports.measure import BaseDensity, Measure
from ebmbench.supports.target_range import InRange, TargetRange

if TYPE_CHECKING:
    from torch import Tensor

ODD = 0.00314159265
"""z of an atom that has no coordinate of its own, such as the 0 of a positive target: a value that no other row has."""
SAME = 2e-6
"""Relative distance below which z is an atom, for z may be float32."""


@dataclass(frozen=True)
class Axis:
    """One target: its support, how it is standardised, and its base measure.

    Attributes:
        mean, std: z = (u - mean) / std, with u the support's coordinate.
        shares: of the atoms in the training rows.
        base: the settings of a base density on the real line.
        low, high: the least and the largest z of the training targets, atoms apart.
    """

    support: Support
    mean: float
    std: float
    shares: tuple[float, ...]
    base: BaseDensity
    low: float = -math.inf
    high: float = math.inf

    @staticmethod
    def of(name: str, support: Support, y: Tensor, base: BaseDensity, standardize: bool) -> Axis:
        """Measures training targets `[N]` float64.

        Raises:
            UserError: a target is outside the support, or they have no spread.
        """
        support = support.fitted(y)
        atom = is_one_of(y, y.new_tensor(support.atoms))
        ok = support.inside(y) | atom
        if not ok.all():
            wrong = y[~ok]
            raise UserError(
                f"the target {name!r} is {float(wrong[0]):g} in {len(wrong)} of {len(y)} training rows, and "
                f"support={support.name} takes values {support.text}"
            )
        continuous = y if support.discrete else y[~atom]
        if len(continuous) < 2:
            raise UserError(f"the target {name!r} has {len(continuous)} training rows beside its atoms; 2 are needed")
        u = support.coordinate(continuous)
        mean, std = support.scale(u) if standardize else (0.0, 1.0)
        low, high = (float((end - mean) / std) for end in u.aminmax())
        shares = () if support.discrete else tuple(float((y == value).double().mean()) for value in support.atoms)
        return Axis(support, mean, std, tuple(max(share, 1e-3) for share in shares), base, low, high)

    @property
    def plain(self) -> bool:
        """Whether z is the standardised target, and nothing else."""
        return self.support.name == "real" and not self.support.atoms

    @cached_property
    def measure(self) -> Measure:
        """The base measure of z, atoms apart."""
        return self.support.measure(self.base, self.mean, self.std)

    @cached_property
    def atoms(self) -> Tensor:
        """Z of the atoms, `[K]` float64."""
        values = torch.tensor(self.support.atoms, dtype=torch.float64)
        own = (self.support.coordinate(values) - self.mean) / self.std
        return torch.where(self.support.inside(values), own, ODD * (1 + torch.arange(len(values))))

    @cached_property
    def points(self) -> Tensor:
        """Z of all values that have a probability, `[K]` float64; none for a density."""
        values = self.support.points(self.measure, self.mean, self.std)
        return self.atoms if values is None else (values - self.mean) / self.std

    @cached_property
    def values(self) -> Tensor:
        """The values of `points`, `[K]` float64."""
        values = self.support.points(self.measure, self.mean, self.std)
        return torch.tensor(self.support.atoms, dtype=torch.float64) if values is None else values

    def is_point(self, z: Tensor) -> Tensor:
        """Returns which z have a probability: bool of the same shape."""
        if self.support.discrete:
            return torch.ones_like(z, dtype=torch.bool)
        return is_one_of(z, self.atoms.to(z)) if self.support.atoms else torch.zeros_like(z, dtype=torch.bool)

    def z(self, y: Tensor) -> Tensor:
        """Returns z of values, float64, of the same shape."""
        y = y.double()
        found = (self.support.coordinate(y) - self.mean) / self.std
        for value, place in zip(self.support.atoms, self.atoms.tolist(), strict=True):
            found = torch.where(y == value, place, found)
        return found

    def value(self, z: Tensor) -> Tensor:
        """Returns the values of z, float64, of the same shape."""
        z = z.double()
        u = self.mean + self.std * z
        found = self.support.value(u.round() if self.support.discrete else u)
        for value, place in zip(self.support.atoms, self.atoms.tolist(), strict=True):
            found = torch.where(is_one_of(z, z.new_tensor([place])), value, found)
        return found

    def log_slope(self, z: Tensor) -> Tensor:
        """Returns `log dy/dz`, which a log-density of z has more than one of y; 0 where z has a probability."""
        if self.support.discrete:
            return torch.zeros_like(z)
        slope = self.density_slope(z)
        return torch.where(self.is_point(z), 0.0, slope) if self.support.atoms else slope

    def density_slope(self, z: Tensor) -> Tensor:
        """Returns `log dy/dz` of z that are no points."""
        return math.log(self.std) + self.support.log_slope(self.mean + self.std * z)

    def log_prob(self, z: Tensor) -> Tensor:
        """Returns the base measure's log-density, or log-probability at points, of the shape of z."""
        found = self.measure.log_prob(z)
        if not self.shares:
            return found
        found = found + math.log1p(-sum(self.shares))
        for share, place in zip(self.shares, self.atoms.tolist(), strict=True):
            found = torch.where(is_one_of(z, z.new_tensor([place])), math.log(share), found)
        return found

    def score(self, z: Tensor) -> Tensor:
        """Returns the derivative of `log_prob`, of the shape of z; there is none at points."""
        return self.measure.score(z)

    def embed(self, z: Tensor) -> Tensor:
        """Returns what a network sees of z: `[...] -> [..., features]`; an atom by a 1 in a place of its own."""
        if not self.support.atoms:
            return self.support.embed(z)
        which = (z.unsqueeze(-1) - self.atoms.to(z)).abs() <= SAME * (1 + self.atoms.to(z).abs())
        seen = self.support.embed(z)
        if not self.support.discrete:
            seen = torch.where(which.any(-1, keepdim=True), 0.0, seen)
        return torch.cat((seen, which.to(z.dtype)), -1)

    def slopes(self, z: Tensor) -> Tensor:
        """Returns the derivative of `embed`, `[..., features]`."""
        return torch.nn.functional.pad(self.support.slopes(z), (0, len(self.support.atoms)))

    def outside(self, z: Tensor) -> Tensor:
        """Returns which z are no value of the support: bool of the same shape."""
        low, high = self.measure.ends
        return self.measure.flat & ((z < low - 1e-9) | (z > high + 1e-9)) & ~self.is_point(z)

    @property
    def features(self) -> int:
        """How many numbers a network sees of the target."""
        return self.support.features + len(self.support.atoms)


def is_one_of(z: Tensor, values: Tensor) -> Tensor:
    """Returns which z are one of some values `[K]`, up to rounding: bool of the shape of z."""
    return ((z.unsqueeze(-1) - values).abs() <= SAME * (1 + values.abs())).any(-1)


@dataclass(frozen=True)
class Targets:
    """D targets: their axes, and the base measure of all, under which they are independent."""

    axes: tuple[Axis, ...]

    @staticmethod
    def of(
        names: Sequence[str], supports: Sequence[Support], y: Tensor, base: BaseDensity, standardize: bool = True
    ) -> Targets:
        """Measures training targets `[N, D]`.

        Raises:
            UserError: a target is outside its support.
        """
        if len(supports) != len(names):
            raise UserError(f"data.support has {len(supports)} entries for {len(names)} targets: {', '.join(names)}")
        bent = next((s for s in supports if not s.line or s.atoms or s.find_atoms), None)
        if len(names) > 1 and bent is not None:
            kind = f"{bent.name} with atoms" if bent.line else bent.name
            raise UserError(f"support={kind} takes one target, and there are {len(names)}; use real or positive")
        columns = zip(names, supports, y.double().unbind(-1), strict=True)
        return Targets(tuple(Axis.of(name, support, column, base, standardize) for name, support, column in columns))

    def plain(self) -> list[dict[str, Any]]:
        """Returns it as plain data, for JSON."""
        return [
            {"support": axis.support.plain()}
            | {name: getattr(axis, name) for name in ("mean", "std", "low", "high")}
            | {"shares": list(axis.shares)}
            for axis in self.axes
        ]

    @staticmethod
    def restore(plain: Sequence[Mapping[str, Any]], base: BaseDensity) -> Targets:
        """Reads back what `plain` returned."""
        return Targets(
            tuple(
                Axis(
                    support_of(one["support"]),
                    one["mean"],
                    one["std"],
                    tuple(one["shares"]),
                    base,
                    one["low"],
                    one["high"],
                )
                for one in plain
            )
        )

    @property
    def base(self) -> BaseDensity:
        """The settings of a base density on the real line."""
        return self.axes[0].base

    @cached_property
    def flat(self) -> bool:
        """Whether the base measure is constant, so that it adds nothing to an energy."""
        return all(axis.measure.flat and not axis.shares for axis in self.axes)

    @cached_property
    def range(self) -> TargetRange | None:
        """The range of the training targets, beyond which energies fall; None where the support has ends or none."""
        if not all(axis.support.line for axis in self.axes):
            return None
        low, high = (torch.tensor([getattr(axis, name) for axis in self.axes]).double() for name in ("low", "high"))
        return TargetRange(low, high)

    def is_point(self, z: Tensor) -> Tensor:
        """Returns which z `[..., D]` have a probability: bool of the same shape."""
        return torch.stack([axis.is_point(part) for axis, part in zip(self.axes, z.unbind(-1), strict=True)], -1)

    @property
    def discrete(self) -> bool:
        """Whether every value of a target has a probability."""
        return any(axis.support.discrete for axis in self.axes)

    @property
    def line(self) -> bool:
        """Whether z is all of R^D, where a density that a network has by itself is one of z."""
        return all(axis.support.line and not axis.support.atoms for axis in self.axes)

    @property
    def features(self) -> int:
        """How many numbers a network sees of the targets."""
        return sum(axis.features for axis in self.axes)

    @property
    def standard(self) -> bool:
        """Whether a network sees z itself."""
        return all(axis.features == 1 for axis in self.axes)

    @cached_property
    def std(self) -> Tensor:
        """Standard deviations of the coordinates, `[D]` float64."""
        return torch.tensor([axis.std for axis in self.axes], dtype=torch.float64)

    def z(self, y: Tensor) -> Tensor:
        """Returns z of values `[..., D]`, float64."""
        return torch.stack([axis.z(part) for axis, part in zip(self.axes, y.unbind(-1), strict=True)], -1)

    def value(self, z: Tensor) -> Tensor:
        """Returns the values of z `[..., D]`, float64."""
        return torch.stack([axis.value(part) for axis, part in zip(self.axes, z.unbind(-1), strict=True)], -1)

    def difference(self, y: Tensor, other: Tensor) -> Tensor:
        """Returns how far values `[..., D]` are above others."""
        parts = zip(self.axes, y.unbind(-1), other.unbind(-1), strict=True)
        return torch.stack([axis.support.difference(one, two) for axis, one, two in parts], -1)

    def log_slope(self, z: Tensor) -> Tensor:
        """Returns what the log-density of z `[..., D]` has more than that of the values: `[...]`."""
        parts = [axis.log_slope(part) for axis, part in zip(self.axes, z.unbind(-1), strict=True)]
        return torch.stack(parts, -1).sum(-1)

    def log_prob(self, z: Tensor) -> Tensor:
        """Returns the base measure's log-density at z: `[..., D] -> [...]`."""
        if self._alike:
            return self.axes[0].log_prob(z).sum(-1)
        parts = [axis.log_prob(part) for axis, part in zip(self.axes, z.unbind(-1), strict=True)]
        return torch.stack(parts, -1).sum(-1)

    def score(self, z: Tensor) -> Tensor:
        """Returns the derivative of `log_prob`, `[..., D]`."""
        if self._alike:
            return self.axes[0].score(z)
        return torch.stack([axis.score(part) for axis, part in zip(self.axes, z.unbind(-1), strict=True)], -1)

    @cached_property
    def _alike(self) -> bool:
        return all(axis.measure == self.axes[0].measure and not axis.shares for axis in self.axes)

    def embed(self, z: Tensor) -> Tensor:
        """Returns what a network sees of z: `[..., D] -> [..., features]`."""
        if self.standard:
            return z
        return torch.cat([axis.embed(part) for axis, part in zip(self.axes, z.unbind(-1), strict=True)], -1)

    def pull(self, grad: Tensor, z: Tensor) -> Tensor:
        """Returns the derivative in z `[..., D]` of a function whose derivative in what a network sees is given."""
        if self.standard:
            return grad
        sizes = [axis.features for axis in self.axes]
        parts = zip(self.axes, grad.split(sizes, -1), z.unbind(-1), strict=True)
        return torch.stack([(one * axis.slopes(part)).sum(-1) for axis, one, part in parts], -1)

    def energy(self, f: Energy, normalised: bool = False) -> Energy:
        """Returns the energy of z of a network's f, with the base measure unless it is normalised by itself."""
        if normalised:
            return f
        seen = f if self.standard else Embedded(f, self)
        if self.range is not None:
            points = self.is_point if any(axis.support.atoms for axis in self.axes) else None
            seen = InRange(seen, self.range, points)
        return seen if self.flat else WithBase(seen, self)


class Embedded:
    """The energy of z of a network that sees a circle by its cosine and sine, and atoms by places of their own."""

    def __init__(self, inner: Energy, targets: Targets) -> None:
        self.inner, self.targets = inner, targets

    def __call__(self, y: Tensor) -> Tensor:
        """Returns the energy: z `[..., M, D]` -> `[..., M]`."""
        return self.inner(self.targets.embed(y))

    def grad(self, y: Tensor, create_graph: bool = False) -> Tensor:
        """Returns its derivative in z, `[..., M, D]`; with `create_graph` it can be differentiated again."""
        with torch.set_grad_enabled(create_graph):
            return self.targets.pull(self.inner.grad(self.targets.embed(y), create_graph), y)


class WithBase:
    """The energy `f(x, y) + log μ(y)` of z, of a model whose network gives f."""

    def __init__(self, inner: Energy, targets: Targets) -> None:
        self.inner, self.targets = inner, targets

    def __call__(self, y: Tensor) -> Tensor:
        """Returns the energy: z `[..., M, D]` -> `[..., M]`."""
        return self.inner(y) + self.targets.log_prob(y)

    def grad(self, y: Tensor, create_graph: bool = False) -> Tensor:
        """Returns its derivative in z, `[..., M, D]`; with `create_graph` it can be differentiated again."""
        with torch.set_grad_enabled(create_graph):
            return self.inner.grad(y, create_graph) + self.targets.score(y)


@dataclass(frozen=True)
class Wide:
    """The base measure as a proposal."""

    targets: Targets
    device: torch.device

    def sample(self, lead: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
        """Returns `count` draws for S models and B rows, `[B, count, D]` or `[S, B, count, D]`."""
        shape = (lead[1], count, len(self.targets.axes))
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64).clamp(min=1e-12).to(self.device)
        drawn = normal(shape, generator, self.device)
        columns = zip(self.targets.axes, drawn.unbind(-1), uniform.unbind(-1), strict=True)
        return torch.stack([axis.measure.sample(one, other) for axis, one, other in columns], -1)

    def log_prob(self, y: Tensor) -> Tensor:
        """Returns the log-density at y: `[..., D] -> [...]`."""
        return self.targets.log_prob(y)
