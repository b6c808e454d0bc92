"""The page of one job: how it stands, its answer as text, and its prompt where that is asked for.

What is here comes from elsewhere, and the template escapes it. Numbers are text by then, and none is rounded.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Response, current_app, make_response, render_template
from pydantic import ValidationError
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.utils import as_text

from ..contract import GenerationResult, Timings
from .mending import SHOW_PROMPTS, description_of, status_of
from .rq_classes import ShownJob

ENDED = frozenset({"finished", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class JobView:
    """What the template shows of a job."""

    job_id: str
    description: str
    status: str
    queue: str
    has_ended: bool
    times: list[tuple[str, datetime]]
    facts: list[tuple[str, str]]
    prompt: list[tuple[str, str]] | None
    """Roles, or "prompt", and texts; None where prompts are not shown."""
    answer: str | None
    token_ids: tuple[int, ...]
    raw_result: str | None
    """As JSON."""
    error: str | None
    meta: str | None
    """As JSON; None where the facts have all of it."""
    depends_on: list[tuple[str, bool]]
    """Ids, and whether the job is still there."""


def job_page(instance_number: int, job_id: str) -> Response:
    """In place of rq-dashboard's.  Raises NoSuchJobError."""
    job = ShownJob.fetch(job_id, connection=current_app.redis_conn)  # type: ignore[attr-defined]
    view = view_of(job, show_prompt=current_app.config[SHOW_PROMPTS])
    response = make_response(
        render_template("genqueue/job.html", job=view, id=view.job_id, current_instance=instance_number)
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def view_of(job: Job, *, show_prompt: bool) -> JobView:
    """What is shown of a job of RQ's."""
    status = status_of(job)
    latest = job.latest_result()
    value = job.return_value()
    result = _result_in(value)
    meta = found if isinstance(found := job.get_meta(), Mapping) else {}
    return JobView(
        job_id=job.id,
        description=description_of(job),
        status=status,
        queue=job.origin,
        has_ended=status in ENDED,
        times=_times(job),
        facts=_facts(result) if result else _progress(meta),
        prompt=_prompt(job) if show_prompt else None,
        answer=result.text if result else None,
        token_ids=result.token_ids if result else (),
        raw_result=None if value is None else _json(value),
        error=latest.exc_string if latest and status == "failed" else None,
        meta=_json(meta) if meta and not {"phase", "tokens"} <= meta.keys() else None,
        depends_on=[(job_id, _exists(job_id)) for job_id in map(as_text, job.dependency_ids)],
    )


def _result_in(value: Any) -> GenerationResult | None:
    """A job's return value as ours; None where it is another application's, or there is none."""
    try:
        return GenerationResult.model_validate(value)
    except ValidationError:
        return None


def _times(job: Job) -> list[tuple[str, datetime]]:
    named = {
        "Created": job.created_at,
        "Enqueued": job.enqueued_at,
        "Started": job.started_at,
        "Ended": job.ended_at,
    }
    return [(name, at) for name, at in named.items() if at is not None]


def _facts(result: GenerationResult) -> list[tuple[str, str]]:
    usage = result.usage
    cached = f" ({usage.cached_tokens} of them reused)" if usage.cached_tokens else ""
    facts = {
        "Model": result.model,
        "Finish reason": _finish(result),
        "Tokens": f"{usage.prompt_tokens} of the prompt{cached}, {usage.completion_tokens} of the answer",
        "Time": _timings(result.timings),
        "Seed": "" if result.seed is None else str(result.seed),
        "Attempts": str(result.attempts),
        "Worker": result.worker or "",
    }
    return [(name, fact) for name, fact in facts.items() if fact]


def _finish(result: GenerationResult) -> str:
    if result.finish_reason == "length":
        return "length: the answer was cut off"
    return f"stop: {result.stop!r}" if result.stop is not None else result.finish_reason


def _timings(timings: Timings) -> str:
    named = {
        "queued": timings.queued_ms,
        "first token after": timings.time_to_first_token_ms,
        "prefill": timings.prefill_ms,
        "decode": timings.decode_ms,
    }
    parts = [f"{name} {ms:.1f} ms" for name, ms in named.items() if ms is not None]
    if timings.tokens_per_second is not None:
        parts.append(f"{timings.tokens_per_second:.1f} tokens/s")
    return ", ".join(parts)


def _progress(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of a running job, as its worker writes it, or somebody else."""
    speed = meta.get("tokens_per_second")
    named = {
        "Phase": meta.get("phase"),
        "Tokens": meta.get("tokens"),
        "Speed": f"{speed:.1f} tokens/s" if isinstance(speed, float) else speed,
    }
    return [(name, str(part)) for name, part in named.items() if part is not None]


def _prompt(job: Job) -> list[tuple[str, str]]:
    """The request's prompt, of whichever of the three kinds it is; empty where it has none that can be read."""
    try:
        request = job.kwargs["request"]
    except Exception:  # noqa: BLE001 - anybody can write it, and it is read as whatever it claims to be
        return []
    if not isinstance(request, Mapping):
        return []
    if isinstance(messages := request.get("messages"), list):
        turns = [turn for turn in messages if isinstance(turn, Mapping)]
        return [(str(turn.get("role")), str(turn.get("content"))) for turn in turns]
    given = request.get("prompt", request.get("prompt_token_ids"))
    return [] if given is None else [("prompt", given if isinstance(given, str) else _json(given))]


def _exists(job_id: str) -> bool:
    try:
        ShownJob.fetch(job_id, connection=current_app.redis_conn)  # type: ignore[attr-defined]
    except NoSuchJobError:
        return False
    return True


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
