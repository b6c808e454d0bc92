"""Redis away: said once, waited for, and said once more when it is back."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..contract import BrokerUnavailable

T = TypeVar("T")

RETRY_S = 1.0


class Outages:
    """Of one run.

    say        takes a line for people
    on_back    called when Redis is there again: it may have forgotten what it was told
    may_begin_without  False: where it was never there, its error is raised
    """

    def __init__(
        self, say: Callable[[str], None], on_back: Callable[[], None], *, may_begin_without: bool
    ) -> None:
        self._say = say
        self._on_back = on_back
        self._waits = may_begin_without
        self._is_away = False

    async def through(self, call: Callable[[], Awaitable[T]]) -> T:
        """What the call returns, once Redis lets it.  Raises all else that it raises."""
        while True:
            try:
                reply = await call()
            except BrokerUnavailable as error:
                if not self._waits:
                    raise
                self._note_away(error)
                await asyncio.sleep(RETRY_S)
            else:
                self._note_there()
                return reply

    def _note_away(self, error: BrokerUnavailable) -> None:
        if not self._is_away:
            self._is_away = True
            self._say(f"{error}. Waiting for it")

    def _note_there(self) -> None:
        self._waits = True
        if self._is_away:
            self._is_away = False
            self._say("Redis is back")
            self._on_back()
