"""The queue as a page shows it: workers, and jobs that wait, run and have ended. Values alone, and no texts."""

from collections.abc import Iterable, Iterator
from typing import Any

from ..overview_values import ModelOverview, Overview

WAITING_SHOWN = 200
"""Jobs of a model that are listed, of those that wait. The others are counted."""
_OF_WORKERS = ("name", "state", "model_state", "device", "context_length", "job_seconds")


def board_of(seen: Overview, owner: str | None) -> dict[str, Any]:
    """What is told of it.  owner: whose jobs are listed, those of others are counted; None: all are listed."""
    return {
        "suspended": seen.suspended,
        "models": [_model(each) for each in seen.models],
        "jobs": [job for each in seen.models for job in _jobs(each, owner)],
    }


def _model(model: ModelOverview) -> dict[str, Any]:
    return {
        "model": model.model,
        "queued": model.queued,
        "running": len(model.running),
        "paused": sum(each.progress is not None and each.progress.is_paused for each in model.running),
        "tokens_per_second": sum(_rates(model)),
        "finished": model.finished,
        "failed": model.failed,
        "cancelled": model.cancelled,
        "empty_in_s": model.empty_in_s,
        "workers": [{name: getattr(each, name) for name in _OF_WORKERS} for each in model.workers],
    }


def _rates(model: ModelOverview) -> Iterator[float]:
    """Of the jobs that go on now, tokens/s."""
    for job in model.running:
        if job.progress is not None and not job.progress.is_paused:
            yield job.progress.tokens_per_second or 0.0


def _jobs(model: ModelOverview, owner: str | None) -> Iterator[dict[str, Any]]:
    for each in _of(model.running, owner):
        progress = each.progress
        is_paused = progress is not None and progress.is_paused
        yield {
            **_job(model, each, "paused" if is_paused else "running", each.running_s),
            "worker": each.worker,
            "phase": progress.phase if progress else None,
            "tokens": progress.tokens if progress else None,
            "tokens_per_second": progress.tokens_per_second if progress and not is_paused else None,
        }
    for waiting in _of(model.waiting_jobs, owner):
        yield _job(model, waiting, "queued", waiting.waited_s)
    for ended in _of(model.ended, owner):
        progress = ended.progress
        is_whole = progress is not None and progress.phase == ended.state  # else it is that of a while before
        yield {
            **_job(model, ended, ended.state, ended.ended_s),
            "tokens": progress.tokens if progress and is_whole else None,
            "tokens_per_second": progress.tokens_per_second if progress and is_whole else None,
        }


def _of(jobs: Iterable[Any], owner: str | None) -> Iterator[Any]:
    return (each for each in jobs if owner is None or each.group == owner)


def _job(model: ModelOverview, job: Any, state: str, since_s: float | None) -> dict[str, Any]:
    return {
        "id": job.job_id,
        "model": model.model,
        "state": state,
        "priority": getattr(job, "priority", None),
        "since_s": since_s,
    }
