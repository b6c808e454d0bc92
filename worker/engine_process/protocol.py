"""What the worker and its engine process say to each other: one JSON object a line, over a socket pair.

worker -> engine      Generate, Stop
engine -> worker      Loading*, EngineInfo       while it starts
                      Begun, Accepted, steps*, Ended
                                                 a job; or RunFailed in place of any but the first, or Ended
                                                 without Accepted where it was stopped while it was tokenized

A step is one token and there are thousands of them a second: those that leave together are one line, a list of
lists in the order of `StepMessage`. Everything else is an object told apart by `op`. JSON, because nothing in
this project is ever unpickled.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, TypeAdapter

from producer.contract import VERSION, EngineFacts, ErrorCode, Markup

from ..engine_options import EngineOptions
from ..logs import LogFormat


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineConfig(_Message):
    """What an engine process is started with. The device has been decided by the worker's settings."""

    model_path: Path
    model_name: str = ""
    """As its users call it."""
    device: str
    dtype: str = "auto"
    threads: int | None = None
    options: EngineOptions = EngineOptions()
    log_format: LogFormat = "text"
    """Of the lines on its stderr, which is the worker's."""


class Generate(_Message):
    """Run one job. `request` is the wire form of a GenerationRequest that has been validated."""

    op: Literal["generate"] = "generate"
    run: int
    request: dict[str, Any]
    seed: int
    resumed_ids: tuple[int, ...] = ()
    parked: tuple[int, ...] = ()
    """Runs that were parked, and are yet to go on or have just done so. What others had read is let go of."""


class Stop(_Message):
    """End that run at its next step. `flush`: hand over the text that is still held back. `park`: another run goes
    on from there later, and what was read is kept for it."""

    op: Literal["stop"] = "stop"
    run: int
    flush: bool
    park: bool = False


class Loading(_Message):
    """The engine is still starting. Says so once a stage, and again as the stage goes on."""

    op: Literal["loading"] = "loading"
    stage: str
    done: int = 0
    total: int = 0
    """Of the stage's parts; 0 where it has none."""


class EngineInfo(_Message):
    """What the engine holds."""

    op: Literal["ready"] = "ready"
    device: str
    dtype: str
    parameters: int
    context_length: int
    kv_bytes: int
    """Of the KV cache at that context."""
    headroom_bytes: int
    """Free on the device beside weights and cache, when the engine started."""
    chat_template: bool
    """Whether the tokenizer has one, so that the model takes `messages`."""
    tool_format: str | None = None
    """The form in which the model writes calls of tools; None where it takes no `tools`."""
    path: str
    """static or dynamic."""
    compiled: bool
    captured: bool
    why: str
    """Why it is not the fastest there is; empty where it is."""
    load_s: float
    warm_up_s: float
    device_name: str = ""
    """As its maker calls it."""
    torch: str = ""
    """Its version."""
    small_weights: str = ""
    """Forms and bytes of the weights; empty where they are of `dtype`."""

    def facts(self) -> EngineFacts:
        """What stands in the stream of each job."""
        return EngineFacts(
            device=self.device_name or self.device,
            dtype=f"{self.dtype}, weights {self.small_weights}" if self.small_weights else self.dtype,
            path=f"{self.path}, {self.step}",
            torch=self.torch or None,
            genqueue=VERSION,
        )

    @property
    def step(self) -> str:
        """How a step of decoding is run."""
        return "captured" if self.captured else "compiled" if self.compiled else "not compiled"

    def summary(self) -> str:
        """What a person wants to know at the start."""
        weights = f"weights {self.small_weights}, all else " if self.small_weights else ""
        return (
            f"{self.parameters / 1e6:.1f}M parameters, {weights}{self.dtype} on {self.device}; "
            f"context {self.context_length} tokens, {self.kv_bytes / 2**20:.0f} MiB of keys and values, "
            f"{self.headroom_bytes / 2**30:.1f} GiB to spare; "
            f"{self.path} path, {self.step}{f' ({self.why})' if self.why else ''}; "
            f"loaded in {self.load_s:.1f} s, warmed up in {self.warm_up_s:.1f} s"
        )


class Begun(_Message):
    """The command has been read. An engine that dies before it says so has not died over this run."""

    op: Literal["begun"] = "begun"


class Accepted(_Message):
    """The request is valid and tokenized; prefill follows.

    `finish_reason` is set when the resumed tokens had already ended the job: then no step follows.
    """

    op: Literal["accepted"] = "accepted"
    prompt_tokens: int
    given_text: str = ""
    """Of the request's `output_token_ids`, where no earlier attempt has published them."""
    markup: Markup | None = None
    """How the parts of the answer are marked in its text; None where all of it is content."""
    finish_reason: Literal["stop", "length"] | None = None
    stop: str | None = None


class Ended(_Message):
    """The run is over: finished, or stopped when told to."""

    op: Literal["ended"] = "ended"
    prefill_ms: float | None = None
    cached_tokens: int = 0
    """Tokens of the prompt that were not read, because the cache held them."""
    tail: str = ""
    """Text that had been held back when the run was stopped."""


class RunFailed(_Message):
    """The run has failed: the request is not valid here, or the engine came to grief over it."""

    op: Literal["failed"] = "failed"
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


Command = Generate | Stop
Answer = Loading | EngineInfo | Begun | Accepted | Ended | RunFailed

COMMANDS: TypeAdapter[Command] = TypeAdapter(Command)
_ANSWERS: TypeAdapter[Answer] = TypeAdapter(Answer)


_decode = json.JSONDecoder().decode  # json.loads looks for the encoding first


def steps_line(steps: Sequence[StepMessage]) -> bytes:
    """One line for steps that leave together."""
    return json.dumps(steps).encode() + b"\n"


def parse_answers(line: bytes) -> Sequence[Answer | StepMessage]:
    """What one line of the engine's says."""
    if line.startswith(b"["):
        return [StepMessage._make(step) for step in _decode(line.decode())]
    return [_ANSWERS.validate_json(line)]
