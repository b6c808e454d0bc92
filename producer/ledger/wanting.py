"""A job that ends where nobody waits for it: the lease, in fields of its hash in RQ's records.

Whoever submits such a job gives its hash the fields of `leased`, and says every so often that it is wanted. The
worker's append looks: once nobody has said so for that long, it gives as much time again, since while Redis was
away nobody could, and then answers as to a request to cancel. So the job ends also where whoever waited is killed.
"""

from collections.abc import Sequence
from typing import Any

from . import rq_names
from .step import Step, nothing


def leased(lease_s: float) -> dict[str, int]:
    """Fields for the hash of a job that ends between once and twice `lease_s` after it was last wanted."""
    return {"lease_ms": round(1000 * lease_s)}


def want(job_ids: Sequence[str]) -> Step[None]:
    """Say that somebody waits for those jobs. Of one without a lease, and of one that is gone, nothing changes."""
    return Step("want", list(map(rq_names.job, job_ids)), [], nothing)


def ask_unwanted(client: Any, job_id: str) -> Any:
    """Until when it is wanted, and Redis' clock: in one round trip, for `is_unwanted`."""
    pipeline = client.pipeline(transaction=False)
    return pipeline.hget(rq_names.job(job_id), "wanted_until_ms").time().execute()


def is_unwanted(reply: Sequence[Any]) -> bool:
    """Whether nobody waits for the job any more. Of one of which nobody ever has, that is not known."""
    until_ms, (seconds, micros) = reply
    return until_ms is not None and until_ms.isdigit() and int(until_ms) <= seconds * 1000 + micros // 1000


def note(job_id: str, field: str, value: str) -> Step[bool]:
    """Write a field of the hash of a job.  Returns whether it is there: it is not made."""
    return Step("note_call", [rq_names.job(job_id)], [field, value], bool)
