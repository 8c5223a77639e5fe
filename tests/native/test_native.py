"""The fused kernels against PyTorch operations: the same loss and gradients, whatever is trained beside and by how many
threads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ebmbench.core.energy import Energy
from ebmbench.core.rng import Streams
from ebmbench.core.step import Step
from ebmbench.methods.base import Method
from ebmbench.methods.contrastive import NCE, NCEPlus
from ebmbench.methods.likelihood import KLDIS, MLIS, MLMCMC
from ebmbench.methods.score import DSM, SM
from ebmbench.methods.sliced import SSM
from ebmbench.models.networks import fused as native
from ebmbench.models.networks.paper import Parameters, fused_energy, initial_parameters, plain_energy
from ebmbench.native import build
from ebmbench.proposals.mixture import GaussianMixture

needs_kernels = pytest.mark.skipif(build.unavailable() is not None, reason=f"no kernels: {build.unavailable()}")

Q = GaussianMixture(stds=(0.1, 0.8), shared=True)
METHODS: dict[str, Method] = {
    "ml-is": MLIS(num_samples=130),
    "kld-is": KLDIS(num_samples=130, sigma=0.1),
    "ml-mcmc": MLMCMC(num_samples=130, langevin_steps=16, langevin_step=0.05),
    "nce": NCE(num_samples=130),
    "nce+": NCEPlus(num_samples=130, beta=0.025),
    "sm": SM(),
    "ssm": SSM(),
    "dsm": DSM(num_samples=130, sigma=0.2),
}


def doubled(parameters: Parameters) -> Parameters:
    """Larger weights than those of the initialisation, so that tanh saturates here and there."""
    return {name: (2 * p.detach()).requires_grad_() for name, p in parameters.items()}


def cast(parameters: Parameters) -> Parameters:
    return {name: p.detach().double().requires_grad_() for name, p in parameters.items()}


def joined(parameters: Parameters) -> Tensor:
    """All parameters in one tensor, as the kernels take them; gradients flow back."""
    return torch.cat([p.flatten(1) for p in parameters.values()], dim=1)


def fused(parameters: Parameters, x: Tensor) -> Energy:
    return fused_energy(joined(parameters), x)


def points(seeds: int, batch: int, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seeds + 10 * batch + 1000 * samples)
    x = 6 * torch.rand(seeds, batch, generator=generator) - 3
    y = 6 * torch.rand(seeds, batch, samples, 1, generator=generator) - 3
    return x, y, torch.randn(seeds, batch, samples, generator=generator)


def gradients(values: Tensor, of: list[Tensor]) -> list[Tensor]:
    parts = torch.autograd.grad(values, of, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(parts, of, strict=True)]


def slope_and_curvature(energy: Energy, y: Tensor) -> tuple[Tensor, Tensor]:
    """`∂f/∂y` and `∂²f/∂y²`, as score matching asks for them."""
    at = y.clone().requires_grad_()
    slope = energy.grad(at, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), at, create_graph=True)
    return slope, curvature


def assert_near(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    """Agreement relative to the largest entry of all: sums of M terms of both signs have no small relative error."""
    scale = max(0.1, *(t.abs().max().item() for t in theirs))
    for a, b in zip(ours, theirs, strict=True):
        assert (a.double() - b.double()).abs().max().item() <= tolerance * scale


@needs_kernels
@pytest.mark.parametrize("name", METHODS)
def test_loss_and_gradient_of_every_method_are_the_plain_ones(name: str) -> None:
    parameters = doubled(initial_parameters((0, 3), torch.float32, "cpu"))
    x, y, _ = points(2, 5, 1)
    seen = []
    for make in (fused, plain_energy):
        draws = Streams((0, 3)).at(11)
        loss = METHODS[name].loss(make(parameters, x), y[:, :, 0], Step(draws, Q))
        seen.append((loss, gradients(loss.sum(), list(parameters.values()))))
    assert isinstance(fused(parameters, x), native.FusedEnergy)
    torch.testing.assert_close(
        seen[0][0], seen[1][0], rtol=1e-5, atol=1e-5
    )  # of ml-mcmc's a difference of two f is left
    assert_near(seen[0][1], seen[1][1], 1e-4)


# One block and less, several examples in a block, several blocks in an example, several tasks.
@needs_kernels
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 7), (3, 32, 1), (2, 3, 300), (1, 9, 1025), (1, 2, 5000)])
def test_all_derivatives_against_float64(shape: tuple[int, int, int]) -> None:
    parameters = doubled(initial_parameters(range(shape[0]), torch.float32, "cpu"))
    x, y, weights = points(*shape)
    at = y.clone().requires_grad_()
    ours = fused(parameters, x)
    exact_parameters = cast(parameters)
    exact = plain_energy(exact_parameters, x.double())
    exact_at = y.double().requires_grad_()

    value, exact_value = ours(at), exact(exact_at)
    assert_near([value], [exact_value], 2e-6)
    assert_near(
        gradients((value * weights).sum(), [*parameters.values(), at]),
        gradients((exact_value * weights).sum(), [*exact_parameters.values(), exact_at]),
        1e-5,
    )
    slope, exact_slope = ours.grad(y, create_graph=True), exact.grad(y.double(), create_graph=True)
    assert_near([slope], [exact_slope], 3e-6)
    assert_near([ours.grad(y)], [exact_slope], 3e-6)
    assert_near(
        gradients((slope[..., 0] * weights).sum(), list(parameters.values())),
        gradients((exact_slope[..., 0] * weights).sum(), list(exact_parameters.values())),
        1e-5,
    )
    both, exact_both = slope_and_curvature(ours, y), slope_and_curvature(exact, y.double())
    assert_near(list(both), list(exact_both), 2e-5)
    other = weights.flip(0, 1, 2)
    assert_near(
        gradients((both[0][..., 0] * weights + both[1][..., 0] * other).sum(), list(parameters.values())),
        gradients(
            (exact_both[0][..., 0] * weights + exact_both[1][..., 0] * other).sum(), [*exact_parameters.values()]
        ),
        5e-5,
    )


@needs_kernels
def test_curvature_and_its_gradients_are_those_of_finite_differences() -> None:
    parameters = initial_parameters(range(2), torch.float32, "cpu")
    x, y, weights = points(2, 5, 9)
    f, step = fused(parameters, x), 0.02
    _, curvature = slope_and_curvature(f, y)
    assert_near([curvature], [(f.grad(y + step) - f.grad(y - step)) / (2 * step)], 2e-3)

    def total(flat: Tensor, at: Tensor) -> Tensor:
        slope, curvature = native.FusedEnergy(flat, x).slope_and_curvature(at)
        return ((curvature + 0.5 * slope.square()).squeeze(-1) * weights).sum()

    flat, at = joined(parameters).detach().requires_grad_(), y.clone().requires_grad_()
    for gradient, of in zip(torch.autograd.grad(total(flat, at), (flat, at)), (flat, at), strict=True):
        direction = torch.nn.functional.normalize(gradient.flatten(), dim=0).view_as(of)
        with torch.no_grad():
            above, below = (
                [p + move if p is of else p for p in (flat, at)] for move in (step * direction, -step * direction)
            )
            difference = (total(*above) - total(*below)) / (2 * step)
        assert_near([(gradient * direction).sum()], [difference], 1e-2)


@needs_kernels
def test_dsm_gradient_reaches_the_weights_through_the_second_derivative() -> None:
    parameters = doubled(initial_parameters((5,), torch.float32, "cpu"))
    exact = cast(parameters)
    x, y, _ = points(1, 8, 1)
    loss = METHODS["dsm"].loss(fused(parameters, x), y[:, :, 0], Step(Streams((5,)).at(0), Q))
    exact_loss = METHODS["dsm"].loss(plain_energy(exact, x.double()), y[:, :, 0].double(), Step(Streams((5,)).at(0), Q))
    assert_near(
        gradients(loss.sum(), list(parameters.values())), gradients(exact_loss.sum(), list(exact.values())), 1e-5
    )


def everything(energy: Energy, parameters: Parameters, y: Tensor, weights: Tensor) -> list[Tensor]:
    """Values, slopes and curvatures, and the gradients of all."""
    value, slope = energy(y), energy.grad(y, create_graph=True)
    of = list(parameters.values())
    both = slope_and_curvature(energy, y)
    return [
        value,
        slope,
        *both,
        *gradients((value * weights).sum(), of),
        *gradients((slope[..., 0] * weights).sum(), of),
        *gradients(((both[0].square() + both[1])[..., 0] * weights).sum(), of),
    ]


@needs_kernels
def test_a_seed_alone_is_the_same_bit_for_bit_as_among_others() -> None:
    x, y, weights = points(4, 9, 1025)
    parameters = initial_parameters(range(4), torch.float32, "cpu")
    one = {name: p[2:3].detach().clone().requires_grad_() for name, p in parameters.items()}
    among = everything(fused(parameters, x), parameters, y, weights)
    alone = everything(fused(one, x[2:3]), one, y[2:3], weights[2:3])
    assert all(torch.equal(a[2:3], b) for a, b in zip(among, alone, strict=True))


@needs_kernels
def test_the_number_of_threads_changes_nothing(threads: None) -> None:
    x, y, weights = points(3, 9, 1025)
    assert y.numel() > native.SERIAL
    parameters = initial_parameters(range(3), torch.float32, "cpu")
    results, drawn = [], []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(everything(fused(parameters, x), parameters, y, weights))
        drawn.append(Streams((0, 1)).at(3).normal("a", (2, 40001)))
    for other, normals in zip(results[1:], drawn[1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
        assert torch.equal(drawn[0], normals)


@needs_kernels
def test_a_seed_whose_weights_are_not_finite_says_so_and_leaves_the_others_alone() -> None:
    x, y, weights = points(3, 4, 130)
    parameters = initial_parameters(range(3), torch.float32, "cpu")
    good = everything(fused(parameters, x), parameters, y, weights)
    with torch.no_grad():
        parameters["res1.weight"][1, 4, 4] = torch.nan
    bad = everything(fused(parameters, x), parameters, y, weights)
    assert bad[0][1].isnan().all() and bad[1][1].isnan().all()
    assert all(torch.equal(a[[0, 2]], b[[0, 2]]) for a, b in zip(good, bad, strict=True))


@needs_kernels
def test_any_other_network_or_precision_gets_the_plain_path() -> None:
    x, y, _ = points(2, 3, 4)
    parameters = initial_parameters(range(2), torch.float32, "cpu")
    assert native.can_fuse(joined(parameters))
    assert not native.can_fuse(joined(parameters).double())
    assert not native.can_fuse(joined(parameters)[:, 1:])
    exact = fused(cast(parameters), x.double())
    assert not isinstance(exact, native.FusedEnergy)
    assert exact(y.double()).dtype == torch.float64


@needs_kernels
@pytest.mark.parametrize("size", [1, 3, 4, 5, 1023, 40001])
def test_random_numbers_are_those_of_the_pytorch_version(size: int) -> None:
    streams = Streams((0, 7, 2**40 + 5))
    ours, theirs = streams.at(77), streams.at(torch.tensor(77))  # a tensor's value is not known on the host
    assert torch.equal(ours.words("a/b", (3, size)), theirs.words("a/b", (3, size)))
    ours_normal, normal = ours.normal("a/b", (3, size)), theirs.normal("a/b", (3, size))
    torch.testing.assert_close(ours_normal, normal, rtol=2e-6, atol=5e-7)


# ------------------------------------------------------------------------------------------ where they cannot be had

SCRIPT = """
import torch
from ebmbench.core.rng import Streams
from ebmbench.models.networks.paper import fused_energy, initial_parameters, plain_energy
parameters = initial_parameters((0, 1), torch.float32, "cpu")
x, y = torch.linspace(-3, 3, 8).view(2, 4), torch.linspace(-3, 3, 40).view(2, 4, 5, 1)
flat = torch.cat([p.flatten(1) for p in parameters.values()], dim=1)
assert torch.equal(fused_energy(flat, x)(y), plain_energy(parameters, x)(y))
fused_energy(flat, x)
print(Streams((0, 1)).at(5).normal("a", (2, 9)).sum().item())
"""


def test_without_a_compiler_one_line_says_so_and_the_plain_path_serves(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": "", "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.getcwd()}
    environment.pop("CC", None)
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stderr.strip().splitlines()
    assert len(said) == 1 and "no C compiler" in said[0] and "slower" in said[0]
    expected = Streams((0, 1)).at(torch.tensor(5)).normal("a", (2, 9)).sum().item()
    assert float(done.stdout) == pytest.approx(expected, abs=1e-5)


def test_a_compiler_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "broken-cc"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "x.c:1: error: it is broken" >&2\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(build.Unavailable, match=r"broken-cc failed: x\.c:1: error: it is broken"):
        build._compiled()
    assert list((tmp_path / "cache" / "ebmbench" / "kernels").iterdir()) == []


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library in a cache of its own, by a compiler that notes in `count` that it was called."""
    compiler = tmp_path / "counting-cc"
    real = " ".join(build._compiler())
    compiler.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] || echo x >> {tmp_path / "count"}\nexec {real} -O0 "$@" -O0\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return build._compiled()


