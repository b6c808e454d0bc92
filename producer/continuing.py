"""A job that goes on where another one was cut: which jobs can be gone on with, and what is then submitted.

Pure, but for the operation that reads the other job.
"""

from collections.abc import Callable, Generator
from typing import Any, TypedDict

from .contract import GenerationRequest, InvalidRequest, Keys, Priority
from .contract.keys import check_job_id
from .contract.requests import of_python
from .ledger.past import Past, ask_past, read_past


class ContinueOptions(TypedDict, total=False):
    """How the new job is queued and kept: options of `submit`. None is as not given."""

    new_job_id: str | None
    """Of the new job: an idempotency key, as `job_id` of `submit`."""
    priority: Priority | None
    group: str | None
    queue_ttl_s: float | None
    timeout_s: int | None
    result_ttl_s: int | None
    max_queued: int | None


def past_of(keys: Keys, job_id: str) -> Generator[Callable[[Any], Any], Any, Past]:
    """An operation, as those of `operations`: the job, which must have ended.  Raises as `read_past`."""
    reply = yield ask_past(keys, check_job_id(job_id))
    return read_past(keys, job_id, reply)


def going_on(past: Past, max_new_tokens: int | None) -> GenerationRequest:
    """The request of a job that begins after the last token of one that was cut.

    max_new_tokens: how many may follow. None: what the job had left; 256, or what fits, where it had used it up.
    Raises InvalidRequest for a job that was not cut, and for one that has no tokens.
    """
    _check_was_cut(past)
    request, result = past.request, past.result
    output_ids = result.token_ids or request.output_token_ids
    if not output_ids:
        raise _refused(past, "nothing was generated yet that could be gone on with", "submit it again")
    changed: dict[str, Any] = {
        "output_token_ids": list(output_ids),
        "max_new_tokens": _bound(past, len(output_ids), of_python(max_new_tokens)),
        "seed": request.seed if result.seed is None else result.seed,
    }
    fields = {**request.to_wire(), **changed}
    return GenerationRequest.parse({name: value for name, value in fields.items() if value is not None})


def _check_was_cut(past: Past) -> None:
    result = past.result
    code = result.error.code if result.error else None
    if result.finish_reason == "length" or result.status == "cancelled" or code == "timeout":
        return
    if result.status == "finished":
        raise _refused(
            past,
            f"it came to its end by itself ({result.finish_reason:.40}), and nothing is to follow",
            "submit a prompt that goes further, or with ignore_eos",
        )
    why = f"it failed ({code or result.status!s:.40}), which is no cut that could be gone on from"
    raise _refused(past, why, "submit it again")


def _bound(past: Past, given: int, more: Any) -> int | None:
    if more is not None:
        if type(more) is not int or more < 1:
            raise InvalidRequest("max_new_tokens: it takes the number of tokens that may follow, from 1")
        return given + more
    left = past.request.max_new_tokens
    return left if left is not None and left > given else None


def _refused(past: Past, why: str, hint: str) -> InvalidRequest:
    return InvalidRequest(f"job {past.job_id} cannot be continued: {why}: {hint}", job_id=past.job_id, hint=hint)
