"""One turn of a scripted worker at a job: from its place in the stream to its end, or to the worker's death."""

import math
import secrets
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

from ..contract import (
    BEFORE_FIRST,
    EngineError,
    Entry,
    ErrorInfo,
    Event,
    EventId,
    FinishReason,
    GenerationResult,
    JobError,
    JobTimeout,
    Markup,
    Started,
    StartedData,
    Status,
    StreamedEvent,
    Timings,
    TokenLogprob,
    Tokens,
    TokensData,
    data_json,
    parse_entry,
    terminal_event,
)
from ..contract.assemble import assemble
from ..contract.requests import DRAWN_SEEDS
from ..contract.views.syntaxes import THINK
from ..ledger.stream import clear
from .answers import Answer, Asked
from .rq_ends import kept_s
from .seat import TOOL_FORMAT, TTL_S, Held, Seat
from .token_ids import encode

PROGRESS_S = 0.05
"""Between two looks that `status` can have at how far a job is."""
AT_ONCE = frozenset({
    "invalid_request", "prompt_too_long", "unknown_model", "unknown_function", "expired", "worker_lost",
})  # fmt: skip
"""Codes of jobs that fail before they begin."""


class Interrupted(Exception):
    """The turn ends before the answer does. `death` and `stopping` leave the job as it is."""

    def __init__(self, by: Literal["cancelled", "timeout", "death", "stopping"]) -> None:
        super().__init__(by)
        self.by = by


class Lost(Exception):
    """The job is not the worker's any more."""


