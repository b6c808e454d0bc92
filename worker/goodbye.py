"""What a worker does last: its engine ends, RQ hears of it, its connections are cut. Each within a bound."""

import asyncio
import contextlib
import logging

import redis

from .engine_process.process import EngineProcess
from .links import Links
from .metrics import Metrics
from .presence import Presence
from .queue.rq_worker import GenerationWorker

logger = logging.getLogger(__name__)

OVERDUE_CLOSE_S = 0.3
"""For an engine that was killed because the time is over: it ends without us, too."""
TEARDOWN_S = 2.0


async def leave(
    engine: EngineProcess,
    worker: GenerationWorker,
    presence: Presence,
    metrics: Metrics,
    links: Links,
    *,
    is_orderly: bool,
) -> None:
    """End what the worker has begun.  is_orderly: it holds no job, and Redis answers: RQ can be told."""
    if not is_orderly:
        await links.close()  # at once: the connection that stands for us tells the others that we have gone
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if is_orderly else OVERDUE_CLOSE_S):
            await engine.close()  # bounded by itself, too: and says so where the engine does not end
    if is_orderly:
        await _tell_others(worker, presence)
        await links.close()
    metrics.close()


async def _tell_others(worker: GenerationWorker, presence: Presence) -> None:
    """Take the worker out of the ring and RQ's records. Where that does not go through, they expire by themselves.

    Not with a job in hand: RQ keeps the record of one that left for a minute, and its job would wait for that.
    """
    try:
        async with asyncio.timeout(TEARDOWN_S):
            await presence.leave()
            await asyncio.to_thread(worker.teardown)
    except (redis.RedisError, TimeoutError) as error:
        logger.info("leaving without RQ's noting it: %s", error or f"no answer within {TEARDOWN_S:g} s")
