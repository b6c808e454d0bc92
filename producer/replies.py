"""What stands on Redis of a job, as far as it takes a word to read: anybody may have written it."""

from collections.abc import Sequence

from .contract import GenerationResult, GenqueueError, StartedData, StreamedEvent, TokensData, UnknownEvent
from .job_status import JobState

UNKNOWN_MODEL = "unknown"
"""Of a job of which nothing says its model."""
_MOST = 10**15


def model_of(events: Sequence[StreamedEvent | UnknownEvent]) -> str:
    """Of a job whose hash is gone."""
    known = (event.event.data for event in events if isinstance(event, StreamedEvent))
    return next((data.model for data in known if isinstance(data, StartedData | GenerationResult)), UNKNOWN_MODEL)


def stored_result(job_id: str, raw: bytes) -> GenerationResult:
    """The result in the string of that name.  Raises GenqueueError for what is none."""
    try:
        return GenerationResult.model_validate_json(raw)
    except ValueError:
        raise GenqueueError(
            f"what stands in place of the result of job {job_id} is none: submit it again under another id",
            job_id=job_id,
            hint="submit it again under another id",
        ) from None


def terminal_state(newest: StreamedEvent | UnknownEvent | None) -> JobState | None:
    """The state that the event ends the job in."""
    return newest.event.type if isinstance(newest, StreamedEvent) and newest.is_terminal else None  # type: ignore[return-value]


def positive_or_none(text: str | None) -> int | None:
    """A time in s or ms, of RQ's or ours. Of RQ's TTLs -1 means for ever, which no key of ours is kept.

    None for one beyond what Redis, and a float, can count with.
    """
    try:
        number = int(text or "")
    except ValueError:
        return None
    return number if 0 < number <= _MOST else None


def text_in(streamed: StreamedEvent) -> str:
    """The text of a `tokens` event, none of others.  Raises the job's error for an end that is no `finished`."""
    data = streamed.event.data
    if isinstance(data, GenerationResult):
        data.raise_for_status()
    return data.text if isinstance(data, TokensData) else ""
