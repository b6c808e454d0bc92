"""A job is ended early: where it waits at once, where a worker holds it by that worker."""

from typing import Literal

from ..contract import EventId, GenerationResult, Keys, data_json, mirror_json, terminal_event
from . import rq_names
from .step import Step

CancelAnswer = Literal["cancelled", "ended", "requested", "changed"]


def cancel(
    keys: Keys,
    job_id: str,
    model: str,
    last: EventId | None,
    result: GenerationResult,
    *,
    result_ttl_s: int,
    request_ttl_s: int,
    now: str,
) -> Step[CancelAnswer]:
    """End a job that nobody runs; else ask whoever holds it.

    last: of the job's events so far, which `result` adds up; `changed` says that there are newer ones by now.
    request_ttl_s: how long a request to cancel stands.  now: in RQ's form, for its records.
    """
    event_id = EventId(last.attempt + 1, last.seq + 1) if last else EventId(1, 0)
    data = data_json(terminal_event(result))
    taken_prefix, taken_suffix = keys.taken_parts
    return Step(
        "cancel",
        [
            keys.events(job_id),
            keys.result(job_id),
            rq_names.job(job_id),
            keys.cancel(job_id),
            keys.waiters(job_id),
            keys.deadlines(model),
        ],
        [
            job_id,
            str(last or ""),
            str(event_id),
            data,
            mirror_json(str(event_id), "cancelled", data),
            keys.tokens(job_id),
            result_ttl_s,
            request_ttl_s,
            now,
            taken_prefix,
            taken_suffix,
            rq_names.PREFIX,
            keys.prefix,
            keys.queue_prefix,
        ],
        lambda reply: reply.decode(),
    )


def request_stop(keys: Keys, job_id: str, *, ttl_s: int) -> Step[bool]:
    """Let the job's own request to cancel stand, unless it has ended. Tells whether it stands."""
    names = [keys.events(job_id), keys.result(job_id), keys.cancel(job_id)]
    return Step("request_stop", names, [ttl_s], bool)
