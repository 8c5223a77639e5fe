"""The baseline of the 1D benchmark: training as the method papers' own code does it.

One model at a time; the features of x repeated for every sample, activations `[batch·samples, hidden]`; eager autograd;
a DataLoader that reshuffles; PyTorch's own random numbers. The losses are the project's: they are not what differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ebmbench.core.energy import AutogradEnergy
from ebmbench.core.proposal import Proposal
from ebmbench.core.rng import Draws
from ebmbench.core.step import Step
from ebmbench.methods.base import Method


class Network(nn.Module):
    """The network of 1D regression for one model: x `[B]` and y `[B, M, 1]` to f `[B, M]`."""

    def __init__(self, hidden: int = 10) -> None:
        super().__init__()
        self.x1, self.x2 = nn.Linear(1, hidden), nn.Linear(hidden, hidden)
        self.y1 = nn.Linear(1, hidden)
        self.joint = nn.Linear(2 * hidden, hidden)
        self.res1, self.res2 = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 1)

    def features(self, x: Tensor) -> Tensor:
        """`[B] -> [B, hidden]`."""
        return torch.relu(self.x2(torch.relu(self.x1(x.unsqueeze(-1)))))

    def energy(self, features: Tensor, y: Tensor) -> Tensor:
        """`[B, hidden]`, `[B, M, 1]` -> `[B, M]`."""
        batch, samples, _ = y.shape
        repeated = features.unsqueeze(1).expand(-1, samples, -1).reshape(batch * samples, -1)
        h = torch.cat((repeated, torch.tanh(self.y1(y.reshape(batch * samples, 1)))), dim=1)
        h = torch.tanh(self.joint(h))
        h = torch.tanh(self.res1(h)) + h
        h = torch.tanh(self.res2(h)) + h
        return self.out(h).view(batch, samples)


class EagerDraws:
    """What `rng.Draws` offers, from PyTorch's generator."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def normal(self, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns standard normal numbers of this shape; the name is not used."""
        return torch.randn(*shape, dtype=dtype, device=self.device)

    def integers(self, name: str, shape: Sequence[int], high: int) -> Tensor:
        """Returns integers below `high` of this shape; the name is not used."""
        return torch.randint(high, tuple(shape), device=self.device)


class Textbook:
    """One model under training; `step()` is one step."""

    def __init__(
        self, method: Method, proposal: Proposal | None, x: Tensor, y: Tensor, batch_size: int, device: torch.device
    ) -> None:
        self.network = Network().to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        self.method, self.proposal, self.device = method, proposal, device
        self.loader = DataLoader(TensorDataset(x.cpu(), y.cpu()), batch_size=batch_size, shuffle=True)
        self.batches = self._forever()

    def _forever(self) -> Iterator[list[Tensor]]:
        while True:
            yield from self.loader

    def step(self) -> None:
        """Makes one training step."""
        x, y = (part.to(self.device) for part in next(self.batches))
        features = self.network.features(x)
        f = AutogradEnergy(lambda samples: self.network.energy(features, samples))
        step = Step(cast(Draws, EagerDraws(self.device)), self.proposal)
        loss = self.method.loss(f, y, step).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