class Turn:
    """One attempt at a job.

    pause: waits for as long as an event takes.  Raises Interrupted.
    """

    def __init__(self, seat: Seat, held: Held, pause: Callable[["Turn"], None]) -> None:
        self.job_id = held.job.id
        self._seat = seat
        self._held = held
        self._pause = pause
        self._events: list[StreamedEvent] = self._history()
        self._appender = seat.stream(self.job_id)
        self._began = self._show_at = time.monotonic()
        self._first_token: float | None = None
        self._timeout_s = float(held.job.timeout or math.inf)
        self.attempt = self._events[-1].id.attempt + 1 if self._events else 1
        self.resumed_tokens = self._tokens = len(self._assembled("finished", "stop").token_ids)

    @property
    def left_s(self) -> float:
        """Until the job has taken longer than it may. Infinite where it says nothing of that."""
        return self._began + self._timeout_s - time.monotonic()

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody asks for its cancellation."""
        return self._seat.is_cancelled(self.job_id)

    def ended(self) -> GenerationResult | None:
        """How it ended in another's hands: of RQ, that does not know, it may come again."""
        last = self._events[-1].event.data if self._events else None
        return last if isinstance(last, GenerationResult) else None

    def begin_anew(self) -> None:
        """RQ has it again after its end: its life begins anew, above its old ids."""
        clear(self._seat.keys, self._seat.name, self.job_id).run(self._seat.client)
        self._events, self.resumed_tokens, self._tokens = [], 0, 0

    def play(self, asked: Asked, answer: Answer, *, dies_after: int | None) -> GenerationResult | None:
        """Publish the answer.  dies_after: tokens of this turn.

        Returns None where the worker dies over it, or stops.  Raises Lost.
        """
        if answer.failure is not None and answer.failure.code in AT_ONCE and not answer.chunks:
            return self.fail(answer.failure)
        self._seat.begin(self._held)
        self._append(self._started(asked, answer))
        try:
            self._publish_all(asked, answer, dies_after)
        except Interrupted as interrupted:
            return self._interrupted(interrupted)
        if answer.failure is not None:
            return self.fail(answer.failure)
        return self._end("finished", answer.finish_reason, stop=answer.stop)

    def fail(self, error: JobError) -> GenerationResult:
        """End the job in that error."""
        return self._end("failed", "error", error=ErrorInfo(code=error.code, message=str(error)))

    # -- inside

    def _history(self) -> list[StreamedEvent]:
        entries: Any = self._seat.client.xrange(self._seat.keys.events(self.job_id))
        parsed = [parse_entry(*entry) for entry in entries]
        return [event for event in parsed if isinstance(event, StreamedEvent)]

    def _started(self, asked: Asked, answer: Answer) -> Started:
        seeds = [event.event.data.seed for event in self._events if isinstance(event.event, Started)]
        drawn = seeds[0] if seeds else secrets.randbelow(DRAWN_SEEDS)
        data = StartedData(
            attempt=self.attempt,
            worker=self._seat.name,
            model=self._seat.model,
            prompt_tokens=asked.prompt_tokens,
            resumed_tokens=self.resumed_tokens,
            seed=drawn if asked.request.seed is None else asked.request.seed,
            markup=_markup(asked, answer),
        )
        return Started(data=data)

    def _publish_all(self, asked: Asked, answer: Answer, dies_after: int | None) -> None:
        left = sys.maxsize if dies_after is None else dies_after
        for chunk in answer.after(self.resumed_tokens).chunks or ("",):
            self._pause(self)
            text = chunk[:left]
            if text and self._publish(text, logprobs=asked.request.logprobs is not None):
                raise Interrupted("cancelled")
            left -= len(text)
            if len(text) < len(chunk):
                break
        if dies_after is not None:
            raise Interrupted("death")

    def _publish(self, text: str, *, logprobs: bool) -> bool:
        """One event of tokens. Tells whether somebody asks for the job's cancellation."""
        ids = encode(text)
        if self._first_token is None:
            self._first_token = time.monotonic()
        sure = tuple(TokenLogprob(logprob=0.0, top=((token_id, 0.0),)) for token_id in ids) if logprobs else None
        is_cancelled = self._append(Tokens(data=TokensData(index=self._tokens, ids=ids, text=text, logprobs=sure)))
        self._tokens += len(ids)
        if time.monotonic() >= self._show_at:
            self._seat.show_progress(self._held, self._tokens)
            self._show_at = time.monotonic() + PROGRESS_S
        return is_cancelled

    def _interrupted(self, interrupted: "Interrupted") -> GenerationResult | None:
        if interrupted.by == "cancelled":
            return self._end("cancelled", "cancelled")
        if interrupted.by == "timeout":
            how_long = f"the job took longer than its {self._timeout_s:g} s"
            return self.fail(JobTimeout(f"{how_long}: raise timeout_s or lower max_new_tokens"))
        return None

    def _end(
        self,
        status: Status,
        finish_reason: FinishReason,
        *,
        stop: str | None = None,
        error: ErrorInfo | None = None,
    ) -> GenerationResult:
        result = self._assembled(status, finish_reason, stop=stop, error=error, timings=self._timings())
        result = result.model_copy(update={"attempts": self.attempt, "worker": self._seat.name})
        self._append(terminal_event(result), result)
        return result

    def _append(self, event: Event, result: GenerationResult | None = None) -> bool:
        last = self._events[-1].id if self._events else BEFORE_FIRST
        event_id = EventId(self.attempt, last.seq + 1 if self._events else 0)
        ttl_s = TTL_S if result is None else kept_s(self._held.job)
        step = self._appender.append(
            last,
            [Entry.of(event_id, event)],
            ttl_s=ttl_s,
            result="" if result is None else data_json(terminal_event(result)),
        )
        appended = step.run(self._seat.client)
        if appended.answer != "ok":
            raise Lost
        self._events.append(StreamedEvent(event_id, event))
        return appended.cancel_requested

    def _assembled(self, status: Status, finish_reason: FinishReason, **more: Any) -> GenerationResult:
        return assemble(
            self.job_id, self._seat.model, self._events, status=status, finish_reason=finish_reason, **more
        )

    def _timings(self) -> Timings:
        queued_at = self._held.raw.get(b"queued_at_ms", b"")
        queued_ms = max(0.0, self._held.now_ms - float(queued_at)) if queued_at.isdigit() else None
        if self._first_token is None:
            return Timings(queued_ms=queued_ms)
        first_ms = 1000 * (self._first_token - self._began)
        decode_s = time.monotonic() - self._first_token
        decoded = self._tokens - self.resumed_tokens - 1
        return Timings(
            queued_ms=queued_ms,
            prefill_ms=first_ms,
            decode_ms=1000 * decode_s,
            time_to_first_token_ms=first_ms,
            tokens_per_second=decoded / decode_s if decoded > 0 and decode_s > 0 else None,
        )


def _markup(asked: Asked, answer: Answer) -> Markup | None:
    """As that of a model that thinks, where it does, and that knows tools."""
    thinks = asked.request.messages is not None and answer.text.lstrip().startswith(THINK)
    if not (thinks or asked.request.calls_tools):
        return None
    return Markup(
        tool_calls=TOOL_FORMAT if asked.request.calls_tools else None, reasoning="think" if thinks else None
    )


def raised(error: Exception) -> EngineError:
    """What a job fails of when the test's own function has raised."""
    return EngineError(f"the function that answers raised {type(error).__name__}: {error}")
