"""What a worker does again and again beside its jobs: named steps, each with its interval.

A step's trouble is its own: what passes is waited out, and anything else is logged and tried again. A server that
cannot serve us ends the worker, once it was tried for long enough.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from producer.broker.outage import RETRY_DELAYS_S, Outage
from producer.contract import BrokerUnavailable

from .leaving import cancel

logger = logging.getLogger(__name__)

RETRY_S = (RETRY_DELAYS_S[-1], 0.5)
"""At least and at most, from a step that met an outage to its next try: so the outage's end is noticed soon."""
BROKEN_RETRY_S = 1.0
STEP_ENDS_S = 0.5
"""For the steps under way when the work has ended. A heartbeat that came later would bring back the dead."""


@dataclass(frozen=True, slots=True)
class SideTask:
    """One thing to do again and again.  interval_s: from the end of a step to the next.

    blocks: the step waits for something that may never come. It is cut short at the end.
    """

    name: str
    interval_s: float
    step: Callable[[], Awaitable[None]]
    blocks: bool = False


async def run_beside(work: Coroutine[Any, Any, None], side_tasks: Sequence[SideTask], outage: Outage) -> None:
    """Do the work, and the side tasks beside it until it has ended.

    Raises what the work raises, or what a side task died of; the others are cancelled then.
    """
    over = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            running = [
                (side, group.create_task(_repeat(side, over, outage), name=side.name)) for side in side_tasks
            ]
            try:
                await work
            finally:
                over.set()
                await _end(running)  # a client may swallow the one cancellation that the group brings it
    except ExceptionGroup as several:
        raise _first(several) from several


async def _repeat(side: SideTask, over: asyncio.Event, outage: Outage) -> None:
    complaint = ""
    while not over.is_set():
        pause_s = side.interval_s
        try:
            await side.step()
        except BrokerUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - RQ raises any class over what somebody has written
            if not await _passes(error, side.name, outage):
                complaint = _complain(side.name, error, complaint)
                pause_s = max(pause_s, BROKEN_RETRY_S)
            else:
                pause_s = min(max(pause_s, RETRY_S[0]), RETRY_S[1])
        else:
            outage.over(side.name)
            complaint = ""
        await _wait(over, pause_s)


async def _passes(error: Exception, name: str, outage: Outage) -> bool:
    """Whether Redis' trouble may pass.  Raises BrokerUnavailable, as `Outage.note` does."""
    if not isinstance(error, redis.RedisError):
        return False
    try:
        await outage.note(error, name, name)
    except redis.RedisError:
        return False
    return True


def _complain(name: str, error: Exception, said: str) -> str:
    """Log what somebody's writing made RQ or Redis stumble over; once, while it stays the same."""
    complaint = f"{type(error).__name__}: {error}"
    if complaint != said:
        logger.error("%s failed and is tried again", name, exc_info=error)
    return complaint


async def _wait(over: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await over.wait()


async def _end(running: Sequence[tuple[SideTask, asyncio.Task[None]]]) -> None:
    await cancel([task for side, task in running if side.blocks])
    if left := [task for _, task in running if not task.done()]:
        await asyncio.wait(left, timeout=STEP_ENDS_S)
        await cancel(left)


def _first(group: ExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
