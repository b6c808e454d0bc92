"""What the worker and its engine process say to each other: one JSON object a line, over a socket pair.

worker -> engine      Generate, Stop
engine -> worker      Loading*, Ready        while it starts
                      Accepted, step*, Ended     a job; or Refused in place of any of them

A step is one token and there are thousands of them a second, so it goes as a bare list in the order of `Step`;
everything else is an object told apart by `op`. JSON, because nothing in this project is ever unpickled.
"""

from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, TypeAdapter

from producer.contract import ErrorCode


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Generate(_Message):
    """Run one job. `request` is the wire form of a GenerationRequest that has been validated."""

    op: Literal["generate"] = "generate"
    run: int
    request: dict[str, Any]
    seed: int
    resumed_ids: tuple[int, ...] = ()


class Stop(_Message):
    """End that run at its next step. `flush`: hand over the text that is still held back."""

    op: Literal["stop"] = "stop"
    run: int
    flush: bool


class Loading(_Message):
    """The engine is still starting. Says so once a stage, so that silence means trouble."""

    op: Literal["loading"] = "loading"
    stage: str


class EngineInfo(_Message):
    """What the engine holds."""

    op: Literal["ready"] = "ready"
    device: str
    dtype: str
    parameters: int
    context_length: int
    load_s: float


class Accepted(_Message):
    """The request is valid and tokenized; prefill follows.

    `finish_reason` is set when the resumed tokens had already ended the job: then no step follows.
    """

    op: Literal["accepted"] = "accepted"
    prompt_tokens: int
    cached_tokens: int = 0
    finish_reason: Literal["stop", "length"] | None = None
    stop: str | None = None


class Ended(_Message):
    """The run is over: finished, or stopped when told to."""

    op: Literal["ended"] = "ended"
    prefill_ms: float | None = None
    tail: str = ""
    """Text that had been held back when the run was stopped."""


class Refused(_Message):
    """The job failed."""

    op: Literal["refused"] = "refused"
    code: ErrorCode
    message: str


class StepMessage(NamedTuple):
    """One token."""

    sampled_at: float
    """`time.monotonic()`, which both processes share."""
    token_id: int
    text: str
    finish_reason: Literal["stop", "length"] | None = None
    stop: str | None = None
    logprob: dict[str, Any] | None = None


Order = Generate | Stop
Answer = Loading | EngineInfo | Accepted | Ended | Refused

ORDERS: TypeAdapter[Order] = TypeAdapter(Order)
ANSWERS: TypeAdapter[Answer] = TypeAdapter(Answer)
