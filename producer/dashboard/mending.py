"""Names of rq-dashboard's module that are replaced: those through which it would unpickle, connect, or quote."""

from functools import lru_cache
from typing import Any

from flask import current_app
from redis import Redis
from rq.job import Job
from rq.registry import (
    BaseRegistry,
    DeferredJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.serializers import JSONSerializer
from rq_dashboard import web
from werkzeug.exceptions import NotFound

from ..broker import urls
from ..contract import FUNCTION
from .rq_classes import CancelledRegistry, FailedRegistry, JsonQueue, JsonWorker, ShownJob

SHOW_PROMPTS = "GENQUEUE_SHOW_PROMPTS"
"""In Flask's config."""
REGISTRIES: dict[str, type[BaseRegistry]] = {
    "scheduled": ScheduledJobRegistry,
    "deferred": DeferredJobRegistry,
    "started": StartedJobRegistry,
    "finished": FinishedJobRegistry,
    "failed": FailedRegistry,
    "canceled": CancelledRegistry,
}
"""By their names in the pages' addresses. `queued` is the queue itself."""
_IN_OUR_WORDS = {"stopped": "cancelled", "canceled": "cancelled"}


def mend() -> None:
    """Replace them. Harmless to repeat."""
    web.config.serializer = JSONSerializer  # its own switch, which reaches half of the places
    web.Job = ShownJob
    web.Queue = JsonQueue
    web.Worker = JsonWorker
    web.FailedJobRegistry = FailedRegistry
    web.CanceledJobRegistry = CancelledRegistry
    web.requeue_job = _requeue
    web.from_url = _from_url
    web.format_job_description = description_of
    web.serialize_current_job = _current_job
    web.get_queue_registry_jobs_count = _jobs_of


@lru_cache
def client(url: str) -> Redis:
    """One client for each server, with our bounds and schemes."""
    return urls.client(url)


def _from_url(url: str, **_: Any) -> tuple[None, Redis]:
    """rq-dashboard's own makes a pool for every request, and leaves out TLS and user names behind Sentinels."""
    return None, client(url)


def _requeue(job_id: str, connection: Redis) -> Job:
    return ShownJob.fetch(job_id, connection).requeue()


def description_of(job: Job) -> str:
    """What the job is called. RQ's own call string, where a script gives no description, quotes the prompt."""
    text = job.description or job.id
    quotes = text.startswith(f"{FUNCTION}(") and not current_app.config[SHOW_PROMPTS]
    return f"{FUNCTION}(…)" if quotes else text


def status_of(job: Job) -> str:
    """RQ's word for where the job stands, or ours: it has two for cancelled, and spells one otherwise."""
    status = str(getattr(job.get_status(refresh=False), "value", "unknown"))
    return _IN_OUR_WORDS.get(status, status)


def _current_job(job: Job | None) -> dict[str, Any] | str:
    """rq-dashboard's, with the description in place of the call string, which has the arguments."""
    if job is None:
        return "idle"
    description = description_of(job)
    created_at = web.serialize_date(job.created_at)
    return {"job_id": job.id, "description": description, "created_at": created_at, "call_string": description}


def _jobs_of(  # noqa: PLR0917 - the signature is rq-dashboard's
    queue_name: str, registry_name: str, offset: int, per_page: int, order: str, connection: Redis
) -> tuple[int, list[dict[str, Any]]]:
    """How many jobs are in that registry, and those of one page.

    rq-dashboard's own shows the more of them the further the page, and does not say how each has ended.
    """
    if registry_name not in {"queued", *REGISTRIES} or offset < 0 or per_page < 1:
        raise NotFound("There is no such list of jobs.")
    queue = JsonQueue(queue_name, connection=connection)
    registry = REGISTRIES[registry_name](queue_name, connection=connection) if registry_name != "queued" else None
    total = queue.count if registry is None else registry.get_job_count(cleanup=False)
    length = max(0, min(per_page, total - offset))
    start = offset if order == "asc" else total - offset - length
    if registry is None:
        job_ids = queue.get_job_ids(start, length)
    else:
        job_ids = registry.get_job_ids(start, start + length - 1, cleanup=False) if length else []
    jobs = [job for job in map(queue.fetch_job, job_ids if order == "asc" else job_ids[::-1]) if job]
    return total, [_listed(job) for job in jobs]


def _listed(job: Job) -> dict[str, Any]:
    listed = {**web.serialize_job(job), "status": status_of(job)}
    if listed["status"] != "failed":
        listed["exc_info"] = None
    if listed["ended_at"] is None:
        del listed["ended_at"]  # the page's script takes a null for now
    return listed
