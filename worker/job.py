"""A job as the runner gets it, how far it has come, and what has become of it. Values, and nothing that acts.

Knows neither RQ, which the order was read from, nor the engine.
"""

import time
from dataclasses import dataclass, field
from typing import Literal

from producer.contract import GenerationRequest, GenerationResult, JobError, Timings

AbortReason = Literal["timeout", "shutdown"]
"""Why a job is stopped before its end and without its user's wish: its deadline, or the worker's own end."""


@dataclass(frozen=True, slots=True)
class Order:
    """A job as the runner gets it: read from RQ, checked, and free of RQ."""

    job_id: str
    model: str
    request: GenerationRequest
    timeout_s: float
    result_ttl_s: float
    queued_ms: float | None = None
    can_retry: bool = False
    """Whether RQ will run it again should it fail: then a failure that may pass is no end."""
    has_stream: bool = True
    """Whether there was a stream of that id when the job was taken."""
    begins_anew: bool = False
    """Whether a stream of that id is of an earlier life, whose request was another."""


@dataclass(frozen=True, slots=True)
class Done:
    """The job has its terminal event and its result."""

    result: GenerationResult
    is_news: bool = True
    """Whether it was this worker that ended it. An end that stood there before has been counted by another."""


@dataclass(frozen=True, slots=True)
class PutBack:
    """The job has not ended; it goes back to the front of its queue, and the next worker goes on from there."""

    why: str
    engine_died: bool = False
    """Whether the job counts one death more: one that has too many is refused, see `intake.check_deaths`."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed, and the job's user asked for another."""

    error: JobError


@dataclass(frozen=True, slots=True)
class Superseded:
    """Another worker has the job. Nothing is left to do here, and nothing may be written."""


Outcome = Done | PutBack | Retry | Superseded


@dataclass(slots=True)
class AttemptProgress:
    """Where the running job stands."""

    phase: Literal["starting", "prefill", "decode"] = "starting"
    tokens: int = 0
    tokens_per_second: float | None = None

    def as_dict(self) -> dict[str, str | int | float | None]:
        """As it stands in the meta of RQ's job."""
        return {"phase": self.phase, "tokens": self.tokens, "tokens_per_second": _round(self.tokens_per_second)}


@dataclass(slots=True)
class Clock:
    """When things happened, in `time.monotonic()` seconds, which the engine's process shares."""

    begun: float = field(default_factory=time.monotonic)
    """With the attempt, as soon as its worker has read what stands in the stream."""
    first_token: float | None = None
    last_token: float | None = None
    prefill_ms: float | None = None

    def note(self, sampled_at: float) -> None:
        """A token was sampled then."""
        if self.first_token is None:
            self.first_token = sampled_at
        self.last_token = sampled_at

    def tokens_per_second(self, tokens: int) -> float | None:
        """Speed of decoding; None before the second token.  tokens: that were noted."""
        if self.first_token is None or self.last_token is None or self.last_token == self.first_token:
            return None
        return (tokens - 1) / (self.last_token - self.first_token)

    def timings(self, tokens: int, queued_ms: float | None) -> Timings:
        """As they stand in the job's result.  tokens: that were noted."""
        first, last = self.first_token, self.last_token
        speed = self.tokens_per_second(tokens)
        return Timings(
            queued_ms=queued_ms,
            prefill_ms=_round(self.prefill_ms),
            decode_ms=_round((last - first) * 1000) if first is not None and last is not None else None,
            time_to_first_token_ms=_round((first - self.begun) * 1000) if first is not None else None,
            tokens_per_second=_round(speed),
        )


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
