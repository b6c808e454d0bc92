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
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from producer.broker.outage import Outage
from producer.contract import (
    BEFORE_FIRST,
    Entry,
    EventId,
    GenerationResult,
    Keys,
    Started,
    TokenLogprob,
    Tokens,
    TokensData,
    terminal_event,
    tokens_json,
)
from producer.ledger.step import AsyncScripts
from producer.ledger.stream import Appended, Appender

logger = logging.getLogger(__name__)


WAITERS_EVERY_S = 1.0
"""Between two looks whether anybody waits for the job: what a client is granted to come back is longer."""


class Fenced(Exception):
    """A later attempt has taken the job, or the job has ended: this attempt must leave no trace."""


class Moved(Fenced):
    """The earlier attempt went on after we had read the stream: read it again and claim the job anew."""


@dataclass(slots=True)
class _OpenTokens:
    """Tokens that wait for the append under way to end, and then leave as one event."""

    index: int
    ids: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def data(self) -> str:
        """Of their event, as it is written."""
        text = "".join(self.text)
        if not self.logprobs:
            return tokens_json(self.index, self.ids, text)
        data = TokensData(index=self.index, ids=tuple(self.ids), text=text, logprobs=tuple(self.logprobs))
        return data.model_dump_json()


class EventLog:
    """The stream of one job, seen from one attempt.

    `history` is what stood in the stream when the job was taken, byte for byte: filled up again, a stream keeps
    what a later version wrote and nobody here knows. This attempt is the one after its last. A job that is run
    again after its end begins with no history, and `after_attempt` keeps its ids growing. `after` is the stream's
    last id where its entries were not read: such a stream can be ended, and not be filled up again.
    Adding never waits; `run` appends in the background until the log is closed.

    live_ttl_s, result_ttl_s: how long the stream stays after an append, and after the last one.
    as_owner: nothing is appended once the worker's list of taken jobs and RQ's hash say that the job is not with
    the worker. Without it the ids alone are the fence.
    on_cancel_requested: called when an append has seen a request to cancel the job.
    outage: of the process; the log hears of it once for all who wait.
    """

    def __init__(
        self,
        client: AsyncScripts,
        keys: Keys,
        job_id: str,
        history: Sequence[Entry],
        *,
        live_ttl_s: float,
        result_ttl_s: float,
        after_attempt: int = 0,
        after: EventId = BEFORE_FIRST,
        worker: str,
        as_owner: bool,
        outage: Outage | None = None,
    ) -> None:
        self._job_id = job_id
        self._outage = outage or Outage()
        self._client = client
        self._appender = Appender(keys, job_id, worker, as_owner=as_owner)
        self.on_cancel_requested: Callable[[], None] | None = None
        self._looked_at = float("-inf")
        self._looked_for_waiters_at = float("-inf")
        self._live_ttl_s, self._result_ttl_s = round(live_ttl_s), round(result_ttl_s)
        self._after = after
        self._first_seq = after.seq + 1 if after != BEFORE_FIRST else 0
        self._entries = list(history)
        self._inherited = self._appended = len(self._entries)
        self._open: _OpenTokens | None = None
        self._result: GenerationResult | None = None
        self._closed = False
        self._dirty = asyncio.Event()
        self.attempt = (history[-1].id.attempt if history else max(after_attempt, after.attempt)) + 1

    def start(self, started: Started) -> None:
        """Add the `started` event."""
        self._add(started)

    def given(self, tokens: Tokens) -> None:
        """Add output that the request brings along. It stays an event of its own: it has no log-probabilities,
        and a reader who knows it can pass over it."""
        self._add(tokens)

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

    def has_looked_within(self, seconds: float) -> bool:
        """Whether an append has looked for a request to cancel the job so short a time ago."""
        return time.monotonic() - self._looked_at < seconds

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
        self._place(event)
        self._dirty.set()

    def _place(self, event: Any) -> None:
        self._entries.append(Entry.of(self._next_id, event))

    def _close_tokens(self) -> None:
        if self._open is not None:
            tokens, self._open = self._open, None
            self._entries.append(Entry(self._next_id, "tokens", tokens.data()))

    @property
    def _next_id(self) -> EventId:
        return EventId(self.attempt, self._first_seq + len(self._entries))

    async def _append_pending(self) -> None:
        """Append the pending entries in one step, however often that takes. The engine decodes on meanwhile."""
        what = f"events of job {self._job_id!r:.80}"
        appended = await self._outage.wait_out(self._send_pending, what)
        self._looked_at = time.monotonic()
        if appended.cancel_requested and self.on_cancel_requested is not None:
            self.on_cancel_requested()
        self._take_answer(appended)

    async def _send_pending(self) -> Appended:
        try:
            return await self._send(self._entries[self._appended :])
        except redis.ResponseError as error:
            if "equal or smaller" in str(error):
                raise Fenced from error  # Redis itself refuses an attempt that is over
            raise

    async def _send(self, entries: Sequence[Entry]) -> Appended:
        previous = self._entries[self._appended - 1].id if self._appended else self._after
        # The result is there once the terminal event is, and that is the last of these.
        ttl_s, result = self._live_ttl_s, ""
        if self._result is not None:
            ttl_s, result = self._result_ttl_s, self._result.model_dump_json()
        now = time.monotonic()
        if looks_for_waiters := now - self._looked_for_waiters_at >= WAITERS_EVERY_S:
            self._looked_for_waiters_at = now
        step = self._appender.append(
            previous, entries, ttl_s=ttl_s, result=result, looks_for_waiters=looks_for_waiters
        )
        return await step.run_async(self._client)

    def _take_answer(self, appended: Appended) -> None:
        last = appended.last
        if appended.answer == "ok":
            self._appended = last.seq + 1 - self._first_seq
        elif appended.answer == "behind" and self._after == BEFORE_FIRST and self._has(last, appended.last_data):
            # Redis came back with less than it had acknowledged: append again from there.
            kept = last.seq + 1 if last != BEFORE_FIRST else 0
            logger.warning(
                "job %s: the stream lost %d events; they are appended again",
                self._job_id,
                self._appended - kept,
                extra={"job_id": self._job_id},
            )
            self._appended = kept
        elif self._appended == self._inherited and last.attempt < self.attempt:
            raise Moved
        else:
            raise Fenced

    def _has(self, last: EventId, data: str) -> bool:
        """Whether the stream's last entry is one of ours, or the stream is empty."""
        if last == BEFORE_FIRST:
            return True
        return last.seq < len(self._entries) and self._entries[last.seq].data == data
