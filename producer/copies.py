"""`submit(n=…)`: one prompt, several answers. Each is a job of its own, with a seed of its own."""

from typing import Any

from .contract import GenerationRequest, InvalidRequest
from .contract.requests import MAX_SEED, of_python

MAX_COPIES = 1_000


def count_of(n: Any) -> int | None:
    """How many jobs are asked for; None: one, and no list.  Raises InvalidRequest."""
    n = of_python(n)
    if n is None or (type(n) is int and 1 <= n <= MAX_COPIES):
        return n
    raise InvalidRequest(f"n: it takes the number of answers, from 1 to {MAX_COPIES:,}")


def copies(request: GenerationRequest, n: int | None) -> list[GenerationRequest]:
    """Of one request. A seed is the first job's, and each has one more; without one each draws its own."""
    if n is None or request.seed is None:
        return [request] * (n or 1)
    seeds = [(request.seed + place) % (MAX_SEED + 1) for place in range(n)]
    return [request.model_copy(update={"seed": seed}) for seed in seeds]


def ids_of_copies(job_id: str | None, n: int | None) -> list[str] | None:
    """Of the jobs, from the id that was given for all: JOB-0, JOB-1 and so on."""
    if job_id is None:
        return None
    return [job_id] if n is None else [f"{job_id}-{place}" for place in range(n)]
