"""What a producer does, step by step, without doing any I/O: the one body of logic behind both clients.

An operation is a generator. It yields commands, each a callable that takes a redis client, and is sent their
replies. A shell runs it: `Producer` calls the commands, `AsyncProducer` calls and awaits them.
"""

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import redis

from .contract import (
    JobConflict,
    Keys,
    NoSuchJob,
    QueueFull,
    StreamedEvent,
    UnknownEvent,
)
from .contract.assemble import assemble
from .contract.compatibility import check_understood
from .contract.keys import PRIORITIES, check_job_id
from .eta import start_in_s
from .following import event_in
from .job_status import (
    JOB_FIELDS,
    JobStatus,
    WorkerInfo,
    job_fields,
    paces_of,
    progress_of,
    state_of,
    times_of,
    worker_info,
)
from .ledger import rq_names, rq_times
from .ledger.cancel import CancelAnswer, cancel
from .ledger.groups import ahead
from .ledger.roster import WorkerRecord, live_workers, read_records, worker_sets
from .ledger.step import Step
from .ledger.submit import Conflict, Full, submit
from .places import HELD_BY_RQ, HOLDERS, Place, Standing, ask_places, ask_standing, read_place, read_standing
from .replies import UNKNOWN_MODEL, model_of, positive_or_none, stored_result, terminal_state
from .settings import ProducerSettings
from .submission import Batch

T = TypeVar("T")
Command = Callable[[Any], Any]
"""Takes a redis client, sync or async; returns its reply, or an awaitable of it."""
Operation = Generator[Command, Any, T]

ROSTERS_KEPT = 1_000
"""Models, of which those with workers are a few."""

CancelOutcome = Literal["cancelled", "requested", "ended"]


