"""What has happened to one job, and when: its record, its attempts and its end. Two round trips, and no text."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..contract import GenerationResult, InvalidRequest, Keys, NoSuchJob, Started, StreamedEvent, Tokens
from ..contract.event_id import MAX_ID_PART
from ..contract.keys import check_job_id
from ..following import event_in
from ..job_status import job_fields, progress_of, state_of, times_of
from ..ledger import rq_names
from ..operations import Operation

ATTEMPTS_SHOWN = 20
"""The last ones."""
_FIELDS = ("status", "origin", "worker_name", "meta", "enqueued_at", "started_at", "ended_at")


def happening(keys: Keys, job_id: str, owner: str | None) -> Operation[dict[str, Any]]:
    """Of a job.  owner: whose it has to be; None: anybody's.  Raises NoSuchJob."""
    try:
        check_job_id(job_id)
    except InvalidRequest as error:
        raise NoSuchJob(str(error)) from None

    def ask(client: Any) -> Any:
        """Its record, and its newest event."""
        pipeline = client.pipeline(transaction=False)
        pipeline.hmget(rq_names.job(job_id), _FIELDS)
        pipeline.xrevrange(keys.events(job_id), count=1)
        return pipeline.execute()

    values, entries = yield ask
    fields = job_fields(values, _FIELDS)
    origin = fields.get("origin", "")
    if keys.model_of_queue(origin) is None or (owner is not None and keys.group_of_queue(origin) != owner):
        raise NoSuchJob(job_id=job_id)
    newest = _event(entries, job_id)
    return {
        "id": job_id,
        "model": keys.model_of_queue(origin),
        "priority": keys.priority_of_queue(origin),
        "worker": fields.get("worker_name") or None,
        **_times(fields),
        **_standing(fields, newest),
        "attempts": (yield from _attempts(keys, job_id, newest)),
    }


def _attempts(keys: Keys, job_id: str, newest: StreamedEvent | None) -> Operation[list[dict[str, Any]]]:
    """Each begins with an event that says who has taken the job, and after which token it goes on."""
    last = newest.id.attempt if newest else 0
    numbers = range(max(1, last - ATTEMPTS_SHOWN + 1), last + 1)
    if not numbers:
        return []

    def ask(client: Any) -> Any:
        """The first event of each."""
        pipeline = client.pipeline(transaction=False)
        for number in numbers:
            pipeline.xrange(keys.events(job_id), f"{number}-0", f"{number}-{MAX_ID_PART}", count=1)
        return pipeline.execute()

    begun = [_event(entries, job_id) for entries in (yield ask)]
    return [
        each.event.data.model_dump(include={"attempt", "worker", "prompt_tokens", "resumed_tokens"})
        for each in begun
        if each is not None and isinstance(each.event, Started)
    ]


def _times(fields: Mapping[str, str]) -> dict[str, float | None]:
    """Unix seconds."""
    times = {name: at.timestamp() for name, at in times_of(fields).items()}
    return {
        "queued_at": times.get("enqueued_at"),
        "started_at": times.get("started_at"),
        "ended_at": times.get("ended_at"),
    }


def _standing(fields: Mapping[str, str], newest: StreamedEvent | None) -> dict[str, Any]:
    """How far it is, or how it has ended."""
    progress = progress_of(fields)
    state = state_of(fields)
    said = newest.event.data if newest else None
    if isinstance(said, GenerationResult):
        kept = said.model_dump(include={"finish_reason", "usage", "timings"})
        return {
            "state": said.status,
            "tokens": said.usage.completion_tokens,
            **kept,
            "error": said.error and said.error.code,
        }
    tokens = progress.tokens if progress else None
    if newest and isinstance(newest.event, Tokens):  # newer than what its worker says of it now and then
        tokens = newest.event.data.index + len(newest.event.data.ids)
    is_paused = state == "running" and progress is not None and progress.is_paused
    return {"state": "paused" if is_paused else state, "tokens": tokens}


def _event(entries: Sequence[tuple[bytes, Any]], job_id: str) -> StreamedEvent | None:
    for entry_id, fields in entries:
        event = event_in(entry_id, fields, job_id)
        return event if isinstance(event, StreamedEvent) else None
    return None
