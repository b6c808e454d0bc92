"""Waiting for Redis: when to try again, when to give up, and that the log hears of it once and not at every try.

Knows what the errors of redis-py mean (`meaning`). Knows nothing of what is tried.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Hashable
from itertools import chain, repeat
from typing import TypeVar

import redis

from .advice import broker_unavailable
from .meaning import Meaning, meaning, text_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_DELAYS_S = (0.02, 0.05, 0.1)
"""Between two tries. The last stands from then on, and bounds how long after Redis has come back a try is made."""
DROP_S = 1.0
"""Between two times that all connections are dropped, however many callers are refused."""
UNFIT_DELAY_S = 0.5
"""Between two tries with a server that cannot serve us. Each is a log-in of its own."""


async def _nothing() -> None:
    """For whoever has no connections to drop."""


class Outage:
    """The state of one process' Redis, shared by all who wait for it: two lines in the log for one outage.

    It lasts from the first error until the last of those who met one has got through. A server that cannot serve
    us as it is has a line of its own; its connections are dropped, and it is tried again for `patience_s`. Then
    whoever waits is told so by BrokerUnavailable. An outage that passes by itself is waited out for ever.

    drop_connections: so that the next try may lead to another server, or log in anew.
    """

    def __init__(
        self, *, patience_s: float = math.inf, drop_connections: Callable[[], Awaitable[None]] = _nothing
    ) -> None:
        self._patience_s = patience_s
        self._drop_connections = drop_connections
        self._began_at: float | None = None
        self._waiting: set[Hashable] = set()
        self._refused: set[Hashable] = set()
        self._refused_at: float | None = None
        self._said: set[Meaning] = set()
        self._dropped_at = -math.inf

    @property
    def is_on(self) -> bool:
        """Whether somebody's last try has failed."""
        return self._began_at is not None

    async def wait_out(self, call: Callable[[], Awaitable[T]], what: str) -> T:
        """Call until Redis has answered, however long that takes.

        what: who waits, for the log. It may hold a job's id, quoted, and nothing else of the job.
        Raises what the call raises unless that may pass, and BrokerUnavailable as in `note`.
        """
        who, delays_s = object(), chain(RETRY_DELAYS_S, repeat(RETRY_DELAYS_S[-1]))
        try:
            while True:
                try:
                    answer = await call()
                except redis.RedisError as error:
                    await self.note(error, what, who)
                    await asyncio.sleep(UNFIT_DELAY_S if who in self._refused else next(delays_s))
                else:
                    self.over(who)
                    return answer
        finally:
            self.leave(who)

    async def note(self, error: redis.RedisError, what: str, who: Hashable) -> None:
        """A try has failed.  who: stands for one caller, until its `over`; `what` as in `wait_out`.

        Raises the error itself where another try cannot help, and BrokerUnavailable once a server has been unfit
        for too long.
        """
        if (means := meaning(error)) == "broken":
            self.leave(who)
            raise error
        self._waiting.add(who)
        if means == "unfit":
            await self._note_refusal(error, what, who)
            return
        self._admit(who)
        self._begin()
        if not self._said:
            logger.warning("%s: waiting for Redis: %s", what, text_of(error))
            self._said.add(means)

    def over(self, who: Hashable) -> None:
        """A try of this caller's has gone through."""
        self.leave(who)
        if self._began_at is not None and not self._waiting:
            logger.info("going on after %.1f s without Redis", time.monotonic() - self._began_at)
            self._began_at = None
            self._said.clear()

    def leave(self, who: Hashable) -> None:
        """Somebody waits no more. That says nothing of Redis: whoever gets through next ends the outage."""
        self._waiting.discard(who)
        self._admit(who)

    async def _note_refusal(self, error: redis.RedisError, what: str, who: Hashable) -> None:
        now = self._begin()
        self._refused.add(who)
        if self._refused_at is None:
            self._refused_at = now
        if "unfit" not in self._said:
            logger.error("%s: %s; it is tried again for %g s", what, broker_unavailable(error), self._patience_s)
            self._said.add("unfit")
        if now - self._refused_at > self._patience_s:
            raise broker_unavailable(error) from error
        if now - self._dropped_at > DROP_S:
            self._dropped_at = now
            await self._drop_connections()

    def _begin(self) -> float:
        now = time.monotonic()
        if self._began_at is None:
            self._began_at = now
        return now

    def _admit(self, who: Hashable) -> None:
        self._refused.discard(who)
        if not self._refused:
            self._refused_at = None
