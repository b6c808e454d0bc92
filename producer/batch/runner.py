"""Carries rows to the queue and waits for their ends: a bounded number at a time, over one blocked connection.

A job that Redis has forgotten is submitted again under its id, and one that it knows is found by it: that is how
a run goes on where another stopped, and how it survives a server that came back empty.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..async_client import AsyncProducer
from ..contract import (
    GenqueueError,
    InvalidRequest,
    JobConflict,
    JobStranded,
    NoSuchJob,
    QueueFull,
    TokenLogprob,
    Tokens,
    WaitTimeout,
)
from ..ending import end
from ..handles import AsyncJobHandle
from .answers import Answer
from .feed import Feed
from .outages import Outages
from .outbox import Outbox
from .rows import Row

WINDOW = 4
"""Times as many rows as are in flight may wait for a slower one before them, where the order is kept."""
CHECK_EVERY_S = 2.0
"""Between two looks at whether Redis is there, and still knows what it was told."""
MOST_LIVES = 5
"""So often a job is lost and submitted again."""
REFUSED_RETRY_S = 1.0
"""Until rows that the queue did not take are sent again, where none of ours has ended before."""


@dataclass(frozen=True)
class Options:
    """How rows are queued.

    queue  arguments of `AsyncProducer.submit_many`, for every row: model, priority and how long
    """

    queue: dict[str, Any]
    in_flight: int = 64
    fail_fast: bool = False
    """Take no more rows once one has failed; those in flight come to their end."""


@dataclass(eq=False)
class _Open:
    """A row on its way."""

    row: Row
    place: int
    lives: int = field(default=0)


class Runner:
    """One batch.  `outages` is asked at each step whether Redis is there."""

    def __init__(
        self, producer: AsyncProducer, options: Options, outbox: Outbox, say: Callable[[str], None]
    ) -> None:
        self._producer = producer
        self._options = options
        self._outbox = outbox
        self._say = say
        self._changed = asyncio.Event()
        self._waits: dict[asyncio.Task[Answer], _Open] = {}
        self._sending = 0
        self._again: deque[_Open] = deque()
        self._at_once = options.in_flight
        """Rows of one call. A queue with less room than that takes none of them."""
        self._is_refused = self._has_said_refused = False
        self._is_failing = False
        self._error: BaseException | None = None
        self._outages: Outages

    @property
    def in_flight(self) -> int:
        """Jobs that have been submitted and not ended, those included of which Redis has yet to answer."""
        return len(self._waits) + self._sending

    async def run(self, rows: Iterator[Row | None], *, may_begin_without: bool) -> None:
        """Until every row has its answer.

        may_begin_without: whether Redis is waited for where it was never there.

        Raises BrokerUnavailable there, and what reading the rows or writing an answer raises.
        """
        # A task of its own: a cancel that redis-py loses, which may be that of Ctrl-C, is said again.
        work = asyncio.create_task(self._run(rows, may_begin_without=may_begin_without), name="genqueue-batch-run")
        try:
            await asyncio.wait([work])
        finally:
            await end([work])
        work.result()

    async def _run(self, rows: Iterator[Row | None], *, may_begin_without: bool) -> None:
        self._outages = Outages(self._say, self._submit_all_again, may_begin_without=may_begin_without)
        feed = Feed(rows, self._changed.set)
        checks = asyncio.create_task(self._keep_checking(), name="genqueue-batch-checks")
        try:
            while True:
                self._changed.clear()
                if self._error is not None:
                    raise self._error
                if chunk := self._next_chunk(feed):
                    await self._submit(chunk)
                    await self._wait_after_refusal()
                elif self._is_over(feed):
                    return
                else:
                    await self._changed.wait()
        finally:
            feed.close()
            waits, self._waits = self._waits, {}
            self._sending += len(waits)  # they go on, without us
            await end([checks, *waits])

    def _is_over(self, feed: Feed) -> bool:
        no_more_rows = self._is_failing or feed.is_over
        return no_more_rows and not self._waits and not self._again

    def _next_chunk(self, feed: Feed) -> list[_Open]:
        """Rows for which there is room."""
        chunk: list[_Open] = []
        while len(chunk) < min(self._at_once, self._options.in_flight - len(self._waits)):
            if self._again:
                chunk.append(self._again.popleft())
                continue
            if self._is_failing or self._outbox.open_rows >= WINDOW * self._options.in_flight:
                break
            row = feed.take()
            if row is None:
                break
            item = _Open(row, self._outbox.announce())
            if row.request is None:
                self._deliver(item, Answer(row, code=InvalidRequest.code, reason=row.fault))
            else:
                chunk.append(item)
        return chunk

    async def _submit(self, chunk: list[_Open]) -> None:
        """All at once; where one of them is refused, one by one, so that the others go on."""
        requests = [item.row.request for item in chunk if item.row.request is not None]
        job_ids = [item.row.job_id for item in chunk]
        self._sending = len(chunk)
        try:
            handles = await self._outages.through(
                lambda: self._producer.submit_many(requests, job_ids=job_ids, **self._options.queue)
            )
        except (QueueFull, InvalidRequest, JobConflict) as error:
            self._sending = 0  # and not where Ctrl-C ends it: they may be there
            if isinstance(error, QueueFull) or getattr(error, "param", "") == "group":
                self._again.extendleft(reversed(chunk))  # in their order: an output may wait for the first
                self._note_not_now(error, len(chunk))
            elif len(chunk) > 1:
                for item in chunk:
                    await self._submit([item])
            else:
                self._deliver(chunk[0], Answer(chunk[0].row, code=error.code, reason=str(error)))
            return
        self._sending = 0
        self._at_once = min(self._options.in_flight, max(self._at_once, 2 * len(chunk)))
        for item, handle in zip(chunk, handles, strict=True):
            task = asyncio.create_task(self._answer(item.row, handle), name=item.row.job_id)
            self._waits[task] = item
            task.add_done_callback(self._ended)

    def _note_not_now(self, error: GenqueueError, rows: int) -> None:
        """No row is at fault: there is no room, or no live worker knows of groups yet."""
        self._at_once, self._is_refused = max(1, rows // 2), True
        if not self._has_said_refused:
            self._has_said_refused = True
            self._say(f"{str(error).partition(';')[0]}: waiting for that")

    async def _wait_after_refusal(self) -> None:
        """Until a job of ours has ended, or a while has passed, where the queue took no rows."""
        if self._is_refused:
            self._is_refused = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFUSED_RETRY_S):
                    await self._changed.wait()

    async def _answer(self, row: Row, handle: AsyncJobHandle) -> Answer:
        """How the job ended.  Raises NoSuchJob where Redis has lost it."""
        while True:
            try:
                result = await self._outages.through(lambda: handle.result(check=False))
                return Answer(row, result, logprobs=await self._logprobs(row, handle))
            except WaitTimeout:
                continue  # longer than it may live, by this host's clock: its end is on the way
            except NoSuchJob:
                raise
            except JobStranded as error:
                with contextlib.suppress(NoSuchJob):
                    await self._outages.through(handle.cancel)
                return Answer(row, code=error.code, reason=str(error))
            except GenqueueError as error:
                return Answer(row, code=error.code, reason=str(error))

    async def _logprobs(self, row: Row, handle: AsyncJobHandle) -> list[TokenLogprob] | None:
        """Of a job that has ended: they stand in its stream alone."""
        if row.request is None or row.request.logprobs is None:
            return None

        async def read() -> list[TokenLogprob] | None:
            events = [streamed.event async for streamed in handle.stream()]
            return [each for event in events if isinstance(event, Tokens) for each in event.data.logprobs or ()]

        try:
            return await self._outages.through(read)
        except NoSuchJob:  # the events went before the result
            return None

    def _ended(self, task: asyncio.Task[Answer]) -> None:
        item = self._waits.pop(task, None)
        self._changed.set()
        error = None if task.cancelled() else task.exception()
        if item is None or task.cancelled():  # it was submitted again
            return
        if isinstance(error, NoSuchJob):
            item.lives += 1
            if item.lives < MOST_LIVES:
                self._again.append(item)
            else:
                self._deliver(item, Answer(item.row, code=error.code, reason=str(error)))
        elif error is not None:
            self._error = error
        else:
            self._deliver(item, task.result())

    def _deliver(self, item: _Open, answer: Answer) -> None:
        self._is_failing |= answer.failed and self._options.fail_fast
        try:
            self._outbox.put(item.place, answer)
        except Exception as error:  # noqa: BLE001 - raised by `run`
            self._error = error

    def _submit_all_again(self) -> None:
        """Those that Redis still knows are found, and no row is waited for under two lives."""
        for task, item in self._waits.items():
            task.cancel()
            self._again.append(item)
        self._waits = {}
        self._changed.set()

    async def _keep_checking(self) -> None:
        """Whether the oldest job in flight is still known: a server that came back empty says nothing of it."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            oldest = next(iter(self._waits.values()), None)
            if oldest is None:
                continue
            job_id = oldest.row.job_id
            try:
                await self._outages.through(lambda job_id=job_id: self._producer.status(job_id))  # type: ignore[misc]
            except NoSuchJob:
                if oldest in self._waits.values():
                    self._submit_all_again()
            except GenqueueError:
                continue  # the wait for it says so
