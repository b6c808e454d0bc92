"""GenerationResult, with which a worker ends a job, and what it is made of. Read tolerantly, as events are."""

import json
from typing import Any, Literal, Self

from pydantic import SerializerFunctionWrapHandler, model_serializer

from .chat import FunctionCallParam, Message, ToolCallParam
from .errors import ErrorCode, JobCancelled, JobError, job_error
from .markup import ToolCall
from .tolerant import Tolerant

Status = Literal["finished", "failed", "cancelled"]
FinishReason = Literal["stop", "length", "tool_calls", "cancelled", "error"]


class Usage(Tolerant):
    """Token counts of a job."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens whose KV entries were reused from an earlier job."""


class Timings(Tolerant):
    """Where the time went, in milliseconds, for the attempt that ended the job."""

    queued_ms: float | None = None
    """From being enqueued to being taken by a worker."""
    prefill_ms: float | None = None
    decode_ms: float | None = None
    """From the first token to the last."""
    time_to_first_token_ms: float | None = None
    """From the attempt's beginning, a moment after its worker took the job, to the first token."""
    tokens_per_second: float | None = None
    """Decoded tokens (all but the first) over decode_ms."""
    parked_ms: float | None = None
    """For how long it waited for jobs of a higher priority, which is in none of the other figures. None for a job
    that did not, which is left out on the wire."""

    @model_serializer(mode="wrap")
    def _without_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        if written.get("parked_ms", 0) is None:
            del written["parked_ms"]
        return written


class ErrorInfo(Tolerant):
    """Why a job failed."""

    code: ErrorCode | str
    message: str


class TokenLogprob(Tolerant):
    """Log-probabilities at one position, from the model's logits before any processor."""

    logprob: float
    """Of the token that was chosen."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest ids with theirs, best first."""


_PARTS = frozenset({"content", "reasoning", "tool_calls"})


class GenerationResult(Tolerant):
    """How a job ended. A cancelled or failed job keeps the text that it had.

    token_ids holds every generated id, eos included. text leaves out special tokens (unless asked for) and a
    matched stop string with all that follows it.
    """

    job_id: str
    status: Status | str
    model: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | str
    stop: str | None = None
    """The stop string that matched, if one did."""
    seed: int | None = None
    usage: Usage = Usage()
    timings: Timings = Timings()
    attempts: int = 1
    worker: str | None = None
    error: ErrorInfo | None = None
    content: str | None = None
    """Of the text what is said, without calls and reasoning. None: all of it."""
    reasoning: str | None = None
    """Of the text what the model thought before it answered, without its tags."""
    tool_calls: tuple[ToolCall, ...] | None = None
    """Of the text what the model has called. The last one may be cut off where the text is."""

    @model_serializer(mode="wrap")
    def _without_parts_that_are_not_there(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """So that a result without them is what it was before there were any."""
        fields: dict[str, Any] = dump(self)
        return {name: value for name, value in fields.items() if value is not None or name not in _PARTS}

    @property
    def message(self) -> Message:
        """The answer as the next turn of its chat, to be appended to `messages`."""
        # Not validated: it is what a worker wrote, who may be of a later version. Sent back, it is.
        calls = tuple(
            ToolCallParam.model_construct(
                id=call.id, function=FunctionCallParam.model_construct(**call.function.model_dump())
            )
            for call in self.tool_calls or ()
        )
        content = self.text if self.content is None else self.content
        return Message.model_construct(
            role="assistant", content=content, reasoning=self.reasoning, tool_calls=calls
        )

    def raise_for_status(self) -> Self:
        """Return self when the job finished.  Raises JobCancelled or the JobError of its error code."""
        if self.status == "cancelled":
            raise JobCancelled(f"job {self.job_id} was cancelled", job_id=self.job_id)
        if self.error is not None or self.status != "finished":
            raise self.failure
        return self

    @property
    def parsed(self) -> Any:
        """The answer as JSON, as `response_format` asks for.  Raises ValueError where it is none, or was cut."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError) as error:
            why = "was cut off by max_new_tokens" if self.truncated else "is no JSON"
            raise ValueError(f"the text of job {self.job_id} {why}: {error}") from error

    @property
    def truncated(self) -> bool:
        """Whether the text was cut off at max_new_tokens, or where the context was full."""
        return self.finish_reason == "length"

    @property
    def failure(self) -> JobError:
        """Why the job did not finish, as an error. A later version may know ways to end that are none of ours."""
        if self.error is not None:
            return job_error(self.error.code, self.error.message, job_id=self.job_id)
        ended = f"job {self.job_id} ended as {self.status[:80]!r}, and its worker gave no error"
        return JobError(ended, job_id=self.job_id)