def calls(tmp_path: Path) -> int:
    return len((tmp_path / "count").read_text().splitlines())


@needs_kernels
def test_a_compiled_library_is_kept_and_found_again(compiled: Path, tmp_path: Path) -> None:
    assert build._compiled() == compiled and compiled.exists()
    assert calls(tmp_path) == 1 and list(compiled.parent.iterdir()) == [compiled]
    assert compiled.parent.stat().st_mode & 0o777 == 0o700 and compiled.stat().st_mode & 0o077 == 0


def _truncate(path: Path) -> None:
    os.truncate(path, 3000)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def _give_away(path: Path) -> None:
    os.chown(path, 12345, 12345)


@needs_kernels
@pytest.mark.parametrize("damage", [_truncate, _flip, _link, lambda path: path.chmod(0o666), _give_away])
def test_a_wrong_library_is_never_loaded_but_made_again(
    damage: Callable[[Path], None], compiled: Path, tmp_path: Path
) -> None:
    if damage is _give_away and os.getuid() != 0:
        pytest.skip("only root can give files away")
    whole = compiled.read_bytes()
    damage(compiled)
    again = build._compiled()
    assert calls(tmp_path) == 2 and build._is_whole(again)
    assert len(again.read_bytes()) == len(whole) and again.lstat().st_uid == os.getuid()


@needs_kernels
def test_a_cache_that_others_can_write_is_not_used(compiled: Path) -> None:
    compiled.parent.chmod(0o770)
    with pytest.raises(build.Unavailable, match="is not this user's alone"):
        build._compiled()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"XDG_CACHE_HOME": "/dev/null/cache"}, "no folder for them can be had"),
        ({"CC": "'"}, "CC=' cannot be read"),
        ({"CC": "/dev"}, "/dev: "),
        ({"CC": "true"}, "No such file"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(
    environment: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = build.library.__wrapped__()
    assert isinstance(found, build.Unavailable) and said in str(found) and "\n" not in str(found)


def test_no_home_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(cls: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", classmethod(nobody))
    assert isinstance(build.library.__wrapped__(), build.Unavailable)
