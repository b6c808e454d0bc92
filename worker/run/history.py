"""What a job's stream says when a worker takes it: the events so far, and where the next attempt's ids begin.

A stream is where anybody with the rights may write. What cannot be a job's stream is deleted: the contract gives
the name to the stream, nobody could follow it, and it would keep the job from ever having its end.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import redis
from redis.asyncio import Redis

from producer.broker.outage import Outage
from producer.contract import (
    TERMINAL_TYPES,
    EventId,
    GenerationResult,
    InvalidRequest,
    Keys,
    StreamedEvent,
    parse_entry,
)

from ..errors import is_wrong_type

logger = logging.getLogger(__name__)

DISCARD = """
-- KEYS   events      ARGV   id and fields of the last entry that was read, where it was a stream
-- Only what was looked at: another worker may have put the job's stream in its place meanwhile.
if redis.call('TYPE', KEYS[1]).ok == 'stream' then
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1] or {'', {}}
  if #last[2] ~= #ARGV - 1 or last[1] ~= ARGV[1] then return end
  for i, part in ipairs(last[2]) do
    if part ~= ARGV[i + 1] then return end
  end
end
redis.call('DEL', KEYS[1])
"""

MAX_ATTEMPT = 2**31
"""More attempts than any job has: ids above it are of no worker's making, and would leave no room for ours."""


@dataclass(frozen=True, slots=True)
class History:
    """A job's past."""

    events: Sequence[StreamedEvent] = ()
    last_attempt: int = 0
    """Of the stream. It outlives the events of a job that is run again, and keeps their ids growing."""
    held: bool = True
    """Whether the job is still in the list of the worker that asked: a sweep that takes it for dead moves it."""

    @property
    def ended(self) -> GenerationResult | None:
        """The result of a job that has its terminal event."""
        if self.events and self.events[-1].event.type in TERMINAL_TYPES:
            return self.events[-1].event.data
        return None


async def read_history(client: "Redis", keys: Keys, job_id: str, worker_name: str, outage: Outage) -> History:
    """Read a job's past, in one round trip. Waits for Redis as long as it takes."""
    read = partial(_read, client, keys, job_id, worker_name)
    return await outage.wait_out(read, f"reading the stream of job {job_id!r:.80}")


async def _read(client: "Redis", keys: Keys, job_id: str, worker_name: str) -> History:
    events = keys.events(job_id)
    async with client.pipeline(transaction=False) as pipeline:
        pipeline.xrange(events)
        pipeline.xinfo_stream(events)
        # Last: while the job is ours, nobody else can have gone on from what was read before.
        pipeline.lpos(keys.taken(worker_name), job_id)
        entries, info, position = await pipeline.execute(raise_on_error=False)
    if isinstance(position, redis.RedisError):
        raise position
    held = position is not None
    try:
        if isinstance(entries, redis.RedisError):
            raise entries
        past = parse_history(entries)
    except (redis.ResponseError, InvalidRequest) as error:
        if isinstance(error, redis.ResponseError) and not is_wrong_type(error):
            raise
        logger.warning("job %.80r: what stands in place of its stream is deleted: %s", job_id, error)
        await client.register_script(DISCARD)(keys=[events], args=_last_entry(entries))
        return History(held=held)
    return History(past, _last_attempt(info), held)


def _last_entry(entries: Any) -> list[bytes]:
    """Id and fields of a stream's last entry, as they stand in Redis."""
    if isinstance(entries, redis.RedisError) or not entries:
        return [b""]
    entry_id, fields = entries[-1]
    return [entry_id, *(part for pair in (fields or {}).items() for part in pair)]


def _last_attempt(info: Any) -> int:
    # XINFO answers "no such key" for the stream of a job that has no events yet.
    if isinstance(info, redis.ResponseError) and "no such key" in str(info):
        return 0
    if isinstance(info, redis.RedisError):
        raise info
    return EventId.parse(info["last-generated-id"]).attempt


def parse_history(entries: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> list[StreamedEvent]:
    """A job's events from its stream's entries.  Raises InvalidRequest where no worker can have written them."""
    try:
        history = [parse_entry(entry_id, fields) for entry_id, fields in entries]
    except (KeyError, ValueError) as error:
        raise InvalidRequest("its stream holds entries that are no events") from error
    ordered = all(event.id.seq == seq and event.id.attempt <= MAX_ATTEMPT for seq, event in enumerate(history))
    if not ordered or any(event.is_terminal for event in history[:-1]):
        raise InvalidRequest("its stream holds events that do not follow on each other")
    return history
