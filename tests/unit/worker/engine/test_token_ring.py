"""Tokens on their way to the host: in order, none twice, none lost."""

import pytest
import torch

from tests.models import CPU
from worker.engine.token_ring import MAX_IN_FLIGHT, TokenRing


def test_first_in_first_out_for_longer_than_it_has_places():
    ring = TokenRing(CPU)
    ring.push(torch.tensor([[0]]))
    for number in range(1, 3 * MAX_IN_FLIGHT):
        ring.push(torch.tensor([[number]]))
        assert ring.pop() == number - 1
    assert len(ring) == 1


def test_a_cleared_ring_is_empty():
    ring = TokenRing(CPU)
    ring.push(torch.tensor([[1]]))
    ring.clear()
    assert not ring
    ring.push(torch.tensor([[2]]))
    assert ring.pop() == 2


def test_no_token_is_overwritten_that_nobody_has_read():
    ring = TokenRing(CPU)
    for number in range(MAX_IN_FLIGHT):
        ring.push(torch.tensor([[number]]))
    with pytest.raises(AssertionError, match="nobody has read"):
        ring.push(torch.tensor([[9]]))
    assert [ring.pop() for _ in range(MAX_IN_FLIGHT)] == list(range(MAX_IN_FLIGHT))
