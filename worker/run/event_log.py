"""Appends a job's events to its stream, in order, once each, and only while the job is ours.

One script does every append. It proves by the stream's last entry what is there already, so that an append
whose reply was lost can be sent again, an attempt that was taken over is refused, and a stream that came back
shorter (Redis restarted without its last writes, or empty) is filled up again from memory. The log therefore
keeps every event of the job until the job ends; a job's own length is the bound.

Knows Redis and the contract, and of RQ that a job's hash says who runs it. Knows nothing of the engine, or of why
a job ends.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.asyncio import Redis

from producer.broker.outage import Outage
from producer.contract import (
    BEFORE_FIRST,
    EventId,
    GenerationResult,
    Keys,
    Started,
    StreamedEvent,
    TokenLogprob,
    Tokens,
    TokensData,
    data_json,
    mirror_json,
    terminal_event,
)

logger = logging.getLogger(__name__)

APPEND = """
-- KEYS   events, result, cancel; for a worker that runs the job also its list of taken jobs, and the job's hash
-- ARGV   id of the event that precedes the batch, ttl in s, channel, result or '', job id, our name,
--        then for each event: id, type, data, mirror
-- Answers ok | behind | fenced, and id and data of the stream's last entry.
local function before(a, b)
  local a1, a2 = string.match(a, '^(%d+)-(%d+)$')
  local b1, b2 = string.match(b, '^(%d+)-(%d+)$')
  a1, a2, b1, b2 = tonumber(a1), tonumber(a2), tonumber(b1), tonumber(b2)
  return a1 < b1 or (a1 == b1 and a2 < b2)
