"""What RQ hears of a run that begins here, and of one that is given up before the job's end.

A run is one try of a job by one worker; RQ's word for it is an execution. Each of these steps is a script of the
ledger, or a transaction with one in it: a job that another worker has by then is left as it is.
"""

from uuid import uuid4

from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.utils import now, utcformat
from rq.worker.base import WorkerStatus

from producer.ledger import rq_names
from producer.ledger.take import Run, begin, come_back, put_back

from ..settings import WorkerSettings
from .holding import HoldingWorker


class RunningWorker(HoldingWorker):
    """The part of an RQ worker that registers the starts of its jobs, and puts back those that it does not end."""

    settings: WorkerSettings
    _origins: dict[str, str]
    """The queues that the jobs in hand came from: a job's hash may go before it is put down."""

    def queue_of(self, job: Job) -> Queue:
        """The queue that the job came from."""
        return self.queue_class(job.origin, connection=self.connection, serializer=self.serializer)

    def begin(self, job: Job, request_digest: str) -> Execution:
        """Register the job as started. If it is not ours any more, nothing is written.

        request_digest: tells this life of the job's id from one with another request.
        """
        self._drop_executions(job)  # of a try that Redis took, and whose answer was lost
        execution = Execution(uuid4().hex, job.id, self.connection, worker_name=self.name)
        run = self._run_of(job, execution, request_digest)
        self.executions[execution.id] = execution  # before it is sent: its answer may be lost
        if not begin(self.keys, self.name, job.id, self.queue_of(job).name, run).run(self.connection):
            del self.executions[execution.id]
            return Execution("superseded", job.id, self.connection, worker_name=self.name)
        self._state = WorkerStatus.BUSY
        return execution

    def _run_of(self, job: Job, execution: Execution, request_digest: str) -> Run:
        """What RQ does in `prepare_execution` and `Job.prepare_for_execution`."""
        job.worker_name = self.name
        job.last_heartbeat = job.started_at = now()
        job._status = JobStatus.STARTED  # noqa: SLF001 - as RQ's own workers set it
        keep_s = self.settings.keep_held_s
        started_at = utcformat(job.started_at)
        fields = {"last_heartbeat": started_at, "started_at": started_at, "request_digest": request_digest}
        return Run(
            execution.id,
            execution.serialize(),
            {**fields, "status": JobStatus.STARTED.value, "worker_name": self.name},
            keep_s,
            job.started_at.timestamp() + keep_s,
        )

    def running_executions(self) -> list[Execution]:
        """Of the jobs in hand, the last one begun at the end. In one go: another thread may register an end."""
        return list(self.executions.values())

    def _executions_of(self, job_id: str) -> list[Execution]:
        return [execution for execution in self.running_executions() if execution.job_id == job_id]

    def _drop_executions(self, job: Job) -> None:
        for execution in self._executions_of(job.id):
            with self.connection.pipeline() as pipeline:
                execution.delete(job=job, pipeline=pipeline)
                pipeline.execute(raise_on_error=False)
            self.executions.pop(execution.id, None)  # not before: Redis may not have heard of it

    def put_back(self, job: Job, execution: Execution) -> None:
        """Put a job that has not ended at the front of its queue, in one step."""
        self._put_at_front(job, execution, engine_died=False)

    def put_back_after_death(self, job: Job, execution: Execution) -> None:
        """Put a job over which the engine died at the front of its queue; the death counts, in the same step."""
        self._put_at_front(job, execution, engine_died=True)

    def _put_at_front(self, job: Job, execution: Execution, *, engine_died: bool) -> None:
        step = put_back(self.keys, self.name, job.id, self.queue_of(job).name, engine_died=engine_died)
        with self.connection.pipeline() as pipeline:
            super().cleanup_execution(job, pipeline=pipeline, execution=execution)
            step.send(pipeline)
            was_ours = step.read(pipeline.execute()[-1])
        if not was_ours:
            self.forget(execution)

    def forget_runs(self, job_id: str) -> None:
        """The job is given up: whatever run of it was begun here is none."""
        for execution in self._executions_of(job_id):
            self.forget(execution)

    def forget(self, execution: Execution) -> None:
        """Another worker has the job: drop our own record of it, and touch nothing that may be the other's.

        If we were taken for dead, no death is counted: we live.
        """
        come_back(self.name, execution.job_id).run(self.connection)
        self.executions.pop(execution.id, None)
        origins = {*self.queue_names(), self._origins.get(execution.job_id) or self.queue_names()[0]}
        with self.connection.pipeline() as pipeline:
            pipeline.delete(execution.key)
            pipeline.srem(self.executions_key, execution.composite_key)
            for origin in origins:
                pipeline.zrem(rq_names.registry("wip", origin), execution.composite_key)
            pipeline.execute()
