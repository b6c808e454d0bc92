"""What RQ hears of an end: status, registries and return value, as its own tools read them."""

from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.results import Result
from rq.utils import now, utcformat

from ..contract import GenerationResult

KEPT_S = 3_600
"""Of a job that does not say how long; a real worker's default."""
MIN_KEPT_S = 60

_IN_RQ = {
    "finished": (JobStatus.FINISHED, Result.Type.SUCCESSFUL),
    "failed": (JobStatus.FAILED, Result.Type.FAILED),
    "cancelled": (JobStatus.STOPPED, Result.Type.STOPPED),
}


def kept_s(job: Job) -> int:
    """How long events and result of the job stay after its end."""
    return max(MIN_KEPT_S, int(job.get_result_ttl(KEPT_S)))


def tell_rq(job: Job, execution: Execution | None, result: GenerationResult) -> None:
    """Register the end. Jobs that depend on this one are enqueued."""
    status, kind = _IN_RQ[result.status]
    is_finished = result.status == "finished"
    with job.connection.pipeline() as pipeline:
        if execution is not None:
            execution.delete(job=job, pipeline=pipeline)
        pipeline.hset(job.key, mapping={"status": status.value, "ended_at": utcformat(now()), "expires_at_ms": ""})
        pipeline.hdel(job.key, "deaths", "lost_by", "queued_at_ms")
        pipeline.expire(job.key, kept_s(job))
        Result.create(
            job,
            kind,
            kept_s(job),
            return_value=result.model_dump(mode="json") if is_finished else None,
            exc_string=None if is_finished else _why(result),
            worker_name=result.worker or "",
            pipeline=pipeline,
        )
        registry = job.finished_job_registry if is_finished else job.failed_job_registry
        registry.add(job, kept_s(job), pipeline)
        pipeline.execute()
    if is_finished:
        Queue(job.origin, connection=job.connection, serializer=job.serializer).enqueue_dependents(job)


def _why(result: GenerationResult) -> str:
    return f"{result.error.code}: {result.error.message}" if result.error else result.status
