"""Somebody's wish that a job be cancelled: it is looked for while the job is with its worker."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import redis

PARKED_LOOK_S = 0.25
"""Between two looks for a job that waits for the engine: nothing is computed in vain meanwhile."""


class Wish:
    """The looks for one.

    requested: looks. It may raise errors of Redis.  on_request: is called once it is there.
    seen_within: whether somebody else has looked so short a time ago, in s.  poll_s: between two looks.
    """

    def __init__(
        self,
        requested: Callable[[], Awaitable[bool]],
        on_request: Callable[[], None],
        *,
        seen_within: Callable[[float], bool],
        poll_s: float,
    ) -> None:
        self._requested, self._on_request, self._seen_within = requested, on_request, seen_within
        self._poll_s = poll_s
        self._look = asyncio.Event()
        self.is_parked = False
        """Whether the job waits for the engine."""
        self.is_over = False
        """A client may swallow a cancellation: this ends the looks, too."""

    def look_now(self) -> None:
        """Look now, and not when the time has come for the next look."""
        self._look.set()

    async def watch(self) -> None:
        """Look again and again, until it is over."""
        while not self.is_over:
            asked = self._look.is_set()
            self._look.clear()
            poll_s = max(self._poll_s, PARKED_LOOK_S if self.is_parked else 0.0)
            if asked or not self._seen_within(poll_s):
                with contextlib.suppress(redis.RedisError):
                    if await self._requested():
                        self._on_request()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(poll_s):
                    await self._look.wait()
