"""What many ask for at once is read once for all of them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedRead(Generic[T]):
    """One thing that is read again once it is so old.  read: raises what `get` raises."""

    def __init__(self, read: Callable[[], Awaitable[T]], age_s: float) -> None:
        self._read = read
        self._age_s = age_s
        self._reading: asyncio.Task[T] | None = None
        self._until = 0.0

    async def get(self) -> T:
        """As it is now, or was a moment ago."""
        reading = self._reading
        if reading is None or (reading.done() and time.monotonic() >= self._until):
            self._until = 0.0
            reading = self._reading = asyncio.create_task(self._read_now(), name="genqueue-shared-read")
            reading.add_done_callback(_heard)
        return await asyncio.shield(reading)

    async def _read_now(self) -> T:
        found = await self._read()
        self._until = time.monotonic() + self._age_s  # a failure is not kept
        return found


def _heard(task: "asyncio.Task[T]") -> None:
    """Who has asked may have gone."""
    if not task.cancelled():
        task.exception()
