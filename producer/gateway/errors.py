"""Errors as OpenAI's clients read them: a status, and `{"error": {"message", "type", "param", "code"}}`.

Which of ours has which status, and whether a client should try again: openai-python does so after 408, 409, 429
and 5xx, unless the header `x-should-retry` says otherwise.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from ..batch.openai_rows import FieldRefused
from ..contract import (
    BrokerUnavailable,
    EngineError,
    GenerationRequest,
    GenqueueError,
    InvalidRequest,
    JobCancelled,
    JobConflict,
    JobExpired,
    JobStranded,
    JobTimeout,
    NoSuchJob,
    OutOfMemory,
    PromptTooLong,
    QueueFull,
    UnknownModel,
    WaitTimeout,
    WorkerLost,
)

NOT_AGAIN = {"x-should-retry": "false"}
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """What a client is told in place of an answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def kind(self) -> str:
        """OpenAI's `type`."""
        return _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    @property
    def body(self) -> dict[str, Any]:
        """The object that is sent."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    def to_json(self) -> bytes:
        """The body on the wire."""
        return json.dumps(self.body, ensure_ascii=False).encode(errors="replace")


def refused(param: str, why: str, *, code: str = "unsupported_value") -> ApiError:
    """A field of a request that cannot be served."""
    return ApiError(400, f"{param:.80}: {why}", param=param[:80], code=code)


def not_found(what: str) -> ApiError:
    """Of what is not there, or is another key's."""
    return ApiError(404, f"there is no {what:.200} here", code="not_found")


def unforeseen() -> ApiError:
    """Of what nobody has thought of."""
    return ApiError(500, "the gateway failed on this request: its log says why", code="internal")


def retry_after(seconds: float) -> dict[str, str]:
    """The header."""
    return {"retry-after": str(max(1, math.ceil(seconds)))}


_STATUS: tuple[tuple[type[GenqueueError], int, bool], ...] = (
    (UnknownModel, 404, False),
    (InvalidRequest, 400, False),
    (NoSuchJob, 404, False),
    (JobConflict, 422, False),
    (JobCancelled, 410, False),
    (QueueFull, 429, True),
    (JobExpired, 503, True),
    (WaitTimeout, 503, True),
    (JobStranded, 503, True),
    (OutOfMemory, 503, True),
    (JobTimeout, 504, False),
    (WorkerLost, 500, False),
    (EngineError, 500, True),
)
"""The first that fits: status, and whether another try may end otherwise."""
_CODES = {PromptTooLong: "context_length_exceeded", UnknownModel: "model_not_found", JobConflict: "id_in_use"}
_AGAIN_S = 5.0


def api_error(error: GenqueueError, names: Mapping[str, str] | None = None) -> ApiError:
    """What a client is told of one of ours.  names: what it has called fields of ours, by our names."""
    if isinstance(error, BrokerUnavailable):  # which may name its host and its users
        said = "the queue cannot be reached now: try again in a moment; the gateway's log says why"
        return ApiError(503, said, code=error.code, headers=retry_after(_AGAIN_S))
    if isinstance(error, FieldRefused):
        return refused(error.param or "", error.why, code="unsupported_parameter")
    status, again = next(
        ((status, again) for kind, status, again in _STATUS if isinstance(error, kind)), (500, False)
    )
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), error.code)
    headers = (retry_after(_AGAIN_S) if status in (429, 503) else {}) if again else NOT_AGAIN
    message = str(error)
    param = error.param or _param_of(message) if isinstance(error, InvalidRequest) else None
    if param is not None and (given := (names or {}).get(param)):
        message = message.replace(param, given)
        param = given
    return ApiError(status, message, param=param, code=code, headers=headers)


def _param_of(message: str) -> str | None:
    """The field with which what a worker says begins: it sends code and message alone."""
    name = message.partition(" ")[0].rstrip(":")
    return name if name in GenerationRequest.model_fields else None
