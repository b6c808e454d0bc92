"""Tokens on their way from the device to the host, so that the next step can be launched before one is read."""

from collections import deque

import torch
from torch import Tensor

MAX_IN_FLIGHT = 4


class TokenRing:
    """First in, first out. On a GPU, `push` returns at once and `pop` waits; on a CPU, nothing does."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._in_flight: deque[tuple[Tensor, _Copied | None]] = deque()
        if self._on_gpu:
            self._slots = torch.empty((MAX_IN_FLIGHT, 1, 1), dtype=torch.int64, pin_memory=True)
            self._copied = [_Copied() for _ in range(MAX_IN_FLIGHT)]
            self._next = 0

    def __len__(self) -> int:
        return len(self._in_flight)

    def push(self, token: Tensor) -> None:
        """Send a token on its way.  token: (1, 1) int64 on the device."""
        assert len(self) < MAX_IN_FLIGHT, "a token would be overwritten that nobody has read"
        if not self._on_gpu:
            self._in_flight.append((token, None))
            return
        slot, copied = self._slots[self._next], self._copied[self._next]
        self._next = (self._next + 1) % MAX_IN_FLIGHT
        slot.copy_(token, non_blocking=True)
        copied.record()
        self._in_flight.append((slot, copied))

    def pop(self) -> int:
        """The oldest token, as soon as it is there."""
        token, copied = self._in_flight.popleft()
        if copied is not None:
            copied.wait(is_urgent=not self._in_flight)
        return int(token)

    def clear(self) -> None:
        """Drop the tokens that nobody needs any more."""
        self._in_flight.clear()


class _Copied:
    """A token has reached its slot."""

    def __init__(self) -> None:
        self._spinning = torch.cuda.Event()
        self._blocking = torch.cuda.Event(blocking=True)

    def record(self) -> None:
        """Behind the copy."""
        self._spinning.record()
        self._blocking.record()

    def wait(self, *, is_urgent: bool) -> None:
        """Until then. To be woken takes an H100's host 0.6 ms, and to spin one of its cores: where the next step
        runs meanwhile, there is no hurry; where the device waits for this token, there is.
        """
        (self._spinning if is_urgent else self._blocking).synchronize()
