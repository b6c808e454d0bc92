"""Tokens on their way from the device to the host, so that the next step can be launched before one is read."""

from collections import deque

import torch
from torch import Tensor

MAX_IN_FLIGHT = 4


class TokenRing:
    """First in, first out. On a GPU, `push` returns at once and `pop` waits; on a CPU, nothing does."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._in_flight: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()
        if self._on_gpu:
            self._slots = torch.empty((MAX_IN_FLIGHT, 1, 1), dtype=torch.int64, pin_memory=True)
            # Blocking: else the wait for each token keeps a core of the host busy. The next step runs meanwhile.
            self._events = [torch.cuda.Event(blocking=True) for _ in range(MAX_IN_FLIGHT)]
            self._next = 0

    def __len__(self) -> int:
        return len(self._in_flight)

    def push(self, token: Tensor) -> None:
        """Send a token on its way.  token: (1, 1) int64 on the device."""
        assert len(self) < MAX_IN_FLIGHT, "a token would be overwritten that nobody has read"
        if not self._on_gpu:
            self._in_flight.append((token, None))
            return
        slot, event = self._slots[self._next], self._events[self._next]
        self._next = (self._next + 1) % MAX_IN_FLIGHT
        slot.copy_(token, non_blocking=True)
        event.record()
        self._in_flight.append((slot, event))

    def pop(self) -> int:
        """The oldest token, as soon as it is there."""
        token, event = self._in_flight.popleft()
        if event is not None:
            event.synchronize()
        return int(token)

    def clear(self) -> None:
        """Drop the tokens that nobody needs any more."""
        self._in_flight.clear()
