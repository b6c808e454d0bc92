"""The noise against SplitMix64's published values, and against the distribution that it is meant to have."""

import pytest
import torch

from tests.models import CPU
from worker.engine.sampling.noise import GumbelNoise, split_mix_64, to_open_unit_interval


def test_is_made_of_split_mix_64():
    """The outputs for seed 1234567 that implementations are checked with (Rosetta Code, Splitmix64)."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    outputs = split_mix_64(torch.tensor(1234567), torch.arange(5))
    assert [value % 2**64 for value in outputs.tolist()] == expected


def test_reaches_neither_end_of_the_unit_interval():
    """At 0 the noise would be minus infinity, and at 1 plus infinity: a token that wins whatever its logit."""
    lowest, highest = to_open_unit_interval(torch.tensor([0, -1])).tolist()  # no bit set, and every bit
    assert 0 < lowest < 1e-15
    assert 1 - 1e-15 < highest < 1


def test_depends_on_seed_position_and_token_and_on_nothing_else():
    noise = GumbelNoise(5, CPU)
    assert torch.equal(noise(3, 1000), GumbelNoise(5, CPU)(3, 1000))
    assert torch.equal(noise(3, 1000)[:100], noise(3, 100))
    assert not torch.isin(noise(3, 1000), noise(4, 1000)).any()
    assert not torch.isin(noise(3, 1000), GumbelNoise(6, CPU)(3, 1000)).any()


@pytest.mark.parametrize("vocab_size", [7, 800, 20_000])
def test_is_the_same_whatever_was_asked_for_before(vocab_size):
    """It is worked out for many positions at once: an earlier, a later or a first one gives the same."""
    noise = GumbelNoise(5, CPU)
    for position in (0, 1, 2, 40, 39, 3000, 5):
        assert torch.equal(noise(position, vocab_size), GumbelNoise(5, CPU)(position, vocab_size))


@pytest.mark.parametrize("vocab_size", [800, 20_000])
def test_of_some_tokens_is_theirs_among_all(vocab_size):
    tokens = torch.tensor([0, 17, 799])
    noise = GumbelNoise(5, CPU)
    for position in (0, 1, 40):
        few = torch.from_numpy(noise.of(tokens.numpy(), position, vocab_size))
        assert torch.equal(few, noise(position, vocab_size)[tokens])


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_is_standard_gumbel(seed):
    """Mean: Euler's gamma. Variance: pi^2/6. And it is finite everywhere."""
    noise = torch.cat([GumbelNoise(seed, CPU)(position, 150_000) for position in range(4)]).double()
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.57722, abs=0.01)
    assert noise.var().item() == pytest.approx(1.64493, abs=0.03)
