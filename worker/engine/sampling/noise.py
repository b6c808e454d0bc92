"""Noise for sampling: a function of (seed, position, token id), the same in every process and on every device.

Knows integers and logarithms. Uses none of torch's random generators.
"""

import math
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .candidates import Floats, Ids

Integers = TypeVar("Integers", Tensor, NDArray[np.int64])
"""Of 64 bits, which wrap alike in torch and in numpy."""

_NUMBERS_AT_ONCE = 2**14
_GOLDEN_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


class GumbelNoise:
    """Standard Gumbel noise as a pure function of (seed, position, token id), the same on every device.

    Two dozen small operations: for a small vocabulary, they are done for many positions at once, and kept. On a
    CPU, numpy's take half as long as torch's; logarithms are torch's everywhere.

    Two streams of SplitMix64, nested: the noise of token t at position p comes from output t of the stream that
    is seeded with output p of the stream that is seeded with the job's seed. Integer arithmetic wraps alike
    everywhere, and the logarithms are taken in float64, far below the last bit of the float32 that they become.
    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; splitmix64.c by
    S. Vigna. The Gumbel-max trick: Maddison, Tarlow, Minka, "A* sampling", NeurIPS 2014.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = torch.tensor(seed, dtype=torch.int64, device=device)
        self._first = 0
        self._kept = torch.empty((0, 0), device=device)

    def of(self, tokens: Ids, position: int, vocab_size: int) -> Floats:
        """Of some tokens, (n,) int64, on the CPU."""
        if vocab_size <= _NUMBERS_AT_ONCE:
            few: Floats = self(position, vocab_size).numpy()[tokens]
        else:
            few = self._noise(torch.tensor([position]), torch.from_numpy(tokens))[0].numpy()
        return few

    def __call__(self, position: int, vocab_size: int) -> Tensor:
        """Of every token, (vocab_size,) float32."""
        row = position - self._first
        if not 0 <= row < len(self._kept) or self._kept.shape[1] != vocab_size:
            count, device = max(1, _NUMBERS_AT_ONCE // vocab_size), self._seed.device
            # From a multiple on: a vectorized logarithm may differ from a single one, in its last bit.
            row = position % count
            self._first = position - row
            self._kept = self._noise(
                torch.arange(self._first, self._first + count, device=device),
                torch.arange(vocab_size, device=device),
            )
        return self._kept[row]

    def _noise(self, positions: Tensor, tokens: Tensor) -> Tensor:
        """(positions, tokens) float32, of (n,) and (m,) int64."""
        if self._seed.is_cpu:
            streams = split_mix_64(self._seed.numpy(), positions.numpy()[:, None])
            uniform = to_open_unit_interval(split_mix_64(streams, tokens.numpy()))
        else:
            uniform = to_open_unit_interval(split_mix_64(split_mix_64(self._seed, positions[:, None]), tokens))
        return uniform.log_().neg_().log_().neg_().float()


def split_mix_64(seed: Integers, index: Integers) -> Integers:
    """Output `index` (from 0) of the SplitMix64 stream with that seed; both int64, broadcast together."""
    z = seed + (index + 1) * _GOLDEN_GAMMA
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def to_open_unit_interval(bits: Integers) -> Tensor:
    """From random int64 to float64 in (0, 1): 52 bits and a half, so that 0 and 1 are out and nothing rounds."""
    return torch.as_tensor(_shift_right(bits, 12)).double().add_(0.5).mul_(math.ldexp(1.0, -52))


def _shift_right(bits: Integers, by: int) -> Integers:
    # int64's own shift copies the sign bit, and torch computes little with uint64.
    return (bits >> by) & ((1 << (64 - by)) - 1)
