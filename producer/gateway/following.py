"""The events of all jobs of a call, from their beginning, as they come; over the producer's one blocked read."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from ..contract import StreamedEvent
from .ending import end
from .queueing import GatewayProducer

Numbered = tuple[int, StreamedEvent]
"""Which of the answers, and an event of it."""


async def follow(
    producer: GatewayProducer, job_ids: Sequence[str], silence_s: float
) -> AsyncGenerator[Numbered | None, None]:
    """Every event of each, until all have ended. None after a silence, as often as one lasts for so long.

    To be left early inside `aclosing`.  Raises as `Producer.stream`.
    """
    streams = [producer.stream(job_id) for job_id in job_ids]
    waits = {asyncio.ensure_future(anext(stream)): number for number, stream in enumerate(streams)}
    try:
        while waits:
            done, _ = await asyncio.wait(waits, timeout=silence_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                yield None
            for wait in sorted(done, key=waits.__getitem__):
                number = waits.pop(wait)
                try:
                    event = wait.result()
                except StopAsyncIteration:
                    continue
                waits[asyncio.ensure_future(anext(streams[number]))] = number
                yield number, event
    finally:
        await end(waits)
        for stream in streams:
            await stream.aclose()
