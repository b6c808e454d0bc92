"""What a producer does, step by step, without doing any I/O: the one body of logic behind both clients.

An operation is a generator. It yields commands, each a callable that takes a redis client, and is sent their
replies. A shell runs it: `Producer` calls the commands, `AsyncProducer` calls and awaits them.
"""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import redis
from rq.job import Job
from rq.queue import Queue
from rq.registry import CanceledJobRegistry, DeferredJobRegistry, ScheduledJobRegistry
from rq.utils import now, utcformat
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from .contract import (
    BEFORE_FIRST,
    EventId,
    GenerationResult,
    Keys,
    NoSuchJob,
    QueueFull,
    StreamedEvent,
    WaitTimeout,
    data_json,
    mirror_json,
    parse_entry,
    terminal_event,
)
from .contract.assemble import assemble
from .contract.keys import check_job_id
from .following import Subscription
from .job_status import (
    JOB_FIELDS,
    WORKER_FIELDS,
    JobState,
    JobStatus,
    WorkerInfo,
    job_fields,
    live_worker,
    progress_of,
    state_of,
    times_of,
)
from .scripts import CANCEL_QUEUED, SUBMIT
from .settings import ProducerSettings
from .submission import Batch, Submission

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

_QUEUE_PREFIX = Queue.redis_queue_namespace_prefix
_PRIORITY_KEYS = {"high": 2, "normal": 3, "low": 4}
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

        Raises QueueFull.
        """
        if not batch.submissions:
            return []
        keys, args = self._submit_arguments(batch)
        reply = yield _script(SUBMIT, keys, args)
        if reply[0] == -1:
            raise QueueFull(
                f"{reply[1]} jobs wait for {batch.model} and max_queued is {batch.max_queued}; nothing was "
                "enqueued: submit again later"
            )
        # A command is sent again when its reply got lost, and then finds the job that it made itself.
        pairs = zip(batch.submissions, reply, strict=True)
        return [submission.id_is_ours or created == 1 for submission, created in pairs]

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
        if has_result:
            raw = yield lambda r: r.get(self.keys.result(job_id))
            if raw is not None:
                return GenerationResult.model_validate_json(raw)
        return newest.id if newest else BEFORE_FIRST

    def announce(self, job_id: str, wake_key: str) -> Operation[GenerationResult | None]:
        """Have the job's end written to the wake stream, too. The result, if it has ended by now.

        To be called once the wake stream is read: no end falls between the two.
        """
        waiters, events = self.keys.waiters(job_id), self.keys.events(job_id)
        replies = (
            yield lambda r: (
                r.pipeline(transaction=False)
                .sadd(waiters, wake_key)
                .expire(waiters, _WAITERS_TTL_S)
                .xrevrange(events, count=1)
                .execute(raise_on_error=False)
            )
        )
        # A replica and an older ACL refuse the first two: then the end is found by looking, a little later.
        *_, entries = replies
        if isinstance(entries, redis.RedisError):
            raise entries
        newest = parse_entry(*entries[0]) if entries else None
        return _result_of(newest) if newest and newest.is_terminal else None

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
        newest, has_result = yield from self._newest(job_id)
        if has_result or (newest and newest.is_terminal):
            return "ended"
        fields, ttl_s = yield from self._read_job(job_id)
        if fields and state_of(fields) in {"finished", "failed"}:
            return "ended"
        if fields and state_of(fields) != "running":
            outcome = yield from self._cancel_waiting(job_id, fields)
            if outcome != "taken":
                return outcome
        # Durable, and not a message: the worker looks for it whenever it comes to the job.
        expire_s = max(ttl_s, int(self.settings.queue_ttl_s))
        yield lambda r: r.set(self.keys.cancel(job_id), "1", ex=expire_s)
        return "requested"

    def status(self, job_id: str) -> Operation[JobStatus]:
        """What is known of the job.  Raises NoSuchJob."""
        newest, has_result = yield from self._newest(job_id)
        fields, _ = yield from self._read_job(job_id)
        if not fields:
            return (yield from self._status_without_hash(job_id, newest))
        model = self.keys.model_of_queue(fields["origin"]) or "?"
        position = yield from self._position(job_id, model)
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
        sets = [WORKERS_BY_QUEUE_KEY % name for name in self.keys.queues(model)]
        worker_keys = sorted((yield lambda r: r.sunion(sets)))
        if not worker_keys:
            return ()

        def command(r: Any) -> Any:
            """WORKER_FIELDS of all workers in one round trip."""
            pipeline = r.pipeline(transaction=False)
            for key in worker_keys:
                pipeline.hmget(key, WORKER_FIELDS)
            return pipeline.execute()

        replies = yield command
        workers = (live_worker(key, reply) for key, reply in zip(worker_keys, replies, strict=True))
        return tuple(worker for worker in workers if worker)

    def _submit_arguments(self, batch: Batch) -> tuple[list[str], list[Any]]:
        keys = [Queue.redis_queues_keys, *(_QUEUE_PREFIX + name for name in self.keys.queues(batch.model))]
        args: list[Any] = [-1 if batch.max_queued is None else batch.max_queued, _PRIORITY_KEYS[batch.priority]]
        for submission in batch.submissions:
            keys += self._existence_keys(submission.job_id)
            args += _hash_arguments(submission)
        return keys, args

    def _existence_keys(self, job_id: str) -> tuple[str, str, str]:
        """A job is known while one of these is there."""
        return Job.key_for(job_id), self.keys.events(job_id), self.keys.result(job_id)

    def _newest(self, job_id: str) -> Operation[tuple[StreamedEvent | None, bool]]:
        """The last event so far, and whether there is a result.  Raises NoSuchJob."""
        hash_key, events, result = self._existence_keys(check_job_id(job_id))
        entries, has_result, has_hash = (
            yield lambda r: (
                r.pipeline(transaction=True)
                .xrevrange(events, count=1)
                .exists(result)
                .hexists(hash_key, "origin")
                .execute()
            )
        )
        if not (entries or has_result or has_hash):
            raise NoSuchJob(f"job {job_id} is not known: it was never submitted, or its result_ttl_s has passed")
        return (parse_entry(*entries[0]) if entries else None), bool(has_result)

    def _read_job(self, job_id: str) -> Operation[tuple[dict[str, str], int]]:
        """Fields of the RQ hash, none when it is gone or not ours; and its TTL in seconds, negative for none."""
        key = Job.key_for(job_id)
        values, ttl_s = yield lambda r: r.pipeline(transaction=False).hmget(key, JOB_FIELDS).ttl(key).execute()
        fields = job_fields(values)
        if fields and self.keys.model_of_queue(fields.get("origin", "")) is None:
            raise NoSuchJob(f"job {job_id} is a job of another RQ queue, {fields.get('origin')!r}, and not ours")
        return fields, ttl_s

    def _cancel_waiting(
        self, job_id: str, fields: dict[str, str]
    ) -> Operation[Literal["cancelled", "ended", "taken"]]:
        while True:
            entries = yield lambda r: r.xrange(self.keys.events(job_id))
            events = [parse_entry(*entry) for entry in entries]
            keys, args = self._cancel_arguments(job_id, fields, events)
            outcome = (yield _script(CANCEL_QUEUED, keys, args)).decode()
            # 'changed': a worker took the job, published and put it back, between the two commands.
            if outcome != "changed":
                return outcome  # type: ignore[no-any-return]

    def _cancel_arguments(
        self, job_id: str, fields: dict[str, str], events: list[StreamedEvent]
    ) -> tuple[list[str], list[Any]]:
        origin = fields["origin"]
        registries = (DeferredJobRegistry, ScheduledJobRegistry, CanceledJobRegistry)
        keys = [
            self.keys.result(job_id),
            self.keys.events(job_id),
            Job.key_for(job_id),
            _QUEUE_PREFIX + origin,
            *(registry.key_template.format(origin) for registry in registries),
        ]
        last = events[-1].id if events else None
        event_id = EventId(last.attempt + 1, last.seq + 1) if last else EventId(1, 0)
        result = assemble(
            job_id, self.keys.model_of_queue(origin) or "?", events, status="cancelled", finish_reason="cancelled"
        )
        data = data_json(terminal_event(result))
        mirror = mirror_json(str(event_id), "cancelled", data)
        result_ttl_s = _positive(fields.get("result_ttl")) or self.settings.result_ttl_s
        times = (time.time(), utcformat(now()))
        channel = self.keys.tokens(job_id)
        return keys, [job_id, str(last or ""), str(event_id), data, mirror, channel, result_ttl_s, *times]

    def _position(self, job_id: str, model: str) -> Operation[int | None]:
        """Jobs of the model that are served before it; None when it is in none of the queues."""
        names = [_QUEUE_PREFIX + name for name in self.keys.queues(model)]

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

    def _status_without_hash(self, job_id: str, newest: StreamedEvent | None) -> Operation[JobStatus]:
        """Status of a job whose RQ hash has gone before its events and result."""
        raw = yield lambda r: r.get(self.keys.result(job_id))
        if raw is None and newest is None:
            raise NoSuchJob(f"job {job_id} is not known any more: its result_ttl_s has passed")
        if raw is None:
            assert newest is not None
            return JobStatus(
                job_id=job_id,
                model=getattr(newest.event.data, "model", "?"),
                state=_terminal_state(newest) or "running",
                has_result=newest.is_terminal,
            )
        result = GenerationResult.model_validate_json(raw)
        return JobStatus(
            job_id=job_id, model=result.model, state=result.status, has_result=True, worker=result.worker
        )


def _script(script: str, keys: list[str], args: list[Any]) -> Command:
    return lambda r: r.eval(script, len(keys), *keys, *args)


def _hash_arguments(submission: Submission) -> list[Any]:
    flat = [part for pair in submission.fields.items() for part in pair]
    return [submission.job_id, submission.hash_ttl_s, len(flat), *flat]


def _result_of(event: StreamedEvent) -> GenerationResult:
    assert isinstance(event.event.data, GenerationResult)
    return event.event.data


def _terminal_state(newest: StreamedEvent | None) -> JobState | None:
    return newest.event.type if newest and newest.is_terminal else None  # type: ignore[return-value]


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
