"""Dropout is a pure function of the seed, the step and the place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ebmbench.models.networks.dropout import Dropout
from ebmbench.models.networks.mlp import MLP
from ebmbench.models.stack import Place, Stack

CPU = torch.device("cpu")


def models(*seeds: int) -> Stack:
    return MLP(dropout=0.3, width=40).stack((6,), 1, Place(seeds, CPU))


def features(stack: Stack, step: int, x: Tensor) -> Tensor:
    stack.start_step(step)
    return stack.bind(x)[1]().detach()


def test_a_step_has_the_same_mask_each_time_and_another_than_the_next() -> None:
    stack, x = models(0, 1), torch.randn(2, 5, 6)
    first = features(stack, 7, x)
    assert not torch.equal(features(stack, 8, x), first)
    assert torch.equal(features(stack, 7, x), first)
    fresh = models(0, 1)  # as after a restart
    assert torch.equal(features(fresh, 7, x), first)


def test_a_seed_alone_drops_what_it_drops_among_others() -> None:
    x = torch.randn(3, 5, 6)
    among = features(models(4, 0, 9), 12, x)
    alone = features(models(9), 12, x[2:])
    assert torch.equal(among[2] == 0, alone[0] == 0)
    assert not torch.equal(among[2] == 0, among[1] == 0)
    torch.testing.assert_close(among[2], alone[0])


def test_the_two_layers_of_a_model_have_masks_of_their_own() -> None:
    encoder = MLP(dropout=0.5).build((6,), 1).encoder
    first, second = encoder.dropouts
    ones = torch.ones(50, 50)
    assert not torch.equal(first(ones), second(ones))


def test_nothing_is_dropped_when_the_models_are_used() -> None:
    stack, x = models(0), torch.randn(1, 5, 6)
    with stack.evaluating():
        used = features(stack, 1, x)
        assert torch.equal(used, features(stack, 2, x))
    assert not torch.equal(features(stack, 1, x), used)
    assert (used != 0).all()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_dropped_is_the_rate_and_the_mean_stays(rate: float) -> None:
    torch.manual_seed(0)
    layer = Dropout(rate)
    out = layer(torch.ones(400, 500))
    assert (out == 0).float().mean().item() == pytest.approx(rate, abs=0.005)
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert out.max().item() == pytest.approx(1 / (1 - rate))
    by_row, by_column = (out == 0).float().mean(1), (out == 0).float().mean(0)
    assert by_row.std() < 2 * (rate * (1 - rate) / 500) ** 0.5  # as independent places would have it
    assert by_column.std() < 2 * (rate * (1 - rate) / 400) ** 0.5