class Operations:
    """Every operation, over the names and the bounds of one producer.

    keys      names of the streams, results and cancel requests, under the producer's prefix
    settings  how long a request to cancel is kept, and a result where the job's hash does not say: queue_ttl_s and
              result_ttl_s; its other bounds belong to the shells and to `submission`
    """

    def __init__(self, keys: Keys, settings: ProducerSettings) -> None:
        self.keys = keys
        self.settings = settings
        self._rosters: dict[str, tuple[tuple[WorkerInfo, ...], float]] = {}
        """The workers of each model, as last read, and when."""

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
            group=batch.group,
        )
        match step.read((yield step.send)):
            case Full(queued):
                of = "" if batch.group is None else f" of group {batch.group!r}"
                raise QueueFull(
                    f"{queued} jobs{of} wait for {batch.model} and max_queued is {batch.max_queued}; nothing was "
                    "enqueued: submit again later"
                )
            case Conflict(job_id):
                raise JobConflict(
                    f"job id {job_id} is that of another request, model or prefix; nothing was enqueued: choose "
                    "another id, or wait until that job has ended and its result_ttl_s is over",
                    job_id=job_id,
                )
            case created:
                # A command is sent again when its reply got lost, and then finds the job that it made itself.
                pairs = zip(batch.submissions, created, strict=True)
                return [submission.id_is_ours or is_new for submission, is_new in pairs]

    def cancel(self, job_id: str) -> Operation[CancelOutcome]:
        """End a job that waits; ask the worker to end one that runs. Harmless to repeat.  Raises NoSuchJob."""
        newest = (yield from self.standing(job_id)).newest
        if newest and newest.is_terminal:
            return "ended"
        fields, ttl_s = yield from self._read_job(job_id)
        while True:
            entries = yield lambda r: r.xrange(self.keys.events(job_id))
            events = [event_in(entry_id, event_fields, job_id) for entry_id, event_fields in entries]
            step = cancel_step(self.keys, self.settings, job_id, fields, ttl_s=ttl_s, events=events)
            outcome = step.read((yield step.send))
            # 'changed': its worker has published since we read.
            if outcome != "changed":
                return outcome

    def status(self, job_id: str) -> Operation[JobStatus]:
        """What is known of the job.  Raises NoSuchJob."""
        return (yield from self.look(job_id))[0]

    def look(
        self, job_id: str, *, roster_age_s: float = 0.0, line_end: int | None = None
    ) -> Operation[tuple[JobStatus, Standing]]:
        """What is known of the job, and by what.  Raises NoSuchJob.

        Many waits look at the same time, and each look of all must not search a queue of them all:
        roster_age_s: how old the list of workers may be.
        line_end: so many places at the end of a queue are searched. In a longer one it is believed to be.
        """
        standing = yield from self.standing(job_id)
        fields, _ = yield from self._read_job(job_id)
        if not fields:
            return (yield from self._status_without_hash(job_id, standing.newest)), standing
        model = self.keys.model_of_queue(fields["origin"]) or UNKNOWN_MODEL
        group = self.keys.group_of_queue(fields["origin"])
        standing, place = yield from self._place(job_id, self.keys.queues(model, group), fields, line_end)
        position = place.position
        if position is not None and line_end is None:
            position = yield from self._position(model, group, place)
        workers = yield from self.workers_lately(model, roster_age_s)
        runner = fields.get("worker_name") or None
        status = JobStatus(
            job_id=job_id,
            model=model,
            state=terminal_state(standing.newest) or place.believed(state_of(fields), standing),
            has_result=standing.has_result,
            is_held=(
                place.is_held
                or (place.may_be_ahead and state_of(fields) == "queued" and not fields.get("taken_by"))
                or fields.get("status") in HELD_BY_RQ
                # Its list may be lost where it goes on all the same: its events come through by RQ's record alone.
                or (state_of(fields) == "running" and runner in {worker.name for worker in workers})
            ),
            queue=fields["origin"],
            group=group,
            position=position,
            eta_s=None if position is None else start_in_s(position, paces_of(workers)),
            worker=runner,
            workers=workers,
            progress=progress_of(fields),
            **times_of(fields),
        )
        return status, standing

    def workers(self, model: str) -> Operation[tuple[WorkerInfo, ...]]:
        """The live workers that serve the model."""
        records = yield from self._records(model)
        return tuple(map(worker_info, records))

    def workers_lately(
        self, model: str, age_s: float, *, none_is_kept: bool = False
    ) -> Operation[tuple[WorkerInfo, ...]]:
        """As `workers`, or as they were up to so many seconds ago.

        none_is_kept: also where nobody was there; it is asked each time for those who give up because of it.
        """
        known, read_at = self._rosters.get(model, ((), -math.inf))
        if (known or none_is_kept) and time.monotonic() - read_at < age_s:
            return known
        read_at = time.monotonic()
        workers = yield from self.workers(model)
        if len(self._rosters) >= ROSTERS_KEPT:  # whoever asks for names of models may ask for any
            self._rosters.clear()
        self._rosters[model] = workers, read_at
        return workers

    def _records(self, model: str) -> Operation[tuple[WorkerRecord, ...]]:
        worker_keys = sorted((yield lambda r: r.sunion(worker_sets(self.keys, model))))
        if not worker_keys:
            return ()
        return live_workers(worker_keys, (yield read_records(worker_keys)))

    def _existence_keys(self, job_id: str) -> tuple[str, str, str]:
        """A job is known while one of these is there."""
        return rq_names.job(job_id), self.keys.events(job_id), self.keys.result(job_id)

    def standing(self, job_id: str) -> Operation[Standing]:
        """How the job stands, in one round trip.  Raises NoSuchJob."""
        names = self._existence_keys(check_job_id(job_id))
        reply = yield lambda r: ask_standing(r.pipeline(transaction=True), names).execute()
        standing = read_standing(job_id, reply)
        if standing.newest is None and not standing.has_result:
            if "origin" not in standing.fields:
                raise NoSuchJob(
                    f"job {job_id} is not known: it was never submitted, its result_ttl_s has passed, or Redis "
                    "has evicted it for memory",
                    job_id=job_id,
                )
            self.check_ours(job_id, standing.fields["origin"])
        return standing

    def _place(
        self, job_id: str, queue_names: Sequence[str], fields: Mapping[str, str], line_end: int | None
    ) -> Operation[tuple[Standing, Place]]:
        """How it stands and where it is, asked at one moment: it must not move, nor end, between two questions.

        fields: of its hash, as read before. Where another worker has taken it since, it is asked once more.
        """
        queues = [rq_names.queue(name) for name in queue_names]
        while True:
            holders = [name for name in map(fields.get, HOLDERS) if name]
            lists = [self.keys.taken(name) for name in holders]
            command = partial(ask_places, self._existence_keys(job_id), queues, lists, job_id, line_end=line_end)
            reply = yield command
            standing = read_standing(job_id, reply[:3])
            asked, fields = fields, standing.fields
            if all(asked.get(name) == fields.get(name) for name in HOLDERS):
                return standing, read_place(reply[3:], len(queues), line_end)

    def _position(self, model: str, group: str | None, place: Place) -> Operation[int | None]:
        """Of a job in a queue, among all that wait for the model.

        A user of Redis whose rules are of before there were groups is told of its own queues alone.
        """
        step = ahead(self.keys, model, PRIORITIES[place.line], group, place.place)
        try:
            return place.place + step.read((yield step.send))
        except redis.exceptions.NoPermissionError:
            return place.position

    def _read_job(self, job_id: str) -> Operation[tuple[dict[str, str], int]]:
        """Fields of the RQ hash, none when it is gone or not ours; and its TTL in seconds, negative for none."""
        key = rq_names.job(job_id)
        values, ttl_s = yield lambda r: r.pipeline(transaction=False).hmget(key, JOB_FIELDS).ttl(key).execute()
        fields = job_fields(values)
        if "origin" not in fields:  # what a worker wrote to after it was gone is no job any more
            return {}, ttl_s
        self.check_ours(job_id, fields["origin"])
        return fields, ttl_s

    def check_ours(self, job_id: str, origin: str) -> None:
        """Raises NoSuchJob for a job of RQ alone, or of another prefix: nobody would end it here."""
        if self.keys.model_of_queue(origin) is None:
            raise NoSuchJob(
                f"job {job_id} is a job of another RQ queue, {origin!r:.80}, and not ours",
                job_id=job_id,
                hint="give the prefix that it was submitted with",
            )

    def _status_without_hash(
        self, job_id: str, newest: StreamedEvent | UnknownEvent | None
    ) -> Operation[JobStatus]:
        """Status of a job whose RQ hash has gone before its events and result."""
        raw = yield lambda r: r.get(self.keys.result(job_id))
        if raw is None and newest is None:
            raise NoSuchJob(f"job {job_id} is not known any more: its result_ttl_s has passed", job_id=job_id)
        if raw is None:
            assert newest is not None
            return JobStatus(
                job_id=job_id,
                model=model_of([newest]),
                state=terminal_state(newest) or "running",
                has_result=newest.is_terminal,
            )
        result = stored_result(job_id, raw)
        return JobStatus(
            job_id=job_id, model=result.model, state=result.status, has_result=True, worker=result.worker
        )


def cancel_step(
    keys: Keys,
    settings: ProducerSettings,
    job_id: str,
    fields: dict[str, str],
    *,
    ttl_s: int,
    events: Sequence[StreamedEvent | UnknownEvent],
) -> Step[CancelAnswer]:
    """The step that cancels a job.

    fields, ttl_s: of its RQ hash, as read before.  events: its events so far, as read after.
    """
    model = keys.model_of_queue(fields.get("origin", "")) or model_of(events)
    return cancel(
        keys,
        job_id,
        model,
        events[-1].id if events else None,
        assemble(job_id, model, events, status="cancelled", finish_reason="cancelled"),
        result_ttl_s=positive_or_none(fields.get("result_ttl")) or settings.result_ttl_s,
        request_ttl_s=max(ttl_s, math.ceil(settings.queue_ttl_s)),
        now=rq_times.now(),
    )
