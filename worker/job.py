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

    phase: Literal["starting", "prefill", "decode", "paused"] = "starting"
    tokens: int = 0
    tokens_per_second: float | None = None

    def as_dict(self) -> dict[str, str | int | float | None]:
        """As it stands in the meta of RQ's job."""
        return {"phase": self.phase, "tokens": self.tokens, "tokens_per_second": _round(self.tokens_per_second)}


@dataclass(slots=True)
class Clock:
    """When things happened, in `time.monotonic()` seconds, which the engine's process shares.

    The time in which the job was parked is in none of its other figures.
    """

    begun: float = field(default_factory=time.monotonic)
    """With the attempt, as soon as its worker has read what stands in the stream."""
    first_token: float | None = None
    last_token: float | None = None
    prefill_ms: float | None = None
    parked_s: float | None = None
    """None for a job that never was."""
    _parked_at: float = 0.0
    _was_parked: bool = False
    """Since the last token."""
    _parked_first_s: float = 0.0
    """Before the first token."""
    _is_prefilled: bool = False
    _gaps: int = 0
    _gaps_s: float = 0.0
    """Between two tokens, where the job was parked: how often, and for how long."""

    def note(self, sampled_at: float) -> None:
        """A token was sampled then."""
        if self.first_token is None:
            self.first_token, self._parked_first_s = sampled_at, self.parked_s or 0.0
        elif self._was_parked and self.last_token is not None:
            self._gaps += 1
            self._gaps_s += sampled_at - self.last_token
        self.last_token, self._was_parked = sampled_at, False

    def note_prefill(self, took_ms: float | None) -> None:
        """A run of the engine has ended that read for so long. What it read again, to go on, is none of it."""
        if took_ms is not None and not self._is_prefilled:
            self.prefill_ms = (self.prefill_ms or 0.0) + took_ms
        self._is_prefilled = self.first_token is not None

    def park(self) -> None:
        """The job waits from now on."""
        self._parked_at, self._was_parked = time.monotonic(), True

    def go_on(self) -> None:
        """It waits no more."""
        self.parked_s = (self.parked_s or 0.0) + time.monotonic() - self._parked_at

    def _decoded_s(self) -> float | None:
        """From the first token to the last."""
        if self.first_token is None or self.last_token is None:
            return None
        return self.last_token - self.first_token - self._gaps_s

    def tokens_per_second(self, tokens: int) -> float | None:
        """Speed of decoding; None before the second token.  tokens: that were noted."""
        took_s, steps = self._decoded_s(), tokens - 1 - self._gaps
        return steps / took_s if took_s and steps > 0 else None

    def timings(self, tokens: int, queued_ms: float | None) -> Timings:
        """As they stand in the job's result.  tokens: that were noted."""
        first_s = None if self.first_token is None else self.first_token - self.begun - self._parked_first_s
        return Timings(
            queued_ms=queued_ms,
            prefill_ms=_round(self.prefill_ms),
            decode_ms=_milliseconds(self._decoded_s()),
            time_to_first_token_ms=_milliseconds(first_s),
            tokens_per_second=_round(self.tokens_per_second(tokens)),
            parked_ms=_milliseconds(self.parked_s),
        )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else _round(seconds * 1000)


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
