"""What a job's stream says when a worker takes it: the events so far, and where the next attempt's ids begin.

A stream is where a worker of a later version may have written, and anybody with the rights. So three kinds are
told apart. A stream whose entries are well-formed is kept, byte for byte, whatever it holds beside what is known
here. One that is well-formed and cannot be gone on from is kept, too, and the job is refused. What cannot be a
job's stream is deleted: the contract gives the name to the stream, nobody could follow it, and it would keep the
job from ever having its end. The size is looked at before anything is read.
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis
from pydantic import ValidationError
from redis.asyncio import Redis

from producer.broker.meaning import is_wrong_type
from producer.broker.outage import Outage
from producer.contract import (
    BEFORE_FIRST,
    TERMINAL_TYPES,
    Entry,
    EventId,
    GenerationResult,
    InvalidRequest,
    Keys,
    StreamedEvent,
    UnknownEvent,
)
from producer.ledger.stream import discard_stream, last_id

logger = logging.getLogger(__name__)

MAX_BYTES = 256 * 2**20
"""Of a stream, in Redis' memory. A hundred thousand tokens, one an entry, take 6 MiB, and 60 with logprobs."""
MAX_ENTRIES = 2**18
"""A token an entry for the longest output of today; as events they take half a gigabyte here."""
MANY_ENTRIES = 5_000
"""More are parsed in a thread: they take longer than the heartbeat and the stop signals should wait."""
MAX_ATTEMPT = 2**31
"""More attempts than any job has: ids above it are of no worker's making, and would leave no room for ours."""
FOREIGN_IDS = "its ids are of no worker's making"


@dataclass(frozen=True, slots=True)
class History:
    """A job's past."""

    entries: Sequence[Entry] = ()
    """The stream as it stands in Redis."""
    events: Sequence[StreamedEvent] = ()
    """What it says: those of its entries that are of a known type."""
    last_attempt: int = 0
    """Of the stream. It outlives the events of a job that is run again, and keeps their ids growing."""
    after: EventId = BEFORE_FIRST
    """Id of the last entry, of a stream that was not read."""
    fault: InvalidRequest | None = None
    """Why the job cannot be gone on with, although the stream is one."""
    held: bool = True
    """Whether the job is still in the list of the worker that asked: a sweep that takes it for dead moves it."""

    @property
    def has_ended(self) -> bool:
        """Whether the stream has its terminal event, readable or not: nothing can come after it."""
        return bool(self.entries) and self.entries[-1].type in TERMINAL_TYPES

    @property
    def ended(self) -> GenerationResult | None:
        """The result of a job that has its terminal event."""
        if self.events and isinstance(result := self.events[-1].event.data, GenerationResult):
            return result
        return None


async def read_or_discard_history(
    client: "Redis",
    keys: Keys,
    job_id: str,
    worker_name: str,
    outage: Outage,
    *,
    max_bytes: int = MAX_BYTES,
    max_entries: int = MAX_ENTRIES,
) -> History:
    """A job's past. What cannot be its stream is deleted. Waits for Redis as long as it takes.

    max_bytes, max_entries: a stream above either is not read; the history's `fault` says so.
    """
    stream = _Stream(client, keys, worker_name, job_id, max_bytes, max_entries)
    return await outage.wait_out(stream.read, f"reading the stream of job {job_id!r:.80}")


