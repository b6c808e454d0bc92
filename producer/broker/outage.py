"""Waiting for Redis: when to try again, and that the log hears of it once and not at every try.

Knows what an outage looks like from here: an error of redis-py. Knows nothing of what is tried.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from itertools import chain, repeat
from typing import TypeVar

import redis

logger = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_DELAYS_S = (0.02, 0.05, 0.1)
"""Between two tries. The last stands from then on, and bounds how long after Redis has come back a try is made."""


class Outage:
    """What the log hears of one thing that needs Redis: that it waits, once for each kind of error, and how long.

    what: who waits. It may hold a job's id, quoted, and nothing else of the job.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._said: set[type[Exception]] = set()
        self._began_at = 0.0

    def note(self, error: redis.RedisError) -> None:
        """A try has failed."""
        if not self._said:
            self._began_at = time.monotonic()
        if type(error) not in self._said:
            logger.warning("%s: waiting for Redis: %s", self._what, error)
        self._said.add(type(error))

    def over(self) -> None:
        """A try has gone through."""
        if self._said:
            logger.info("%s: going on after %.1f s without Redis", self._what, time.monotonic() - self._began_at)
        self._said.clear()


async def outlast(call: Callable[[], Awaitable[T]], what: str) -> T:
    """Call until Redis has answered, however long that takes; `what` as in `Outage`.

    Raises what the call raises, unless it is an error of Redis.
    """
    outage, delays_s = Outage(what), chain(RETRY_DELAYS_S, repeat(RETRY_DELAYS_S[-1]))
    while True:
        try:
            answer = await call()
        except redis.RedisError as error:
            # Away, loading, full, read-only during a fail-over.
            outage.note(error)
            await asyncio.sleep(next(delays_s))
        else:
            outage.over()
            return answer
