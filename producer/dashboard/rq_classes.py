"""RQ's classes as the pages show them: read as JSON, of one prefix, what was cancelled apart from what failed."""

from typing import Any, cast

from flask import current_app
from redis import Redis
from rq import Queue, Worker
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.registry import CanceledJobRegistry, FailedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker

from ..contract import Keys
from ..ledger.rq_names import JOB_PREFIX

KEYS = "GENQUEUE_KEYS"
"""In Flask's config: the names of the prefix that is shown; None shows all."""
ENDS = "genqueue-ends"
"""In Flask's extensions: what is known of the entries of RQ's registries of failures."""


def is_ours(queue_name: str) -> bool:
    """Whether it is a queue that this dashboard shows."""
    keys: Keys | None = current_app.config[KEYS]
    return keys is None or keys.model_of_queue(queue_name) is not None


class JsonJob(Job):
    """A job as the pages show it: read as JSON, and never by its arguments."""

    def __init__(self, id: str | None = None, connection: Redis | None = None, *_: Any, **__: Any) -> None:  # noqa: A002
        # Every way to a job ends here, whatever serializer it was sent with.
        try:
            super().__init__(id, connection, serializer=JSONSerializer)
        except ValueError as error:  # RQ's word for an id that no job can have
            raise NoSuchJobError(str(error)) from error

    def restore(self, raw_data: Any) -> Any:
        """RQ's. A hash that RQ cannot read, which anybody can write, is shown as a bare job and hides no other."""
        try:
            return super().restore(raw_data)
        except Exception:  # noqa: BLE001
            return super().restore({b"data": b""})

    @property
    def dependency_ids(self) -> list[bytes]:  # type: ignore[override]
        """As bytes: rq-dashboard decodes them, as RQ 1 wanted it."""
        return [job_id.encode() for job_id in super().dependency_ids]

    def latest_result(self, timeout: int = 0) -> Result | None:
        """RQ's. Another application's job is listed, without its pickled value."""
        try:
            return super().latest_result(timeout)
        except ValueError:
            return None

    def get_meta(self, refresh: bool = True) -> dict[str, Any]:
        """RQ's; empty where it is not JSON."""
        try:
            return super().get_meta(refresh)
        except ValueError:
            return {}


class ShownJob(JsonJob):
    """A job that is asked for by its id. RQ's queues must not use it: they drop the jobs that they do not find."""

    @classmethod
    def fetch(cls, *args: Any, **options: Any) -> "ShownJob":
        """RQ's.  Raises NoSuchJobError for a job of another prefix."""
        job = super().fetch(*args, **options)
        if not is_ours(job.origin):
            raise NoSuchJobError("a job of another prefix")
        return job  # type: ignore[return-value]


class JsonQueue(Queue):
    """A queue whose jobs are read as JSON."""

    job_class = JsonJob

    @classmethod
    def all(cls, *args: Any, **options: Any) -> list[Queue]:
        """RQ's, without those of other prefixes."""
        return [queue for queue in super().all(*args, **options) if is_ours(queue.name)]

    def compact(self) -> None:
        """Take out ids of jobs that are gone. Each of the others stays where it is.

        RQ's takes the whole queue away and puts the jobs back one by one: where it is cut off the rest is lost.
        """
        entries = cast("list[bytes]", self.connection.lrange(self.key, 0, -1))
        with self.connection.pipeline(transaction=False) as pipeline:
            for entry in entries:
                pipeline.exists(JOB_PREFIX.encode() + entry)
            are_there = pipeline.execute()
        for entry, is_there in zip(entries, are_there, strict=True):
            if not is_there:
                self.connection.lrem(self.key, 1, entry)  # type: ignore[arg-type]  # bytes as they stand there

    @property
    def failed_job_registry(self) -> FailedJobRegistry:
        """RQ's, without what was cancelled: rq-dashboard's "Requeue All" is about this one."""
        return FailedRegistry(self.name, connection=self.connection)


class JsonWorker(Worker):
    """A worker whose current job is read as JSON."""

    job_class = JsonJob

    @classmethod
    def all(cls, *args: Any, **options: Any) -> list[BaseWorker]:
        """RQ's, without those of other prefixes."""
        return [worker for worker in super().all(*args, **options) if any(map(is_ours, worker.queue_names()))]

    def get_current_job(self) -> Job | None:
        """RQ's. A job that was deleted under its worker is no reason to list no worker at all."""
        try:
            return super().get_current_job()
        except NoSuchJobError:
            return None


class FailedRegistry(FailedJobRegistry):
    """RQ's, without the jobs that were cancelled while they ran: RQ calls them stopped, and keeps them here."""

    def get_job_ids(self, start: int = 0, end: int = -1, desc: bool = False, cleanup: bool = True) -> list[str]:  # noqa: ARG002
        """RQ's; nothing is cleaned up."""
        return _part(_ids(self, are_stopped=False), start, end, desc=desc)

    def get_job_count(self, cleanup: bool = True) -> int:  # noqa: ARG002
        """RQ's; nothing is cleaned up."""
        return len(_ids(self, are_stopped=False))


class CancelledRegistry(CanceledJobRegistry):
    """RQ's, which has the jobs that were cancelled before they ran, and behind them those that ran."""

    def get_job_ids(self, start: int = 0, end: int = -1, desc: bool = False, cleanup: bool = True) -> list[str]:  # noqa: ARG002
        """RQ's; nothing is cleaned up."""
        ids = [*super().get_job_ids(cleanup=False), *_ids(self._failed, are_stopped=True)]
        return _part(ids, start, end, desc=desc)

    def get_job_count(self, cleanup: bool = True) -> int:  # noqa: ARG002
        """RQ's; nothing is cleaned up."""
        return super().get_job_count(cleanup=False) + len(_ids(self._failed, are_stopped=True))

    @property
    def _failed(self) -> FailedJobRegistry:
        return FailedJobRegistry(self.name, connection=self.connection)


def _part(ids: list[str], start: int, end: int, *, desc: bool) -> list[str]:
    """As ZRANGE counts, with the end in it."""
    if desc:
        ids.reverse()
    return ids[start:] if end == -1 else ids[start : end + 1]


def _ids(failed: FailedJobRegistry, *, are_stopped: bool) -> list[str]:
    """Of RQ's registry of failures, what was stopped or what was not.

    What is known of an entry stays known, for as long as it is there: it has ended, and another life of the job
    would have another score. An open page asks every 2.5 s, and must not read every job each time.
    """
    ends: dict[str, dict[tuple[bytes, float], bool]] = current_app.extensions.setdefault(ENDS, {})
    found = failed.connection.zrange(failed.key, 0, -1, withscores=True)
    entries = cast("list[tuple[bytes, float]]", found)  # so is a client that decodes nothing, as RQ wants it
    known = ends.get(failed.key, {})
    new = [entry for entry in entries if entry not in known]
    with failed.connection.pipeline(transaction=False) as pipeline:
        for job_id, _ in new:
            pipeline.hget(Job.key_for(job_id.decode()), "status")
        statuses = pipeline.execute(raise_on_error=False)  # something else may stand in place of a job
    known = known | {entry: status == b"stopped" for entry, status in zip(new, statuses, strict=True)}
    ends[failed.key] = {entry: known[entry] for entry in entries}
    return [job_id.decode() for (job_id, _), is_stopped in ends[failed.key].items() if is_stopped == are_stopped]
