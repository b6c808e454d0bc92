"""What a producer does, step by step, without doing any I/O: the one body of logic behind both clients.

An operation is a generator. It yields commands, each a callable that takes a redis client, and is sent their
replies. A shell runs it: `Producer` calls the commands, `AsyncProducer` calls and awaits them.
"""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import redis
from rq.utils import now, utcformat

from .contract import (
    BEFORE_FIRST,
    EventId,
    GenerationResult,
    GenqueueError,
    JobConflict,
    Keys,
    NoSuchJob,
    QueueFull,
    StartedData,
    StreamedEvent,
    UnknownEvent,
    WaitTimeout,
)
from .contract.assemble import assemble
from .contract.compatibility import check_understood
from .contract.keys import check_job_id
from .following import Subscription, event_in
from .job_status import (
    JOB_FIELDS,
    JobState,
    JobStatus,
    WorkerInfo,
    job_fields,
    progress_of,
    state_of,
    times_of,
)
from .ledger import rq_names
from .ledger.cancel import CancelAnswer, cancel
from .ledger.roster import WorkerRecord, live_workers, read_records, worker_sets
from .ledger.step import Step
from .ledger.submit import Conflict, Full, submit
from .ledger.waiting import await_end
from .settings import ProducerSettings
from .submission import Batch

T = TypeVar("T")
Command = Callable[[Any], Any]
"""Takes a redis client, sync or async; returns its reply, or an awaitable of it."""
Operation = Generator[Command, Any, T]
Wait = Callable[[Subscription, float], Any]
"""Returns, or is awaited, when the subscription has something or the seconds are over."""


@dataclass(frozen=True)
class Waiting:
    """A command that sends nothing: it waits for a subscription, within a bound of its own."""

    wait: Wait
    subscription: Subscription
    left_s: float

    def __call__(self, _: Any) -> Any:
        """Wait, or return what is to be awaited."""
        return self.wait(self.subscription, self.left_s)


CancelOutcome = Literal["cancelled", "requested", "ended"]

UNKNOWN_MODEL = "unknown"
"""Of a job of which nothing says its model."""
_WAITERS_TTL_S = 86_400
"""The same for all, so that nobody shortens another's; whoever waits for longer looks for the end now and then."""
_MARGIN_S = 0.05
"""A time-out so close before the caller's own bound is that bound's."""


def answer_by(deadline: float, bound_s: float) -> float:
    """Until when Redis may answer what a wait asks of it: first how the job stands, last what is known of it.

    A wait of no time at all still gets an answer. It is less than a fifth of the bound and 0.5 s after the
    deadline, which is how exactly bounds are kept. Times are those of time.monotonic().
    """
    return deadline + min(3.0, 0.4 + 0.1 * bound_s)


