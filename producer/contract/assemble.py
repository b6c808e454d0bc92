"""What a job's events add up to: the GenerationResult that a worker or a producer ends it with.

Pure: knows events and results, and nothing of where they are kept.
"""

from collections.abc import Iterable

from .events import Event, Started, StreamedEvent, Tokens, UnknownEvent
from .results import ErrorInfo, FinishReason, GenerationResult, Status, Timings, Usage
from .views.message_view import parts_of


def assemble(
    job_id: str,
    model: str,
    events: Iterable[StreamedEvent | UnknownEvent | Event],
    *,
    status: Status,
    finish_reason: FinishReason,
    error: ErrorInfo | None = None,
    stop: str | None = None,
    seed: int | None = None,
    cached_tokens: int = 0,
    timings: Timings | None = None,
) -> GenerationResult:
    """Join the events of all attempts, in the order of the stream, to the result that they amount to.

    Text and ids are those of every `tokens` event; worker and prompt length those of the last `started`.
    `attempts` counts the workers that took the job: 0 when none did. `seed` overrides the one in the events.
    What of the text is content, reasoning and calls is as the first `started` says; text that stops behind a call
    has stopped for its sake.
    """
    known = (item for item in events if not isinstance(item, UnknownEvent))
    plain = [item.event if isinstance(item, StreamedEvent) else item for item in known]
    tokens = [event.data for event in plain if isinstance(event, Tokens)]
    started = [event.data for event in plain if isinstance(event, Started)]
    last = started[-1] if started else None
    token_ids = tuple(token_id for data in tokens for token_id in data.ids)
    text = "".join(data.text for data in tokens)
    parts = parts_of(job_id, started[0].markup if started else None, text)
    return GenerationResult(
        job_id=job_id,
        status=status,
        model=model,
        text=text,
        token_ids=token_ids,
        finish_reason="tool_calls" if parts.tool_calls and finish_reason == "stop" else finish_reason,
        stop=stop,
        seed=seed if seed is not None or last is None else last.seed,
        usage=Usage(
            prompt_tokens=last.prompt_tokens if last else 0,
            completion_tokens=len(token_ids),
            cached_tokens=cached_tokens,
        ),
        timings=timings or Timings(),
        attempts=last.attempt if last else 0,
        worker=last.worker if last else None,
        error=error,
        content=None if parts.content == text else parts.content,
        reasoning=parts.reasoning,
        tool_calls=parts.tool_calls or None,
    )
