"""AsyncProducer: as `Producer`, for asyncio.

A thin shell, as `client` is one: what is done is in `operations`. One event loop at a time uses it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar, Unpack

import redis.asyncio

from .base import BaseProducer
from .cancelling import Cancelled, cancel_all, cancel_many
from .continuing import ContinueOptions, past_of
from .contract import EventId, GenerationResult, Message, Priority, StreamedEvent
from .deletion import deletion
from .ends import end_of_job
from .following import Subscription
from .hub import AsyncHub
from .interrupts import CtrlC
from .job_status import JobStatus, WorkerInfo
from .links import AsyncLinks
from .operations import CancelOutcome, Operation
from .overview import overview
from .overview_values import Overview
from .patience import Patience
from .race import Seat
from .replies import text_in
from .sampling import SamplingOptions
from .settings import ProducerSettings
from .submission import Batch, Request
from .submitted import CANCEL_S, OnInterrupt, cancel_submitted

T = TypeVar("T")

_LEFT_BY = (KeyboardInterrupt, asyncio.CancelledError, BaseExceptionGroup)
"""What leaves a block after Ctrl-C: `asyncio.run` cancels its main task first."""


@dataclass(frozen=True)
class AsyncJobHandle:
    """A submitted job, bound to the producer that submitted it."""

    job_id: str
    model: str
    created: bool
    """False when a job of that id existed already: nothing was enqueued, this is that job."""
    _producer: "AsyncProducer" = field(repr=False, compare=False)
    _ended: list[GenerationResult] = field(default_factory=list, init=False, repr=False, compare=False)
    """How it ended, where `as_completed` has said that it has."""

    def stream(
        self, after: EventId | str | None = None, timeout_s: float | None = None
    ) -> AsyncGenerator[StreamedEvent, None]:
        """See `Producer.stream`."""
        return self._producer.stream(self.job_id, after, timeout_s)

    async def result(self, timeout_s: float | None = None, *, check: bool = True) -> GenerationResult:
        """See `Producer.result`. After `as_completed` has given the handle, nothing is asked any more."""
        if not self._ended:
            return await self._producer.result(self.job_id, timeout_s, check=check)
        return self._ended[0].raise_for_status() if check else self._ended[0]

    async def text(self, timeout_s: float | None = None) -> str:
        """See `JobHandle.text`."""
        return (await self.result(timeout_s)).text

    async def text_stream(self, timeout_s: float | None = None) -> AsyncGenerator[str, None]:
        """See `JobHandle.text_stream`. All that it raises comes while it is iterated, as that of `stream` does."""
        async with aclosing(self.stream(timeout_s=timeout_s)) as events:
            async for streamed in events:
                if piece := text_in(streamed):
                    yield piece

    async def cancel(self) -> CancelOutcome:
        """See `Producer.cancel`."""
        return await self._producer.cancel(self.job_id)

    async def continue_job(
        self, max_new_tokens: int | None = None, **options: Unpack[ContinueOptions]
    ) -> "AsyncJobHandle":
        """See `Producer.continue_job`."""
        return await self._producer.continue_job(self.job_id, max_new_tokens, **options)

    async def delete(self) -> None:
        """See `Producer.delete`."""
        await self._producer.delete(self.job_id)

    async def status(self) -> JobStatus:
        """See `Producer.status`."""
        return await self._producer.status(self.job_id)


class AsyncProducer(BaseProducer):
    """`Producer` for asyncio: the same methods, to be awaited; `stream` is an async iterator.

    One event loop at a time uses it. Where each call has a loop of its own, as with `asyncio.run` in a Celery
    task, one AsyncProducer does for all of them: it connects anew in each. Not so with a `connection`.

    async with AsyncProducer() as producer:
        job = await producer.submit("Hi", model="tiny")
        print((await job.result()).text)
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        settings: ProducerSettings | None = None,
        prefix: str | None = None,
        connection: redis.asyncio.Redis | None = None,
        on_interrupt: OnInterrupt = "leave",
    ) -> None:
        super().__init__(redis_url, settings, prefix, on_interrupt)
        self._ctrl_c = CtrlC()
        self._links = AsyncLinks(self.settings, connection, self._check_usable)

    async def submit(
        self,
        prompt: str | None = None,
        *,
        model: str,
        messages: Sequence[Message | Mapping[str, str]] | None = None,
        prompt_token_ids: Sequence[int] | None = None,
        job_id: str | None = None,
        priority: Priority = "normal",
        group: str | None = None,
        queue_ttl_s: float | None = None,
        timeout_s: int | None = None,
        result_ttl_s: int | None = None,
        max_queued: int | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> AsyncJobHandle:
        """See `Producer.submit`."""
        batch = self._prepare_one(
            {"prompt": prompt, "messages": messages, "prompt_token_ids": prompt_token_ids, **sampling},
            model=model,
            job_id=job_id,
            priority=priority,
            group=group,
            queue_ttl_s=queue_ttl_s,
            timeout_s=timeout_s,
            result_ttl_s=result_ttl_s,
            max_queued=max_queued,
        )
        return (await self._submit(batch))[0]

    async def submit_many(
        self,
        requests: Iterable[Request],
        *,
        model: str,
        job_ids: Sequence[str] | None = None,
        priority: Priority = "normal",
        group: str | None = None,
        queue_ttl_s: float | None = None,
        timeout_s: int | None = None,
        result_ttl_s: int | None = None,
        max_queued: int | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> list[AsyncJobHandle]:
        """See `Producer.submit_many`."""
        batch = self._prepare_many(
            requests,
            sampling,
            model=model,
            job_ids=job_ids,
            priority=priority,
            group=group,
            queue_ttl_s=queue_ttl_s,
            timeout_s=timeout_s,
            result_ttl_s=result_ttl_s,
            max_queued=max_queued,
        )
        return await self._submit(batch)

    async def stream(
        self, job_id: str, after: EventId | str | None = None, timeout_s: float | None = None
    ) -> AsyncGenerator[StreamedEvent, None]:
        """See `Producer.stream`. All that it raises comes with the first event: nothing is asked before.

        Leave it early inside `contextlib.aclosing`, as any async generator.
        """
        patience = self._waits.patience(timeout_s)
        link = await self._links.get()
        opening = self._waits.in_time(self._waits.open_stream(job_id, after, patience), job_id, patience)
        cursor = await link.run(opening, patience.answer_by, job_id)
        if cursor is None:
            return
        with link.hub.following(job_id, cursor) as subscription:
            is_terminal = False
            while not is_terminal:
                event = await self._next_event(subscription, patience)
                is_terminal = event.is_terminal
                if is_terminal:
                    self._submitted.discard(job_id)
                yield event
                patience.heard(event.id)

    async def result(self, job_id: str, timeout_s: float | None = None, *, check: bool = True) -> GenerationResult:
        """See `Producer.result`."""
        patience = self._waits.patience(timeout_s)
        link = await self._links.get()
        ended = await link.run(end_of_job(self._waits, job_id, link.hub, patience), patience.answer_by, job_id)
        self._submitted.discard(job_id)
        return ended.raise_for_status() if check else ended

    async def cancel(self, job_id: str) -> CancelOutcome:
        """See `Producer.cancel`."""
        return await self._run(self._operations.cancel(job_id))

    async def continue_job(
        self, job_id: str, max_new_tokens: int | None = None, **options: Unpack[ContinueOptions]
    ) -> AsyncJobHandle:
        """See `Producer.continue_job`."""
        past = await self._run(past_of(self._keys, job_id))
        return (await self._submit(self._prepare_continued(past, max_new_tokens, options)))[0]

    async def cancel_many(self, job_ids: Iterable[str]) -> dict[str, Cancelled]:
        """See `Producer.cancel_many`."""
        return await self._run(cancel_many(self._operations, job_ids))

    async def cancel_all(self, model: str | None = None, *, queued_only: bool = False) -> dict[Cancelled, int]:
        """See `Producer.cancel_all`."""
        return await self._run(cancel_all(self._operations, model, queued_only=queued_only))

    async def delete(self, job_id: str) -> None:
        """See `Producer.delete`."""
        await self._run(deletion(self._operations, job_id))

    async def status(self, job_id: str) -> JobStatus:
        """See `Producer.status`."""
        return await self._run(self._operations.status(job_id))

    async def workers(self, model: str) -> tuple[WorkerInfo, ...]:
        """See `Producer.workers`."""
        return await self._run(self._operations.workers(model))

    async def overview(self, model: str | None = None) -> Overview:
        """See `Producer.overview`."""
        return await self._run(overview(self._keys, model))

    async def aclose(self) -> None:
        """End all streams and close the connections that are its own."""
        if self._must_close():
            await self._links.aclose()

    async def __aenter__(self) -> Self:
        if self._submitted.is_kept:
            self._ctrl_c.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ctrl_c.end()
        try:
            if isinstance(error, _LEFT_BY) and self._ctrl_c.was_pressed and self._must_cancel():
                by = time.monotonic() + CANCEL_S
                link = await self._links.get()
                await link.run(cancel_submitted(self._operations, self._submitted, by), by)
        finally:
            await self.aclose()

    async def _seat(self) -> Seat:
        """For `as_completed` and `gather`."""
        return Seat(self._waits, await self._links.get(), self._submitted)

    async def _submit(self, batch: Batch) -> list[AsyncJobHandle]:
        self._submitted.add(batch.own_ids)
        created = await self._run(self._operations.submit(batch))
        self._submitted.add(batch.given_ids(created))
        pairs = zip(batch.submissions, created, strict=True)
        return [AsyncJobHandle(submission.job_id, batch.model, new, self) for submission, new in pairs]

    @property
    def _hub(self) -> AsyncHub:
        link = self._links.current
        assert link is not None, "nothing was asked of it yet"
        return link.hub

    async def _next_event(self, subscription: Subscription, patience: Patience) -> StreamedEvent:
        link = await self._links.get()
        operation = self._waits.next_event(subscription, link.hub.wait, patience)
        event = await link.run(operation, patience.answer_by, subscription.job_id)
        link.hub.resume(subscription)
        return event

    async def _run(self, operation: Operation[T]) -> T:
        return await (await self._links.get()).run(operation)
