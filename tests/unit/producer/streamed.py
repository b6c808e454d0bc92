"""What a test reads off a stream."""

from collections.abc import Iterable

from producer import StreamedEvent


def texts_of(events: Iterable[StreamedEvent]) -> list[str]:
    """The text of each `tokens` event."""
    return [event.event.data.text for event in events if event.event.type == "tokens"]
