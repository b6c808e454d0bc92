"""How a worker ends: what the signals mean, and the time by which it has gone, whatever Redis does meanwhile.

    asked       no further job is taken; the running one may end within the grace
    grace over  the running job is put back
    overdue     whatever is still waited for is left as it stands: the job stays in the worker's list, where
                another worker finds it

Knows no job and no Redis.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
HURRY_S = 2.0
"""After a second signal: for Redis to take the job back."""
MARGIN_S = 0.5
"""Kept free within the bound for what is done when it is over: the engine is killed, the connections are cut."""


class Leaving:
    """One worker's end.

    grace_s: after the first signal, for the running job; engine_stop_s: after that, for the engine to stop and for
    Redis to hear of it. Together they bound the end.
    """

    def __init__(self, *, grace_s: float, engine_stop_s: float) -> None:
        self._grace_s, self._engine_stop_s = grace_s, engine_stop_s
        self.asked = asyncio.Event()
        self.overdue = asyncio.Event()
        self.on_grace_over: Callable[[], None] = lambda: None
        self._times: list[asyncio.TimerHandle] = []

    @contextlib.contextmanager
    def heeding_signals(self) -> Iterator[None]:
        """Within the block, the signals mean this. One that was ignored before (nohup, say) stays ignored."""
        loop = asyncio.get_running_loop()
        heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        for number in heeded:
            loop.add_signal_handler(number, self.on_signal, number)
        try:
            yield
        finally:
            for number in heeded:
                loop.remove_signal_handler(number)
            for time in self._times:
                time.cancel()

    def on_signal(self, number: int) -> None:
        """The first: finish the running job within the grace, else put it back. The second: put it back now."""
        name = signal.Signals(number).name
        if not self.asked.is_set():
            logger.info("%s: stopping after the running job", name)
            self.asked.set()
            bound_s = self._grace_s + self._engine_stop_s
            self._at(self._grace_s, lambda: self.on_grace_over())  # noqa: PLW0108 - it may be set later
            self._at(bound_s - min(MARGIN_S, self._engine_stop_s / 2), self.overdue.set)
        else:
            logger.warning("%s again: the running job is put back now", name)
            self._at(HURRY_S, self.overdue.set)
            self.on_grace_over()

    async def unless_asked(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What the work returns; None if the worker is told to end before, and the work is cancelled."""
        task = asyncio.ensure_future(work)
        asked = asyncio.create_task(self.asked.wait())
        try:
            await asyncio.wait((task, asked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
            if not task.done():
                await cancel((task,))
        return None if task.cancelled() else task.result()

    async def pause(self, delay_s: float) -> None:
        """Wait for that long, or until the worker is told to end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self.asked.wait()

    def _at(self, delay_s: float, then: Callable[[], None]) -> None:
        self._times.append(asyncio.get_running_loop().call_later(delay_s, then))


CANCEL_AGAIN_S = 0.1


async def cancel(tasks: "tuple[asyncio.Future[Any], ...] | list[asyncio.Task[Any]]") -> None:
    """Cancel until it is heard: a client in the middle of a connection may swallow a cancellation."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
