"""Producer: submit prompts, follow their tokens, read their results. `async_client` has the same for asyncio.

A thin shell: what is submitted is made in `submission`, what is done is in `operations`, how a job is waited for
in `waits`, how it gets to Redis in `links`, how streams share one connection in `hub`. A Producer can be used from
many threads.
"""

import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

import redis

from .broker.connections import check_suits, connect
from .continuing import ContinueOptions, past_of
from .contract import EventId, GenerationResult, Message, Priority, StreamedEvent
from .controls import Controls
from .ends import end_of_job
from .handles import JobHandle
from .links import Link
from .operations import Operation
from .patience import Patience
from .race import Seat
from .sampling import SamplingOptions, SubmitArguments
from .settings import ProducerSettings
from .submission import Batch, Request
from .submitted import CANCEL_S, OnInterrupt, cancel_submitted
from .subscription import Subscription

T = TypeVar("T")


class Producer(Controls):
    """Submits jobs and follows them. A context manager; it can be shared between threads.

        with Producer("redis://127.0.0.1:6379/0") as producer:
            job = producer.submit("你好，介绍一下你自己", model="tiny", max_new_tokens=32)
            for event in job.stream():
                if event.event.type == "tokens":
                    print(event.event.data.text, end="", flush=True)

    Every method raises BrokerUnavailable when Redis cannot be used, and RuntimeError once the producer is closed.
    A command is answered within the setting socket_timeout_s, retries included, a connection is made within
    connect_timeout_s, and a wait ends with its timeout_s, also where the server has stopped answering. (A name
    server that does not answer can hold up a connection for longer, and nothing else.)

    `connection` replaces redis_url; it is not closed here. It keeps its own time-outs and retries, which may be
    longer: give it a short socket_timeout and few retries, or use redis_url.

    `on_interrupt="cancel"`: a Ctrl-C that leaves the `with` block cancels the jobs that this producer has enqueued
    and that have not ended, as far as that goes within 5 s. A job that was there before it was submitted here is
    left alone.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        settings: ProducerSettings | None = None,
        prefix: str | None = None,
        connection: redis.Redis | None = None,
        on_interrupt: OnInterrupt = "leave",
    ) -> None:
        super().__init__(redis_url, settings, prefix, on_interrupt)
        if connection is not None:
            check_suits(connection, redis.Redis)
        client = connection or connect(**self.settings.reach)
        blocking_client = connection or connect(**self.settings.reach, blocking=True)
        self._link = Link(
            client, blocking_client, self.settings, owns_clients=not connection, check_usable=self._check_usable
        )
        self._hub = self._link.hub

    @overload
    def submit(
        self, prompt: str | None = None, *, model: str, n: None = None, **options: Unpack[SubmitArguments]
    ) -> JobHandle: ...

    @overload
    def submit(
        self, prompt: str | None = None, *, model: str, n: int, **options: Unpack[SubmitArguments]
    ) -> list[JobHandle]: ...

    def submit(
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
    ) -> JobHandle | list[JobHandle]:
        """Enqueue one prompt: exactly one of prompt, messages and prompt_token_ids.

        n            so many answers: a list of jobs, with seeds apart. A worker that takes them in a row reads the
                     prompt once
        job_id       an idempotency key: submitted twice, it is one job. With n, of JOB-0, JOB-1, …
        priority     high jobs are served before normal ones, low ones after
        group        for whom it is, as a user or a tenant: the groups of a priority take turns, a job each
        queue_ttl_s  how long it may wait for a worker before it ends as expired
        timeout_s    how long a worker may take
        result_ttl_s how long events and result are kept after the end
        max_queued   cap on the jobs that wait for this model: those of the group, or those without one
        sampling     fields of SamplingParams, as max_new_tokens=32. Numbers of numpy are taken, too

        Raises InvalidRequest before anything is sent; QueueFull, and nothing is enqueued.
        """
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
        jobs = self._submit(batch)
        return jobs[0] if n is None else jobs

    def submit_many(
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
    ) -> list[JobHandle]:
        """Enqueue up to 10,000 prompts in one round trip, all of them or none.

        sampling: for every request that doesn't say otherwise itself. Options and errors are those of `submit`; an
        InvalidRequest names the row, as requests[3].
        """
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
        return self._submit(batch)

    def stream(
        self, job_id: str, after: EventId | str | None = None, timeout_s: float | None = None
    ) -> Generator[StreamedEvent, None, None]:
        """The job's events after a cursor, as they come, up to and including the one that ends it.

        after      id of the last event seen, `EventId` or "1-7"; None for all
        timeout_s  bound of the wait for each event; None and inf as in `result`

        Lost connections and restarts of Redis are survived without gap or repeat, as long as an event comes within
        the bound. A failed or cancelled job ends with its event, and nothing is raised for it.

        Raises at the call: NoSuchJob, and JobStranded when nobody will ever end the job. Raises while it is
        iterated: WaitTimeout, and JobStranded where it comes to that later.
        """
        patience = self._waits.patience(timeout_s)
        opening = self._waits.in_time(self._waits.open_stream(job_id, after, patience), job_id, patience)
        cursor = self._link.run(opening, patience.answer_by, job_id)
        return self._follow(job_id, cursor, patience)

    def result(self, job_id: str, timeout_s: float | None = None, *, check: bool = True) -> GenerationResult:
        """How the job ended; waits for it without polling.

        timeout_s  bound of the wait; inf: none. None: as long as the job may live (its queue_ttl_s and timeout_s
                   together), unless it runs and says nothing for the setting wait_s, or no worker serves its queue
                   for so long. A job that stands in line behind live workers is waited for
        check      raise the job's error: the JobError of its code, as JobTimeout, or JobCancelled. With False the
                   result of a failed or cancelled job is returned, with the text that it had

        Raises NoSuchJob; WaitTimeout when the wait is over; JobStranded when nobody will ever end the job.
        """
        patience = self._waits.patience(timeout_s)
        ended = self._link.run(end_of_job(self._waits, job_id, self._hub, patience), patience.answer_by, job_id)
        self._submitted.discard(job_id)
        return ended.raise_for_status() if check else ended

    def continue_job(
        self, job_id: str, max_new_tokens: int | None = None, **options: Unpack[ContinueOptions]
    ) -> JobHandle:
        """Submit a job that begins after the last token of one that was cut by length, cancelled or out of time.

        Nothing is generated again, and seed, penalties and stop strings go on, so that the new job's text is that
        of one undisturbed run. Its stream and its result hold all of it; the first `tokens` event, what there was.

        max_new_tokens  how many may follow. None: what the job had left; 256 where it had used it up
        options         new_job_id, and how the new job is queued and kept, as in `submit`

        Raises NoSuchJob, and InvalidRequest for a job that was not cut, or has not ended, or is kept no longer.
        """
        past = self._run(past_of(self._keys, job_id))
        return self._submit(self._prepare_continued(past, max_new_tokens, options))[0]

    def close(self) -> None:
        """End all streams and close the connections that are its own."""
        if self._must_close():
            self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with closing(self):
            if isinstance(error, KeyboardInterrupt) and self._must_cancel():
                by = time.monotonic() + CANCEL_S
                self._link.run(cancel_submitted(self._operations, self._submitted, by), by)

    def _seat(self) -> Seat:
        """For `as_completed` and `gather`."""
        return Seat(self._waits, self._link, self._submitted)

    def _submit(self, batch: Batch) -> list[JobHandle]:
        self._submitted.add(batch.own_ids)
        created = self._run(self._operations.submit(batch))
        self._submitted.add(batch.given_ids(created))
        pairs = zip(batch.submissions, created, strict=True)
        return [JobHandle(submission.job_id, batch.model, new, self) for submission, new in pairs]

    def _follow(
        self, job_id: str, cursor: EventId | None, patience: Patience
    ) -> Generator[StreamedEvent, None, None]:
        if cursor is None:
            return
        patience.restart()
        with self._hub.following(job_id, cursor) as subscription:
            is_terminal = False
            while not is_terminal:
                event = self._next_event(subscription, patience)
                is_terminal = event.is_terminal
                if is_terminal:
                    self._submitted.discard(job_id)
                yield event
                patience.heard(event.id)

    def _next_event(self, subscription: Subscription, patience: Patience) -> StreamedEvent:
        # What the operation begins with, thousands of times a second, and mostly ends with.
        if not subscription.has_news and (left_s := patience.left_s) > 0:
            self._hub.wait(subscription, left_s)
        if subscription.inbox:
            event = subscription.inbox.popleft()
        else:
            operation = self._waits.next_event(subscription, self._hub.wait, patience)
            event = self._link.run(operation, patience.answer_by, subscription.job_id)
        self._hub.resume(subscription)
        return event

    def _run(self, operation: Operation[T]) -> T:
        return self._link.run(operation)
