"""Names of RQ's keys, as far as a job's life touches them. A test holds them against RQ's own."""

PREFIX = "rq:"
QUEUES = "rq:queues"
WORKERS = "rq:workers"
SUSPENDED = "rq:suspended"
JOB_PREFIX = "rq:job:"
RATE_LIMITS = "rq:rl-keys"
RATE_LIMIT_PREFIX = "rq:rl:"

JOB_FIELDS = (
    "created_at",
    "data",
    "description",
    "origin",
    "status",
    "worker_name",
    "enqueued_at",
    "started_at",
    "ended_at",
    "last_heartbeat",
    "timeout",
    "result_ttl",
    "failure_ttl",
    "ttl",
    "meta",
    "success_callback_name",
    "success_callback_timeout",
    "failure_callback_name",
    "failure_callback_timeout",
    "stopped_callback_name",
    "stopped_callback_timeout",
    "webhooks",
    "group_id",
    "dependency_id",
    "dependency_ids",
    "allow_dependency_failures",
    "enqueue_at_front",
    "enqueue_at_front_on_retry",
    "number_of_retries",
    "retries_left",
    "retry_intervals",
    "repeats_left",
    "repeat_intervals",
    "rate_limit_key",
    "rate_limit_concurrency",
)
"""Of a job's hash, all that RQ reads but `result` and `exc_info`, which are of an earlier life: RQ unpacks the
latter whatever its size."""

OWN_FIELDS = ("deaths", "queued_at_ms", "expires_at_ms", "request_digest")
"""That we keep beside RQ's. `taken_by`, `lost_by` and `swept_from` are the scripts' own."""


def job(job_id: str) -> str:
    """Hash of a job."""
    return f"{JOB_PREFIX}{job_id}"


def queue(name: str) -> str:
    """List of the jobs that wait."""
    return f"rq:queue:{name}"


def results(job_id: str) -> str:
    """Stream of a job's return values."""
    return f"rq:results:{job_id}"


def run(job_id: str, run_id: str) -> str:
    """Hash of one run of a job."""
    return f"rq:execution:{job_id}:{run_id}"


def runs(job_id: str) -> str:
    """Sorted set of the runs of a job."""
    return f"rq:executions:{job_id}"


def dependents(job_id: str) -> str:
    """Set of the jobs that wait for a job."""
    return f"{job(job_id)}:dependents"


def dependencies(job_id: str) -> str:
    """Set of the jobs that a job waits for."""
    return f"{job(job_id)}:dependencies"


def worker_runs(name: str) -> str:
    """Set of the runs that a worker has."""
    return f"rq:worker:{name}:executions"


def worker(name: str) -> str:
    """Hash of a worker."""
    return f"rq:worker:{name}"


def commands(name: str) -> str:
    """Channel on which a worker hears RQ's commands."""
    return f"rq:pubsub:{name}"


def workers(queue_name: str) -> str:
    """Set of the workers of a queue, by the keys of their hashes."""
    return f"rq:workers:{queue_name}"


def registry(state: str, queue_name: str) -> str:
    """Sorted set of the jobs of a queue in that state: deferred, scheduled, wip, finished, failed, canceled."""
    return f"rq:{state}:{queue_name}"
