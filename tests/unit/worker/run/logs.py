"""A job's event log without its runner."""

import asyncio

from producer.contract import Entry, GenerationResult, Started, StartedData, parse_entry
from worker.run.event_log import EventLog

from .runs import JOB, KEYS


def started(attempt: int, worker: str = "w1") -> Started:
    return Started(data=StartedData(attempt=attempt, worker=worker, model="tiny", prompt_tokens=3, seed=7))


def finished(text: str = "ab", worker: str = "w1") -> GenerationResult:
    return GenerationResult(
        job_id=JOB, status="finished", model="tiny", text=text, finish_reason="stop", worker=worker
    )


def log_of(client, history=(), *, as_owner: bool = False, **options) -> EventLog:
    history = [Entry.of(*streamed) for streamed in history]
    ttls = {"live_ttl_s": 1000, "result_ttl_s": 100}
    return EventLog(client, KEYS, JOB, history, worker="w1", as_owner=as_owner, **ttls, **options)


async def history(client):
    return [parse_entry(entry_id, fields) for entry_id, fields in await client.xrange(KEYS.events(JOB))]


async def ids(client) -> list[str]:
    return [str(streamed.id) for streamed in await history(client)]


async def write(log: EventLog) -> None:
    """Append all that was added, as the runner's writer task does."""
    log.close()
    await log.run()


async def drained(log: EventLog) -> None:
    """Until all that was added stands in the stream, and the log knows; its `run` runs beside."""
    async with asyncio.timeout(5):
        while log._open is not None or log._appended < len(log._entries):
            await asyncio.sleep(0)
