"""Lines of a batch's output: what a request of its endpoint would have been answered, in OpenAI's frame."""

import time
from typing import Any

from ..batch.answers import Answer
from ..batch.openai_answers import line_with_response
from ..contract import InvalidRequest
from .calls import Call, Kind
from .chunks import ended_well, whole
from .errors import ApiError
from .response_objects import object_in_order


def answer_line(answer: Answer, kind: Kind, owner: str, model: str) -> dict[str, Any]:
    """Of a row that has come to its end, well or badly."""
    row, result = answer.row, answer.result
    if result is None or answer.failed:
        error = _error_of(answer, kind)
        return line_with_response(row, error.status, error.body)
    call = Call(
        id=row.job_id,
        kind=kind,
        owner=owner,
        model=model,
        created=int(time.time()),
        **(row.about or {}),
    )
    ended = result, answer.logprobs
    body = object_in_order(call, *ended) if kind == "responses" else whole(call, [ended])
    return line_with_response(row, 200, body)


def _error_of(answer: Answer, kind: Kind) -> ApiError:
    try:
        if answer.result is not None:
            ended_well(answer.result, kind)
    except ApiError as error:
        return error
    code, message = answer.failure
    return ApiError(400 if code == InvalidRequest.code else 500, message, code=code)
