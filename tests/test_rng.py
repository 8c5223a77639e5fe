"""Random numbers: the published generator, and a pure function of (seed, name, step, index)."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from ebmbench.core.rng import Streams, philox, stream_id

SEEDS = list(range(20))

# Random123's known answers for philox4x32-10 (kat_vectors): counter, key, output.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def _words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_known_answers(counter: str, key: str, expected: str) -> None:
    counters = [torch.tensor([word]) for word in _words(counter)]
    keys = [torch.tensor([word]) for word in _words(key)]
    output = philox((counters[0], counters[1], counters[2], counters[3]), (keys[0], keys[1]))
    assert [word.item() for word in output] == _words(expected)


def test_words_are_laid_out_as_documented() -> None:
    """Element e of a seed is word e mod 4 of counter (e div 4, step, stream, 0); the key is the seed's halves."""
    seed, step, name = 5 + (7 << 32), 11, "a stream"
    words = Streams([seed], stacked=False).at(step).words(name, (10,))
    for element in range(10):
        counter = [torch.tensor([c]) for c in (element // 4, step, stream_id(name), 0)]
        block = philox((counter[0], counter[1], counter[2], counter[3]), (torch.tensor([5]), torch.tensor([7])))
        assert words[element] == block[element % 4]


@pytest.mark.parametrize("kind", ["normal", "uniform", "integers", "permutation"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_seed_alone_draws_what_it_draws_among_twenty(kind: str, dtype: torch.dtype) -> None:
    def draw(seeds: list[int], stacked: bool = True) -> torch.Tensor:
        draws = Streams(seeds, stacked=stacked).at(3)
        shape = (len(seeds), 7, 5) if stacked else (7, 5)
        if kind == "permutation":
            return draws.permutation("order", 33)
        if kind == "integers":
            return draws.integers("indices", shape, 10)
        return getattr(draws, kind)("numbers", shape, dtype)

    together = draw(SEEDS)
    for seed in (0, 7, 19):
        assert torch.equal(draw([seed])[0], together[seed])
        assert torch.equal(draw([seed], stacked=False), together[seed])


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    draws = Streams([4], stacked=False).at(0)
    assert torch.equal(draws.normal("x", (1001,))[:10], draws.normal("x", (10,)))


def test_a_tensor_step_gives_the_same_numbers_as_a_number() -> None:
    streams = Streams([0, 1])
    number, tensor = streams.at(9), streams.at(torch.tensor(9))
    assert torch.equal(number.words("x", (2, 8)), tensor.words("x", (2, 8)))
    # A number may be drawn by compiled code, whose logarithm and cosine differ in their last bits.
    torch.testing.assert_close(number.normal("x", (2, 8)), tensor.normal("x", (2, 8)), rtol=0, atol=1e-6)
    double = torch.float64
    assert torch.equal(number.normal("x", (2, 8), double), tensor.normal("x", (2, 8), double))


def test_names_steps_and_seeds_give_different_and_uncorrelated_numbers() -> None:
    n = 20_000
    base = Streams([0], stacked=False).at(0).normal("a", (n,), torch.float64)
    others = {
        "name": Streams([0], stacked=False).at(0).normal("b", (n,), torch.float64),
        "step": Streams([0], stacked=False).at(1).normal("a", (n,), torch.float64),
        "seed": Streams([1], stacked=False).at(0).normal("a", (n,), torch.float64),
        "high half of the seed": Streams([1 << 32], stacked=False).at(0).normal("a", (n,), torch.float64),
        "lag of one": base.roll(1),
    }
    for what, other in others.items():
        correlation = torch.corrcoef(torch.stack((base, other)))[0, 1].item()
        assert abs(correlation) < 5 / math.sqrt(n), what


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normals_and_uniforms_follow_their_laws(dtype: torch.dtype) -> None:
    draws = Streams([123], stacked=False).at(7)
    normal = draws.normal("n", (200_001,), dtype).double().numpy()
    uniform = draws.uniform("u", (200_001,), dtype).double().numpy()
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert abs(normal.mean()) < 0.01 and abs(normal.std() - 1) < 0.01
    assert abs(stats.skew(normal)) < 0.03 and abs(stats.kurtosis(normal)) < 0.06
    assert uniform.min() > 0 and uniform.max() <= 1
    # The two halves of a Box-Muller pair share a radius and must be independent all the same.
    pairs = normal[:200_000].reshape(-1, 2)
    assert abs(stats.pearsonr(pairs[:, 0] ** 2, pairs[:, 1] ** 2).statistic) < 0.016


def test_the_extreme_words_give_finite_normals() -> None:
    """Uniforms never reach 0, so that no logarithm does."""
    from ebmbench.core.rng import _to_unit

    ends = torch.tensor([0, 0xFFFFFFFF])
    for dtype in (torch.float32, torch.float64):
        unit = _to_unit(ends, dtype)
        assert unit[0] > 0 and unit[1] <= 1
        assert torch.sqrt(-2 * torch.log(unit)).isfinite().all()


def test_integers_are_uniform_and_within_their_range() -> None:
    values = Streams([1], stacked=False).at(0).integers("k", (60_000,), 6)
    counts = torch.bincount(values, minlength=6)
    assert len(counts) == 6
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_permutations_are_permutations_and_uniform() -> None:
    streams = Streams(SEEDS)
    order = streams.at(0).permutation("order", 2000)
    assert torch.equal(order.sort(-1).values, torch.arange(2000).expand(20, -1))
    assert not torch.equal(order[0], order[1])
    many = Streams(range(3000)).at(0).permutation("o", 3)
    counts = torch.bincount(many @ torch.tensor([9, 3, 1]), minlength=27)
    assert (counts > 0).sum() == 6
    assert stats.chisquare(counts[counts > 0].numpy()).pvalue > 1e-3


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="seed axis"):
        Streams([0, 1], stacked=False)
    with pytest.raises(ValueError, match="first axis"):
        Streams([0, 1]).at(0).normal("x", (3, 4))
