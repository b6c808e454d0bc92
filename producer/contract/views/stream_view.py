"""A job's events in, the deltas of its message out. A reader begins with the first event, whatever it has seen."""

from ..events import Cancelled, Failed, Finished, Started, Tokens
from ..markup import Delta
from .draft import Part
from .message_view import MessageView


class StreamView:
    """One job's message, as its stream says it. Attempts beyond the first go on with it, and say nothing anew."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._view: MessageView | None = None

    def hear(self, event: Started | Tokens | Finished | Failed | Cancelled) -> Delta | None:
        """Take the next event; return what it adds to the message, None where that is nothing."""
        parts = self.hear_parts(event)
        return self._view.delta(parts) if self._view else None

    def hear_parts(self, event: Started | Tokens | Finished | Failed | Cancelled) -> list[Part]:
        """As `hear`, in pieces, in their order in the text."""
        if self._view is None:
            self._view = MessageView(self._job_id, event.data.markup if isinstance(event, Started) else None)
        match event:
            case Started():
                return []
            case Tokens(data=data):
                return self._view.push_parts(data.text)
            case _:
                return self._view.close_parts()