@dataclass(frozen=True, slots=True)
class _Stream:
    """A job's stream, and the list in which the job is while it is the reader's."""

    client: "Redis"
    keys: Keys
    worker: str
    job_id: str
    max_bytes: int
    max_entries: int

    @property
    def events(self) -> str:
        """Its key."""
        return self.keys.events(self.job_id)

    @property
    def taken(self) -> str:
        """Key of the list."""
        return self.keys.taken(self.worker)

    async def read(self) -> History:
        """What stands there. What cannot be a job's stream is deleted."""
        if fault := await self._too_large():
            return await self._unread(fault)
        async with self.client.pipeline(transaction=False) as pipeline:
            pipeline.xrange(self.events)
            pipeline.xinfo_stream(self.events)
            # Last: while the job is ours, nobody else can have gone on from what was read before.
            self._ask_whether_held(pipeline)
            entries, info, *last = await pipeline.execute(raise_on_error=False)
        held = self._is_held(last)
        try:
            if isinstance(entries, redis.RedisError):
                raise entries
            many = len(entries) > MANY_ENTRIES
            past = await asyncio.to_thread(parse_history, entries) if many else parse_history(entries)
            return replace(past, last_attempt=_last_attempt(info), held=held)
        except (redis.ResponseError, InvalidRequest) as error:
            if isinstance(error, redis.ResponseError) and not is_wrong_type(error):
                raise
            await self._discard(_last_entry(entries), str(error))
            return History(held=held)

    async def _too_large(self) -> InvalidRequest | None:
        """Why the stream is not to be read; looked at before any of it is loaded."""
        async with self.client.pipeline(transaction=False) as pipeline:
            pipeline.xlen(self.events)
            pipeline.memory_usage(self.events)
            length, size = await pipeline.execute(raise_on_error=False)
        if isinstance(length, redis.RedisError):
            if not is_wrong_type(length):
                raise length
            return None  # it is none, and is not read
        if length > self.max_entries:
            return _not_read(f"holds {length} events, and {self.max_entries}")
        # A server that keeps the command from us leaves the number of entries as the bound.
        if isinstance(size, int) and size > self.max_bytes:
            return _not_read(f"takes {size} bytes, and {self.max_bytes}")
        return None

    async def _unread(self, fault: InvalidRequest) -> History:
        """The past of a job whose stream is too large to be read: it can be ended, and not gone on with."""
        last = await last_id(self.keys, self.job_id).run_async(self.client)
        async with self.client.pipeline(transaction=False) as pipeline:
            self._ask_whether_held(pipeline)
            held = self._is_held(await pipeline.execute(raise_on_error=False))
        if last.attempt > MAX_ATTEMPT:
            await self._discard([str(last).encode()], FOREIGN_IDS)
            return History(held=held)
        return History(last_attempt=last.attempt, after=last, fault=fault, held=held)

    def _ask_whether_held(self, pipeline: Any) -> None:
        """Of a primary alone: a demoted one answers reads from its past. A write it refuses, even of nothing."""
        pipeline.lrem(self.taken, 0, "")
        pipeline.lpos(self.taken, self.job_id)

    @staticmethod
    def _is_held(replies: Sequence[Any]) -> bool:
        for reply in replies:
            if isinstance(reply, redis.RedisError):
                raise reply
        return replies[-1] is not None

    async def _discard(self, seen: list[bytes], why: str) -> None:
        logger.warning(
            "job %.80r: what stands in place of its stream is deleted: %s",
            self.job_id,
            why,
            extra={"job_id": self.job_id[:80]},
        )
        await discard_stream(self.keys, self.job_id, seen).run_async(self.client)


def _not_read(what: str) -> InvalidRequest:
    return InvalidRequest(f"the job's stream {what} are read: submit the request under another id")


# -- what was read


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
    attempt = EventId.parse(info["last-generated-id"]).attempt
    if attempt > MAX_ATTEMPT:
        raise InvalidRequest(FOREIGN_IDS)
    return attempt


def parse_history(raw: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> History:
    """A job's past from its stream's entries.  Raises InvalidRequest where they cannot be a job's stream.

    Where an event of a known type cannot be read, `events` holds those before it, and `fault` says so.
    """
    try:
        entries = [Entry.read(entry_id, fields) for entry_id, fields in raw]
    except (KeyError, ValueError) as error:
        raise InvalidRequest("its entries are no events") from error
    ordered = all(entry.id.seq == seq and entry.id.attempt <= MAX_ATTEMPT for seq, entry in enumerate(entries))
    if not ordered or any(entry.type in TERMINAL_TYPES for entry in entries[:-1]):
        raise InvalidRequest("its entries do not follow on each other")
    events: list[StreamedEvent] = []
    fault: InvalidRequest | None = None
    for entry in entries:
        event = _event_of(entry)
        if event is None and fault is None:
            fault = InvalidRequest(
                f"event {entry.id} of the job's stream is of type {entry.type} and lacks what contract version 1 "
                "asks of it: submit the request under another id"
            )
        if isinstance(event, StreamedEvent) and fault is None:
            events.append(event)
    return History(entries, events, fault=fault)


def _event_of(entry: Entry) -> StreamedEvent | UnknownEvent | None:
    """The event in an entry, None where it lacks something.  Raises InvalidRequest where its data is no object."""
    try:
        event = entry.parse()
    except ValidationError:
        event = None
    if not isinstance(event, StreamedEvent) and not _is_object(entry.data):
        raise InvalidRequest("its entries hold data that is no JSON object")
    return event


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