end
local tail = redis.pcall('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if tail.err then
  if not string.find(tail.err, 'WRONGTYPE', 1, true) then return redis.error_reply(tail.err) end
  -- The contract gives this name to the job's stream: whatever else stands there is in the way of its end.
  redis.call('DEL', KEYS[1])
end
local newest = tail[1]
local last, last_data = '0-0', ''
if newest then last, last_data = newest[1], newest[2][4] end
-- Swept away, a worker must add nothing: its first event would claim the next worker's attempt, and its last would
-- end a job that waits in its queue again. A Redis that came back empty knows neither list nor job.
-- Where somebody has put another kind of key in place of either, nobody can tell. The job is ours then, and not
-- lost as in `Bookkeeper.has_lost`: without its end a subscriber waits for ever, and RQ misses nothing that it can
-- read. A second end cannot come of it: the ids alone refuse that, below.
if #KEYS > 3 then
  local place = redis.pcall('LPOS', KEYS[4], ARGV[5])
  local job = redis.pcall('HMGET', KEYS[5], 'status', 'worker_name')
  local ours = job.err or not job[1] or (job[1] == 'started' and job[2] == ARGV[6])
  if not place and not ours then return {'fenced', last, last_data} end
end
local first = 7
if last ~= ARGV[1] then
  first = nil
  -- Our own append, whose reply was lost? Then the stream ends inside our batch, with our own data.
  for i = 7, #ARGV, 4 do
    if ARGV[i] == last and ARGV[i + 2] == last_data then first = i + 4 end
  end
  if not first then
    if before(last, ARGV[1]) and redis.call('EXISTS', KEYS[2]) == 0 then
      return {'behind', last, last_data}
    end
    return {'fenced', last, last_data}
  end
end
for i = first, #ARGV, 4 do
  redis.call('XADD', KEYS[1], ARGV[i], 'type', ARGV[i + 1], 'data', ARGV[i + 2])
  redis.call('PUBLISH', ARGV[3], ARGV[i + 3])
  last = ARGV[i]
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
if ARGV[4] ~= '' then
  redis.call('SET', KEYS[2], ARGV[4], 'EX', ARGV[2])
  redis.call('DEL', KEYS[3])
end
return {'ok', last, ''}
"""


class Fenced(Exception):
    """A later attempt has taken the job, or the job has ended: this attempt must leave no trace."""


class Moved(Fenced):
    """The earlier attempt went on after we had read the stream: read it again and claim the job anew."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """An event that has its place in the stream and its final form."""

    id: EventId
    type: str
    data: str

    @classmethod
    def of(cls, event_id: EventId, event: Any) -> "_Entry":
        """An event of the contract, at its place."""
        return cls(event_id, event.type, data_json(event))


@dataclass(slots=True)
class _OpenTokens:
    """Tokens that wait for the append under way to end, and then leave as one event."""

    index: int
    ids: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def event(self) -> Tokens:
        """Built without validation: its parts come from the engine, one by one, thousands of times a second."""
        data = TokensData.model_construct(
            index=self.index,
            ids=tuple(self.ids),
            text="".join(self.text),
            logprobs=tuple(self.logprobs) or None,
        )
        return Tokens.model_construct(type="tokens", data=data)


class EventLog:
    """The stream of one job, seen from one attempt.

    `history` is what stood in the stream when the job was taken; this attempt is the one after its last. A job
    that is run again after its end begins with no history, and `after_attempt` keeps its ids growing.
    Adding never waits; `run` appends in the background until the log is closed.

    live_ttl_s, result_ttl_s: how long the stream stays after an append, and after the last one.
    owner_keys: the worker's list of taken jobs and RQ's hash of the job. With them, nothing is appended once both
    say that the job is not with `owner`, the worker's name. Without them the ids alone are the fence: whoever ends
    a job that nobody runs, as one that expires in its queue, holds it by neither.
    outage: of the process; the log hears of it once for all who wait.
    """

    def __init__(
        self,
        client: "Redis",
        keys: Keys,
        job_id: str,
        history: Sequence[StreamedEvent],
        *,
        live_ttl_s: float,
        result_ttl_s: float,
        after_attempt: int = 0,
        owner: str = "",
        owner_keys: Sequence[str] = (),
        outage: Outage | None = None,
    ) -> None:
        self._job_id = job_id
        self._outage = outage or Outage()
        self._owner = owner
        self._script = client.register_script(APPEND)
        self._keys = [keys.events(job_id), keys.result(job_id), keys.cancel(job_id), *owner_keys]
        self._channel = keys.tokens(job_id)
        self._live_ttl_s, self._result_ttl_s = round(live_ttl_s), round(result_ttl_s)
        self._entries = [_Entry.of(streamed.id, streamed.event) for streamed in history]
        self._inherited = self._appended = len(self._entries)
        self._open: _OpenTokens | None = None
        self._result: GenerationResult | None = None
        self._closed = False
        self._dirty = asyncio.Event()
        self.attempt = (history[-1].id.attempt if history else after_attempt) + 1

    def start(self, started: Started) -> None:
        """Add the `started` event."""
        self._add(started)

    def tokens(self, index: int, ids: Sequence[int], text: str, logprobs: Sequence[TokenLogprob] = ()) -> None:
        """Add tokens; they join those that still wait."""
        if self._open is None:
            self._open = _OpenTokens(index)
        self._open.ids += ids
        self._open.text.append(text)
        self._open.logprobs += logprobs
        self._dirty.set()

    def end(self, result: GenerationResult) -> None:
        """Add the terminal event; the result is written in the same step. Nothing can be added after it."""
        self._close_tokens()
        self._add(terminal_event(result))
        self._result = result
        self.close()

    def close(self) -> None:
        """Add nothing more. `run` returns once all is appended."""
        self._closed = True
        self._dirty.set()

    async def run(self) -> None:
        """Append what is added, until the log is closed and all of it stands in the stream.

        Waits out what passes of Redis' troubles.  Raises Fenced when the job is no longer ours, BrokerUnavailable
        as `Outage` does, and a ResponseError where the job's own keys are at fault.
        """
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            self._close_tokens()
            while self._appended < len(self._entries):
                await self._append_pending()
            if self._closed and self._open is None:
                return

    # -- inside

    def _add(self, event: Any) -> None:
        assert not self._closed, "the log is closed"
        self._entries.append(_Entry.of(EventId(self.attempt, len(self._entries)), event))
        self._dirty.set()

    def _close_tokens(self) -> None:
        if self._open is not None:
            event, self._open = self._open.event(), None
            self._entries.append(_Entry.of(EventId(self.attempt, len(self._entries)), event))

    async def _append_pending(self) -> None:
        """Append the pending entries in one step, however often that takes. The engine decodes on meanwhile."""
        what = f"events of job {self._job_id!r:.80}"
        answer, last_id, last_data = await self._outage.wait_out(self._send_pending, what)
        self._take_answer(answer, EventId.parse(last_id), last_data.decode())

    async def _send_pending(self) -> tuple[bytes, bytes, bytes]:
        try:
            return await self._send(self._entries[self._appended :])
        except redis.ResponseError as error:
            if "equal or smaller" in str(error):
                raise Fenced from error  # Redis itself refuses an attempt that is over
            raise

    async def _send(self, entries: Sequence[_Entry]) -> tuple[bytes, bytes, bytes]:
        previous = self._entries[self._appended - 1].id if self._appended else BEFORE_FIRST
        ends = self._result is not None and entries[-1] is self._entries[-1]
        args: list[Any] = [
            str(previous),
            self._result_ttl_s if ends else self._live_ttl_s,
            self._channel,
            self._result.model_dump_json() if ends and self._result is not None else "",
            self._job_id,
            self._owner,
        ]
        for entry in entries:
            event_id = str(entry.id)
            args += (event_id, entry.type, entry.data, mirror_json(event_id, entry.type, entry.data))
        answer: tuple[bytes, bytes, bytes] = await self._script(keys=self._keys, args=args)
        return answer

    def _take_answer(self, answer: bytes, last: EventId, last_data: str) -> None:
        if answer == b"ok":
            self._appended = last.seq + 1
        elif answer == b"behind" and (last == BEFORE_FIRST or self._entries[last.seq].data == last_data):
            # Redis came back with less than it had acknowledged: append again from there.
            kept = last.seq + 1 if last != BEFORE_FIRST else 0
            logger.warning("the stream lost %d events; they are appended again", self._appended - kept)
            self._appended = kept
        elif self._appended == self._inherited and last.attempt < self.attempt:
            raise Moved
        else:
            raise Fenced