class Operations:
    """Every operation, over the names and the bounds of one producer.

    keys      names of the streams, results and cancel requests, under the producer's prefix
    settings  how long a request to cancel is kept, and a result where the job's hash does not say: queue_ttl_s and
              result_ttl_s; its other bounds belong to the shells and to `submission`
    """

    def __init__(self, keys: Keys, settings: ProducerSettings) -> None:
        self.keys = keys
        self.settings = settings

    def submit(self, batch: Batch) -> Operation[list[bool]]:
        """Enqueue all jobs of the batch in one round trip, or none. Returns for each whether it is new.

        Raises QueueFull, JobConflict, and InvalidRequest for a field that no live worker understands.
        """
        if not batch.submissions:
            return []
        if batch.beyond_base:
            understood = [record.request_fields for record in (yield from self._records(batch.model))]
            check_understood(batch.beyond_base, understood)
        jobs = [submission.new_job for submission in batch.submissions]
        step = submit(
            self.keys,
            batch.model,
            batch.priority,
            jobs,
            max_queued=batch.max_queued,
            queue_ttl_s=batch.queue_ttl_s,
        )
        match step.read((yield step.send)):
            case Full(queued):
                raise QueueFull(
                    f"{queued} jobs wait for {batch.model} and max_queued is {batch.max_queued}; nothing was "
                    "enqueued: submit again later"
                )
            case Conflict(job_id):
                raise JobConflict(
                    f"job id {job_id} is that of another request, model or prefix; nothing was enqueued: choose "
                    "another id, or wait until that job has ended and its result_ttl_s is over"
                )
            case created:
                # A command is sent again when its reply got lost, and then finds the job that it made itself.
                pairs = zip(batch.submissions, created, strict=True)
                return [submission.id_is_ours or is_new for submission, is_new in pairs]

    def in_time(self, operation: Operation[T], job_id: str, *, deadline: float, waited_s: float) -> Operation[T]:
        """The operation, as a part of a wait.  Raises WaitTimeout where Redis has not answered by its deadline."""
        try:
            return (yield from operation)
        except redis.TimeoutError as error:
            if time.monotonic() < deadline - _MARGIN_S:
                raise
            raise _unanswered(job_id, waited_s) from error

    def open_stream(self, job_id: str, after: EventId | str | None) -> Operation[EventId | None]:
        """Where a subscriber starts. None when nothing comes after its cursor.  Raises NoSuchJob."""
        cursor = EventId.parse(after) if isinstance(after, str) else after or BEFORE_FIRST
        newest, has_result = yield from self._newest(job_id)
        if newest and newest.is_terminal and newest.id <= cursor:
            return None
        if has_result and newest is None:
            raise NoSuchJob(f"the events of job {job_id} are gone, its result is still there: ask for that")
        return cursor

    def open_result(self, job_id: str) -> Operation[GenerationResult | EventId]:
        """The result, or the cursor from which to follow the stream until it is there.  Raises NoSuchJob."""
        newest, has_result = yield from self._newest(job_id)
        if newest and newest.is_terminal:
            return _result_of(newest)
        if has_result and newest is None:  # beside a stream that goes on, it is no result
            raw = yield lambda r: r.get(self.keys.result(job_id))
            if raw is not None:
                return _stored_result(job_id, raw)
        return newest.id if newest else BEFORE_FIRST

    def announce(self, job_id: str, wake_key: str) -> Operation[GenerationResult | None]:
        """Have the job's end written to the wake stream, too. The result, if it has ended by now.

        To be called once the wake stream is read: no end falls between the two.
        """
        step = await_end(self.keys, job_id, wake_key, ttl_s=_WAITERS_TTL_S)
        entry = step.read((yield step.send))
        return _result_of(event_in(*entry)) if entry else None

    def next_event(
        self,
        subscription: Subscription,
        wait: Wait,
        *,
        deadline: float,
        waited_s: float,
    ) -> Operation[StreamedEvent]:
        """The next event of a subscription.  deadline: of time.monotonic().

        Raises WaitTimeout, which says what is known of the job; NoSuchJob when it is gone.
        """
        while not subscription.inbox:
            # Asked again, because a hub on a thread may have put events and then failed since the line above: the
            # events come first.
            if subscription.error is not None and not subscription.inbox:
                raise subscription.error
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise (yield from self._wait_timeout(subscription.job_id, waited_s))
            yield Waiting(wait, subscription, left_s)
        return subscription.inbox.popleft()

    def _wait_timeout(self, job_id: str, waited_s: float) -> Operation[WaitTimeout]:
        try:
            status = yield from self.status(job_id)
        except redis.TimeoutError:
            return _unanswered(job_id, waited_s)
        advice = "" if status.is_stranded else ". It goes on: wait again, or cancel it"
        return WaitTimeout(f"job {job_id} was waited for {waited_s:g} s: {status.describe()}{advice}")

    def cancel(self, job_id: str) -> Operation[CancelOutcome]:
        """End a job that waits; ask the worker to end one that runs. Harmless to repeat.  Raises NoSuchJob."""
        newest, _ = yield from self._newest(job_id)
        if newest and newest.is_terminal:
            return "ended"
        fields, ttl_s = yield from self._read_job(job_id)
        while True:
            entries = yield lambda r: r.xrange(self.keys.events(job_id))
            events = [event_in(*entry) for entry in entries]
            step = _cancel_step(self.keys, self.settings, job_id, fields, ttl_s=ttl_s, events=events)
            outcome = step.read((yield step.send))
            # 'changed': its worker has published since we read.
            if outcome != "changed":
                return outcome

    def status(self, job_id: str) -> Operation[JobStatus]:
        """What is known of the job.  Raises NoSuchJob."""
        newest, has_result = yield from self._newest(job_id)
        fields, _ = yield from self._read_job(job_id)
        if not fields:
            return (yield from self._status_without_hash(job_id, newest))
        model = self.keys.model_of_queue(fields["origin"]) or UNKNOWN_MODEL
        position = yield from _position(self.keys, job_id, model)
        return JobStatus(
            job_id=job_id,
            model=model,
            state=_terminal_state(newest) or state_of(fields),
            has_result=has_result or bool(newest and newest.is_terminal),
            queue=fields["origin"],
            position=position,
            worker=fields.get("worker_name") or None,
            workers=(yield from self.workers(model)),
            progress=progress_of(fields),
            **times_of(fields),
        )

    def workers(self, model: str) -> Operation[tuple[WorkerInfo, ...]]:
        """The live workers that serve the model."""
        records = yield from self._records(model)
        return tuple(
            WorkerInfo(name=record.name, model_state=record.model_state, chat_template=record.chat_template)
            for record in records
        )

    def _records(self, model: str) -> Operation[tuple[WorkerRecord, ...]]:
        worker_keys = sorted((yield lambda r: r.sunion(worker_sets(self.keys, model))))
        if not worker_keys:
            return ()
        return live_workers(worker_keys, (yield read_records(worker_keys)))

    def _existence_keys(self, job_id: str) -> tuple[str, str, str]:
        """A job is known while one of these is there."""
        return rq_names.job(job_id), self.keys.events(job_id), self.keys.result(job_id)

    def _newest(self, job_id: str) -> Operation[tuple[StreamedEvent | UnknownEvent | None, bool]]:
        """The last event so far, and whether there is a result.  Raises NoSuchJob."""
        hash_key, events, result = self._existence_keys(check_job_id(job_id))
        entries, has_result, origin = (
            yield lambda r: (
                r.pipeline(transaction=True)
                .xrevrange(events, count=1)
                .exists(result)
                .hget(hash_key, "origin")
                .execute()
            )
        )
        if not (entries or has_result):
            if origin is None:
                raise NoSuchJob(
                    f"job {job_id} is not known: it was never submitted, its result_ttl_s has passed, or Redis "
                    "has evicted it for memory"
                )
            self._check_ours(job_id, origin.decode(errors="replace"))
        return (event_in(*entries[0]) if entries else None), bool(has_result)

    def _read_job(self, job_id: str) -> Operation[tuple[dict[str, str], int]]:
        """Fields of the RQ hash, none when it is gone or not ours; and its TTL in seconds, negative for none."""
        key = rq_names.job(job_id)
        values, ttl_s = yield lambda r: r.pipeline(transaction=False).hmget(key, JOB_FIELDS).ttl(key).execute()
        fields = job_fields(values)
        if fields:
            self._check_ours(job_id, fields.get("origin", ""))
        return fields, ttl_s

    def _check_ours(self, job_id: str, origin: str) -> None:
        """Raises NoSuchJob for a job of RQ alone, or of another prefix: nobody would end it here."""
        if self.keys.model_of_queue(origin) is None:
            raise NoSuchJob(f"job {job_id} is a job of another RQ queue, {origin!r:.80}, and not ours")

    def _status_without_hash(
        self, job_id: str, newest: StreamedEvent | UnknownEvent | None
    ) -> Operation[JobStatus]:
        """Status of a job whose RQ hash has gone before its events and result."""
        raw = yield lambda r: r.get(self.keys.result(job_id))
        if raw is None and newest is None:
            raise NoSuchJob(f"job {job_id} is not known any more: its result_ttl_s has passed")
        if raw is None:
            assert newest is not None
            return JobStatus(
                job_id=job_id,
                model=_model_of([newest]),
                state=_terminal_state(newest) or "running",
                has_result=newest.is_terminal,
            )
        result = _stored_result(job_id, raw)
        return JobStatus(
            job_id=job_id, model=result.model, state=result.status, has_result=True, worker=result.worker
        )


