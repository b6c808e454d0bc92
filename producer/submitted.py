"""What a producer has submitted and not seen the end of; and how a Ctrl-C ends that, as an operation."""

import logging
import threading
import time
from collections.abc import Iterable
from typing import Literal

import redis

from .cancelling import cancel_many
from .contract import GenqueueError, InvalidRequest
from .operations import Operation, Operations

logger = logging.getLogger(__name__)

OnInterrupt = Literal["leave", "cancel"]

KEPT = 100_000
"""Ids that are remembered at most, the newest: ten full batches."""
CANCEL_S = 5.0
"""How long cancelling them may take: somebody who pressed Ctrl-C waits for it."""
AT_ONCE = 500
"""Jobs that are cancelled between two looks at the clock."""


class Submitted:
    """Ids of jobs, in the order in which they were submitted. For any number of threads.

    An id is forgotten once its end was seen here; of those that nobody asks for again, the oldest are.
    """

    def __init__(self, on_interrupt: OnInterrupt) -> None:
        if on_interrupt not in {"leave", "cancel"}:
            raise InvalidRequest(f'on_interrupt is "leave" or "cancel", and not {on_interrupt!r:.80}')
        self.is_kept = on_interrupt == "cancel"
        self._ids: dict[str, None] = {}
        self._changing = threading.Lock()

    def add(self, job_ids: Iterable[str]) -> None:
        """Remember them."""
        if not self.is_kept:
            return
        with self._changing:
            self._ids.update(dict.fromkeys(job_ids))
            while len(self._ids) > KEPT:
                del self._ids[next(iter(self._ids))]

    def discard(self, job_id: str) -> None:
        """It has ended."""
        if self.is_kept:
            with self._changing:
                self._ids.pop(job_id, None)

    def newest_first(self) -> list[str]:
        """In that order no worker takes one because another was cancelled before it."""
        with self._changing:
            return list(reversed(self._ids))


def cancel_submitted(operations: Operations, submitted: Submitted, deadline: float) -> Operation[None]:
    """Cancel them all, as far as it goes before the deadline, of time.monotonic(). The log says how far.

    Whoever pressed Ctrl-C gets no other error for it.
    """
    left = submitted.newest_first()
    count = len(left)
    try:
        while left and time.monotonic() < deadline:
            yield from cancel_many(operations, left[:AT_ONCE])
            left = left[AT_ONCE:]
    except (redis.RedisError, GenqueueError) as error:
        logger.warning("Ctrl-C: of %d jobs, %d may go on, because Redis said: %s", count, len(left), error)
        return
    if left:
        logger.warning("Ctrl-C: of %d jobs, %d may go on: there was no time to cancel them", count, len(left))
    else:
        logger.info("Ctrl-C: %d jobs were cancelled, or had ended", count)
