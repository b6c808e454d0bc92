"""A job's turn at the engine: it is taken away for a job of a higher priority, and given back.

The service takes and gives; the job's attempt, whichever it is by then, heeds it. Knows neither of the two.
"""

import asyncio
import time
from collections.abc import Callable

from ..leaving import cancel


class Turn:
    """One job's.  clock: in seconds, steady."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._mine, self._free = asyncio.Event(), asyncio.Event()
        self._mine.set()
        self._free.set()
        self._stop: Callable[[], None] = lambda: None
        self.times = 0
        """How often it was taken away."""
        self._away_s = 0.0
        self._away_at: float | None = None

    @property
    def is_mine(self) -> bool:
        """Whether the job may have the engine."""
        return self._mine.is_set()

    @property
    def away_s(self) -> float:
        """For how long it has been away in all."""
        return self._away_s + (0.0 if self._away_at is None else self._clock() - self._away_at)

    # -- the job's side

    def begin(self, stop: Callable[[], None]) -> None:
        """The job has the engine from now on.  stop: makes it let go, soon."""
        self._stop = stop
        self._free.clear()

    def end(self) -> None:
        """The job has let go of the engine."""
        self._free.set()

    async def come(self, over: asyncio.Event) -> None:
        """Wait until it is the job's turn, or until the job is over."""
        waiting = [asyncio.create_task(each.wait()) for each in (self._mine, over)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel(waiting)

    # -- the service's side

    async def take_away(self) -> None:
        """Until the engine is free for another job."""
        self.times += 1
        self._away_at = self._clock()
        self._mine.clear()
        if not self._free.is_set():
            self._stop()
        await self._free.wait()

    def give_back(self) -> None:
        """The job goes on, if it is not over."""
        self._away_s, self._away_at = self.away_s, None
        self._mine.set()
