"""Who serves a model: the records of its live workers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..contract import Keys
from . import rq_names

FIELDS = (
    *("birth", "death", "queues", "state", "model_state", "hostname", "device", "request_fields", "chat_template"),
    *("tool_format", "context_length", "job_seconds", "busy_seconds", "ended_jobs"),
    *("successful_job_count", "failed_job_count", "total_working_time"),
)

ENDED_SAID = 5
"""Jobs that have ended, of which a worker's record tells: as many as an overview shows."""
_ABSURD = 1e9


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A live worker that serves the model."""

    name: str
    model_state: str | None
    """`loading` or `ready`; None for a worker that does not say."""
    hostname: str | None
    request_fields: frozenset[str] | None
    """Fields of a request that it understands; None for a worker that does not say."""
    chat_template: bool | None = None
    """Whether its model has one; None for a worker that does not say, as one that is loading."""
    tool_format: str | None = None
    """How its model writes calls; "" where it takes no tools, None for a worker that does not say."""
    state: str | None = None
    """RQ's: `idle`, `busy`, `suspended`, `started`."""
    device: str | None = None
    queues: tuple[str, ...] = ()
    context_length: int | None = None
    """Tokens of prompt and answer that fit; None for a worker that does not say."""
    job_seconds: float | None = None
    """Mean of its jobs lately; of an earlier version's, of all. None before the first."""
    busy_seconds: float | None = None
    """How long its job has run, at its last beat; None where it has none, or does not say."""
    ended_jobs: tuple[str, ...] = ()
    """Ids of the jobs that had ended there last, at its last beat; none for a worker that does not say."""


def worker_sets(keys: Keys, model: str) -> list[str]:
    """Sets whose union names the records of the model's workers."""
    return [rq_names.workers(queue) for queue in keys.queues(model)]


def read_records(worker_keys: Sequence[bytes]) -> Callable[[Any], Any]:
    """A command that reads those records in one round trip, for `live_workers`."""

    def command(client: Any) -> Any:
        """Their FIELDS, in one pipeline."""
        pipeline = client.pipeline(transaction=False)
        for key in worker_keys:
            pipeline.hmget(key, FIELDS)
        return pipeline.execute()

    return command


def live_workers(
    worker_keys: Sequence[bytes], replies: Sequence[Sequence[bytes | None]]
) -> tuple[WorkerRecord, ...]:
    """Those that live: RQ keeps the record of one that has died for a minute."""
    records = (_record(key, reply) for key, reply in zip(worker_keys, replies, strict=True))
    return tuple(record for record in records if record)


def _record(key: bytes, reply: Sequence[bytes | None]) -> WorkerRecord | None:
    pairs = zip(FIELDS, reply, strict=True)
    said = {name: value.decode(errors="replace") for name, value in pairs if value is not None}
    if "birth" not in said or "death" in said:
        return None
    fields, template = said.get("request_fields"), said.get("chat_template")
    context_length = _number(said.get("context_length"))
    return WorkerRecord(
        name=key.decode(errors="replace").rpartition(":")[2],
        model_state=said.get("model_state"),
        hostname=said.get("hostname"),
        request_fields=None if fields is None else frozenset(fields.split(",")),
        chat_template=None if template is None else template == "1",
        tool_format=said.get("tool_format"),
        state=said.get("state"),
        device=said.get("device"),
        queues=tuple(filter(None, said.get("queues", "").split(","))),
        context_length=None if context_length is None else int(context_length),
        job_seconds=_job_seconds(said),
        busy_seconds=_number(said.get("busy_seconds")) if said.get("state") == "busy" else None,
        ended_jobs=tuple(filter(None, said.get("ended_jobs", "").split(",")))[-ENDED_SAID:],
    )


def _job_seconds(said: Mapping[str, str]) -> float | None:
    lately = _number(said.get("job_seconds"))
    if lately is not None:
        return lately
    jobs = sum(_number(said.get(name)) or 0.0 for name in ("successful_job_count", "failed_job_count"))
    worked_s = _number(said.get("total_working_time"))
    return worked_s / jobs if worked_s is not None and jobs >= 1 else None


def _number(text: str | None) -> float | None:
    """Not below 0, and finite: anybody may have written it."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < _ABSURD else None
