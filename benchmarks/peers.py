"""The 1D benchmark's peers: the same step of S models as others would write it, by JAX and by `torch.compile`.

Both are `vmap` over the models and one compilation of the whole step: random numbers, loss, gradient, Adam. The network
and the losses are written once here, for either library; `check` holds them to the project's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ebmbench.core.errors import UserError
from ebmbench.core.step import Step
from ebmbench.models.networks.paper import HIDDEN, layers

LIBRARIES = ("jax", "compile")
TOLERANCE = 1e-5
Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Library:
    """What the step needs of a library; arrays have the same operators in both."""

    np: Any
    logsumexp: Callable[[Any, int], Any]
    grad: Callable[..., Any]


def library(name: str) -> Library:
    """Returns the library of this name.

    Raises:
        UserError: JAX is not installed.
    """
    if name == "compile":
        return Library(torch, torch.logsumexp, torch.func.grad)
    try:
        import jax
    except ImportError:
        raise UserError("--peers jax needs the package jax: pip install jax") from None
    return Library(jax.numpy, jax.nn.logsumexp, jax.grad)


def energy(lib: Library, p: Arrays, x: Any, y: Any) -> Any:
    """Returns f of one model: x `[B]` and y `[B, M]` to `[B, M]`."""
    h = lib.np.clip(x[:, None] @ p["x1.weight"].T + p["x1.bias"], 0, None)
    h = lib.np.clip(h @ p["x2.weight"].T + p["x2.bias"], 0, None)
    from_x = h @ p["joint.weight"][:, :HIDDEN].T + p["joint.bias"]
    h = lib.np.tanh(y[..., None] * p["y1.weight"][:, 0] + p["y1.bias"])
    h = lib.np.tanh(h @ p["joint.weight"][:, HIDDEN:].T + from_x[:, None])
    for layer in ("res1", "res2"):
        h = lib.np.tanh(h @ p[f"{layer}.weight"].T + p[f"{layer}.bias"]) + h
    return (h @ p["out.weight"].T + p["out.bias"])[..., 0]


def nce_plus(lib: Library, stds: tuple[float, ...], p: Arrays, x: Any, y: Any, offsets: Any) -> Any:
    """Returns the loss of one model; `offsets` `[1 + M]` of the moved target and the samples, for the whole batch."""
    logs = [-0.5 * (offsets / std) ** 2 - math.log(std * math.sqrt(2 * math.pi) * len(stds)) for std in stds]
    logits = energy(lib, p, x, y[:, None] + offsets) - lib.logsumexp(lib.np.stack(logs), 0)
    return (lib.logsumexp(logits, 1) - logits[:, 0]).mean()


def dsm(lib: Library, sigma: float, p: Arrays, x: Any, y: Any, noise: Any) -> Any:
    """Returns the loss of one model, with noise `[B, M]`."""
    slope = lib.grad(lambda at: energy(lib, p, x, at).sum())(y[:, None] + noise)
    return ((slope + noise / sigma**2) ** 2).mean()


def loss_of(lib: Library, learner: Any) -> Callable[..., Any]:
    """Returns the learner's method as a loss of one model: of parameters, x, y and noise.

    Raises:
        UserError: the method is not written here.
    """
    if learner.method.name == "nce+":
        return partial(nce_plus, lib, learner.proposal.stds)
    if learner.method.name == "dsm":
        return partial(dsm, lib, learner.method.sigma)
    raise UserError(f"--peers has no {learner.method.name}")


def has(method: str) -> bool:
    """Returns whether the method of this name is written here."""
    return method in ("nce+", "dsm")


def noise_of(lib: Library, learner: Any, normal: Any, place: Any) -> Any:
    """Returns the noise of all models from standard normal numbers and uniform ones in [0, 1)."""
    if learner.method.name == "dsm":
        return learner.method.sigma * normal
    stds = learner.proposal.stds
    width = sum(lib.np.where((place * len(stds)) // 1 == k, std, 0.0) for k, std in enumerate(stds))
    is_first = lib.np.cumsum(lib.np.ones_like(normal), 1) == 1  # on the numbers' own device
    moved = lib.np.where(is_first, learner.method.beta, 1.0)
    return width * moved * normal


def noise_shape(learner: Any, batch: int) -> tuple[int, ...]:
    """Returns the shape of the noise of all models."""
    samples = learner.method.num_samples
    return (len(learner.seeds), batch, samples) if learner.method.name == "dsm" else (len(learner.seeds), 1 + samples)


def check(name: str, learner: Any) -> None:
    """Holds the losses and gradients of a peer to the learner's, on the same points and noise.

    Raises:
        RuntimeError: they differ.
    """
    lib, number = library(name), 3
    count = len(learner.seeds)
    batch = torch.arange(learner.batch_size, device=learner.device).repeat(count, 1)
    ours = learner.losses(batch, number)
    (gradient,) = torch.autograd.grad(ours.sum(), learner.stack.flat)
    x, y, draws = learner.x[batch].squeeze(-1), learner.y[batch], learner.streams.at(number)
    if learner.method.name == "dsm":
        shape = (*y.shape[:2], learner.method.num_samples, 1)
        noise = (learner.method.sigma * draws.normal("denoising", shape))[..., 0]
    else:
        method, step = learner.method, Step(draws, learner.proposal)
        at_zero = torch.zeros_like(y)  # their offsets
        noise = learner.proposal.beside_target(at_zero, method.num_samples, step, method.beta)[0][:, 0, :, 0]
    loss = loss_of(lib, learner)
    parameters = {key: value.detach() for key, value in layers(learner.stack.flat).items()}
    arguments: tuple[Any, ...] = (parameters, x, y[..., 0], noise)
    if name == "jax":
        import jax

        arguments = jax.tree.map(lambda tensor: jax.numpy.asarray(tensor.numpy()), arguments)
        values, grads = jax.vmap(jax.value_and_grad(loss))(*arguments)
        theirs = torch.tensor(values.tolist())
        flat = torch.cat([torch.tensor(grads[key].tolist()).reshape(count, -1) for key in parameters], dim=1)
    else:
        grads, theirs = torch.func.vmap(torch.func.grad_and_value(loss))(*arguments)
        flat = torch.cat([grads[key].flatten(1) for key in parameters], dim=1)
    for what, a, b in (("loss", theirs, ours.detach()), ("gradient", flat, gradient)):
        difference = ((a - b).abs().max() / b.abs().max()).item()
        if not difference < TOLERANCE:
            raise RuntimeError(f"{name}: the {what} of {learner.method.name} differs by {difference:.1e}")


def _adam(np: Any, p: Any, g: Any, m: Any, v: Any, count: Any, rate: float = 1e-3) -> tuple[Any, Any, Any]:
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    step = rate * (m / (1 - 0.9**count)) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8)
    return p - step, m, v


def stepper(name: str, learner: Any, batch: int) -> Callable[[], None]:
    """Returns what makes one step of all models of the learner when called; it waits until the step is done."""
    lib = library(name)
    loss, shape, seeds = loss_of(lib, learner), noise_shape(learner, batch), len(learner.seeds)
    parameters = {key: value.detach().clone() for key, value in layers(learner.stack.flat).items()}
    x, y, device = learner.x[:, 0], learner.y[:, 0], learner.device
    if name == "jax":
        return _jax_stepper(lib, learner, loss, shape, parameters, x.numpy(), y.numpy(), (seeds, batch))
    gradient = torch.func.vmap(torch.func.grad(loss))
    state = {key: (value, torch.zeros_like(value), torch.zeros_like(value)) for key, value in parameters.items()}
    count = torch.zeros((), device=device)

    @torch.compile
    def step(state: Any, count: torch.Tensor) -> Any:
        rows = torch.randint(len(x), (seeds, batch), device=device)
        noise = noise_of(lib, learner, torch.randn(shape, device=device), torch.rand(shape, device=device))
        grads = gradient({key: value[0] for key, value in state.items()}, x[rows], y[rows], noise)
        return {key: _adam(torch, p, grads[key], m, v, count) for key, (p, m, v) in state.items()}

    def advance() -> None:
        nonlocal state
        state = step(state, count.add_(1))

    return advance


def _jax_stepper(
    lib: Library,
    learner: Any,
    loss: Any,
    shape: tuple[int, ...],
    parameters: Arrays,
    x: Any,
    y: Any,
    rows_shape: tuple[int, int],
) -> Callable[[], None]:
    import jax

    x, y = jax.numpy.asarray(x), jax.numpy.asarray(y)
    gradient = jax.vmap(jax.grad(loss))

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any) -> Any:
        p, m, v, count, key = state
        key, *keys = jax.random.split(key, 4)
        rows = jax.random.randint(keys[0], rows_shape, 0, len(x))
        noise = noise_of(lib, learner, jax.random.normal(keys[1], shape), jax.random.uniform(keys[2], shape))
        grads = gradient(p, x[rows], y[rows], noise)
        made = {name: _adam(jax.numpy, p[name], grads[name], m[name], v[name], count + 1) for name in p}
        return *({name: part[place] for name, part in made.items()} for place in range(3)), count + 1, key

    p = {name: jax.numpy.asarray(value.numpy()) for name, value in parameters.items()}
    zeros = [{name: jax.numpy.zeros_like(value) for name, value in p.items()} for _ in range(2)]
    state = (p, *zeros, jax.numpy.zeros(()), jax.random.key(0))

    def advance() -> None:
        nonlocal state
        state = jax.block_until_ready(step(state))

    return advance
