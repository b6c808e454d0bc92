"""Bits that become a row of what may come."""

import math

import pytest
import torch

from tests.models import CPU
from worker.engine.sampling.token_mask import _OF_A_BYTE, TokenMask


@pytest.mark.parametrize(("words", "vocab_size"), [(25, 800), (25, 768), (3, 70), (4, 100), (2, 100)])
def test_each_token_has_its_bit(words, vocab_size):
    mask = TokenMask(words, vocab_size, CPU)
    tokens = [
        token_id for token_id in (0, 1, 31, 32, 63, 64, 69, 99, 767) if token_id < min(vocab_size, words * 32)
    ]
    for token_id in tokens:
        mask.words[token_id >> 5] |= 1 << (token_id & 31)
    bias = mask.bias()
    assert (bias.shape, bias.dtype) == ((1, vocab_size), torch.float32)
    assert set(bias.unique().tolist()) <= {0.0, -math.inf}
    assert (bias[0] == 0).nonzero()[:, 0].tolist() == tokens


def test_the_bits_on_a_gpu_are_spread_alike():
    mask = TokenMask(25, 790, CPU)
    mask.words[:] = torch.randint(2**31, (25,), generator=torch.Generator().manual_seed(1)).numpy()
    here = mask.bias().clone()
    # As on a GPU, where a table is looked up by operations on tensors.
    mask._on_device, mask._of_a_byte = torch.zeros(100, dtype=torch.uint8), torch.from_numpy(_OF_A_BYTE)
    assert torch.equal(mask.bias(), here)