def _cancel_step(
    keys: Keys,
    settings: ProducerSettings,
    job_id: str,
    fields: dict[str, str],
    *,
    ttl_s: int,
    events: list[StreamedEvent | UnknownEvent],
) -> Step[CancelAnswer]:
    model = keys.model_of_queue(fields.get("origin", "")) or _model_of(events)
    return cancel(
        keys,
        job_id,
        model,
        events[-1].id if events else None,
        assemble(job_id, model, events, status="cancelled", finish_reason="cancelled"),
        result_ttl_s=_positive(fields.get("result_ttl")) or settings.result_ttl_s,
        request_ttl_s=max(ttl_s, int(settings.queue_ttl_s)),
        now=utcformat(now()),
    )


def _position(keys: Keys, job_id: str, model: str) -> Operation[int | None]:
    """Jobs of the model that are served before it; None when it is in none of the queues."""
    names = [rq_names.queue(name) for name in keys.queues(model)]

    def command(r: Any) -> Any:
        """Place and length in each queue, at one moment: a job must not move between two of the questions."""
        pipeline = r.pipeline(transaction=True)
        for name in names:
            pipeline.lpos(name, job_id)
            pipeline.llen(name)
        return pipeline.execute()

    reply = yield command
    before = 0
    for place, length in zip(reply[::2], reply[1::2], strict=True):
        if place is not None:
            return before + int(place)
        before += length
    return None


def _model_of(events: Sequence[StreamedEvent | UnknownEvent]) -> str:
    """Of a job whose hash is gone."""
    known = (event.event.data for event in events if isinstance(event, StreamedEvent))
    return next((data.model for data in known if isinstance(data, StartedData | GenerationResult)), UNKNOWN_MODEL)


def _result_of(event: StreamedEvent | UnknownEvent) -> GenerationResult:
    assert isinstance(event, StreamedEvent)
    assert isinstance(event.event.data, GenerationResult)
    return event.event.data


def _stored_result(job_id: str, raw: bytes) -> GenerationResult:
    try:
        return GenerationResult.model_validate_json(raw)
    except ValueError:
        raise GenqueueError(f"what stands in place of the result of job {job_id} is none") from None


def _terminal_state(newest: StreamedEvent | UnknownEvent | None) -> JobState | None:
    return newest.event.type if isinstance(newest, StreamedEvent) and newest.is_terminal else None  # type: ignore[return-value]


def _unanswered(job_id: str, waited_s: float) -> WaitTimeout:
    return WaitTimeout(
        f"job {job_id} was waited for {waited_s:g} s: Redis does not answer, so that nothing is known of it now. "
        "Wait again when Redis is well"
    )


def _positive(text: str | None) -> int | None:
    """RQ's TTLs: -1 means for ever, which no key of ours is kept."""
    try:
        number = int(text or "")
    except ValueError:
        return None
    return number if number > 0 else None
