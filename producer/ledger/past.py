"""What is left of a job that has ended: its request and its result, for whoever goes on with it, or runs it again.

Anybody may have written them: what is pickled is never read, and nothing is unpacked beyond a bound.
"""

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..contract import (
    FUNCTION,
    GenerationRequest,
    GenerationResult,
    InvalidRequest,
    Keys,
    NoSuchJob,
)
from . import rq_names

MAX_CALL_BYTES = 64 * 2**20
"""Of a job's call, unpacked: more than any producer sends."""
_OVER = frozenset([b"finished", b"failed", b"stopped", b"canceled"])
"""RQ's words for a job that has ended."""


@dataclass(frozen=True, slots=True)
class Past:
    """A job that has ended."""

    job_id: str
    model: str
    request: GenerationRequest
    result: GenerationResult


def ask_past(keys: Keys, job_id: str) -> Callable[[Any], Any]:
    """A command that reads all of it at one moment, for `read_past`."""

    def command(client: Any) -> Any:
        """Fields of RQ's hash, whether there is a stream, and the result."""
        pipeline = client.pipeline(transaction=True)
        pipeline.hmget(rq_names.job(job_id), ("origin", "status", "data"))
        pipeline.exists(keys.events(job_id))
        pipeline.get(keys.result(job_id))
        return pipeline.execute()

    return command


def read_past(keys: Keys, job_id: str, reply: Sequence[Any]) -> Past:
    """The job.  Raises NoSuchJob, and InvalidRequest where it has not ended, or where too little of it is left."""
    (origin, status, data), has_stream, raw_result = reply
    queue = None if origin is None else origin.decode(errors="replace")
    model = None if queue is None else keys.model_of_queue(queue)
    if (queue is None and raw_result is None and not has_stream) or (queue is not None and model is None):
        raise NoSuchJob(
            f"job {job_id} is not known here: it was never submitted, its result_ttl_s has passed, or it is of "
            "another prefix",
            job_id=job_id,
        )
    if raw_result is None and (queue is None or status in _OVER):
        raise _refused(job_id, "its result is gone", "submit it again")
    if raw_result is None:
        raise _refused(job_id, "it has not ended", "wait for it, or cancel it first")
    if queue is None or model is None or data is None:
        raise _refused(job_id, "its request is gone, and only its result is left", "submit it again")
    return Past(job_id, model, _request(job_id, data), _result(job_id, raw_result))


def _request(job_id: str, data: bytes) -> GenerationRequest:
    try:
        function, _, _, arguments = json.loads(_unpacked(data))
        fields = arguments["request"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _refused(job_id, "what it calls cannot be read", "submit its prompt again") from None
    if function != FUNCTION:
        raise _refused(job_id, "it calls another function", "submit a prompt of your own")
    return GenerationRequest.parse(fields)


def _unpacked(data: bytes) -> bytes:
    """Packed with zlib, or plain, as RQ allows.  Raises ValueError beyond the bound."""
    try:
        unpacker = zlib.decompressobj()
        plain = unpacker.decompress(data, MAX_CALL_BYTES)
    except zlib.error:
        return data
    if unpacker.unconsumed_tail:
        raise ValueError("too large")
    return plain


def _result(job_id: str, raw: bytes) -> GenerationResult:
    try:
        return GenerationResult.model_validate_json(raw)
    except ValueError:
        raise _refused(job_id, "what stands in place of its result is none", "submit it again") from None


def _refused(job_id: str, why: str, hint: str) -> InvalidRequest:
    return InvalidRequest(f"job {job_id}: {why}: {hint}", job_id=job_id, hint=hint)
