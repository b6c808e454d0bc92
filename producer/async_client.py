"""AsyncProducer: as `Producer`, for asyncio.

A thin shell, as `client` is one: what is done is in `operations`. One event loop at a time uses it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

import redis.asyncio

from .async_hub import AsyncHub
from .continuing import ContinueOptions, past_of
from .contract import EventId, GenerationResult, Message, Priority, StreamedEvent
from .controls import AsyncControls
from .ends import end_of_job
from .handles import AsyncJobHandle
from .interrupts import CtrlC
from .links import AsyncLinks
from .operations import Operation
from .patience import Patience
from .race import Seat
from .sampling import SamplingOptions, SubmitArguments
from .settings import ProducerSettings
from .submission import Batch, Request
from .submitted import CANCEL_S, OnInterrupt, cancel_submitted
from .subscription import Subscription

T = TypeVar("T")

_LEFT_BY = (KeyboardInterrupt, asyncio.CancelledError, BaseExceptionGroup)
"""What leaves a block after Ctrl-C: `asyncio.run` cancels its main task first."""


class AsyncProducer(AsyncControls):
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

    @overload
    async def submit(
        self, prompt: str | None = None, *, model: str, n: None = None, **options: Unpack[SubmitArguments]
    ) -> AsyncJobHandle: ...

    @overload
    async def submit(
        self, prompt: str | None = None, *, model: str, n: int, **options: Unpack[SubmitArguments]
    ) -> list[AsyncJobHandle]: ...

    async def submit(
        self,
        prompt: str | None = None,
        *,
        model: str,
        n: int | None = None,
        messages: Sequence[Message | Mapping[str, Any]] | None = None,
        prompt_token_ids: Sequence[int] | None = None,
        job_id: str | None = None,
        priority: Priority = "normal",
        group: str | None = None,
        queue_ttl_s: float | None = None,
        timeout_s: int | None = None,
        result_ttl_s: int | None = None,
        max_queued: int | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> AsyncJobHandle | list[AsyncJobHandle]:
        """See `Producer.submit`."""
        batch = self._prepare_one(
            {"prompt": prompt, "messages": messages, "prompt_token_ids": prompt_token_ids, **sampling},
            model=model,
            n=n,
            job_id=job_id,
            priority=priority,
            group=group,
            queue_ttl_s=queue_ttl_s,
            timeout_s=timeout_s,
            result_ttl_s=result_ttl_s,
            max_queued=max_queued,
        )
        jobs = await self._submit(batch)
        return jobs[0] if n is None else jobs

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

    async def continue_job(
        self, job_id: str, max_new_tokens: int | None = None, **options: Unpack[ContinueOptions]
    ) -> AsyncJobHandle:
        """See `Producer.continue_job`."""
        past = await self._run(past_of(self._keys, job_id))
        return (await self._submit(self._prepare_continued(past, max_new_tokens, options)))[0]

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
