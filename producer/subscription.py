"""One subscriber's place in one stream, and its inbox: what is taken once, in order, and never without bound."""

import copy
import threading
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from .contract import EventId, GenqueueError, StreamedEvent, UnknownEvent

INBOX_LIMIT = 256
"""Events that wait for a slow subscriber before its stream is left out of the read."""
RESUME_AT = INBOX_LIMIT // 2
"""A slow subscriber's stream is read on once its inbox has shrunk to this."""


class Signal(Protocol):
    """What a waiting subscriber is woken with: the hub's, for a thread or for a task."""

    def set(self) -> None:
        """Wake the subscriber."""

    def clear(self) -> None:
        """Forget an earlier wake."""


class BadEntry(NamedTuple):
    """An entry of a stream that is no event."""

    id: EventId
    error: GenqueueError


class Subscription:
    """One subscriber's place in one stream.  only_end: nothing but the terminal event is wanted."""

    def __init__(self, job_id: str, cursor: EventId, signal: Signal, *, only_end: bool = False) -> None:
        self.job_id = job_id
        self.signal = signal
        self.cursor = cursor
        """Id of the last event that was taken."""
        self.only_end = only_end
        self.error: Exception | None = None
        self.ended = False
        """The terminal event is in the inbox: nothing comes after it."""
        self.is_announced = False
        """Its end was announced, and the subscriber has yet to hear of that."""
        self.inbox: deque[StreamedEvent] = deque()
        self._putting = threading.Lock()
        """Beside the hub, the subscriber itself may read what no wake has told the hub of."""

    @property
    def has_news(self) -> bool:
        """Whether there is something for the subscriber."""
        return bool(self.inbox) or self.error is not None or self.is_announced

    @property
    def wants_more(self) -> bool:
        """Whether its stream should be read on."""
        return not self.ended and self.error is None and len(self.inbox) < INBOX_LIMIT

    def put_all(self, events: Iterable[StreamedEvent | UnknownEvent | BadEntry]) -> None:
        """Take the events that are newer than the cursor, as far as the inbox holds them. A bad entry ends it.

        Stops at the first that finds it full: its subscriber empties it meanwhile, and an event taken after one
        that was not would leave a gap. The rest is read again, from the cursor.
        """
        with self._putting:
            self._put_all(events)

    def _put_all(self, events: Iterable[StreamedEvent | UnknownEvent | BadEntry]) -> None:
        for event in events:
            if event.id <= self.cursor:
                continue
            if not self.wants_more:
                return
            if isinstance(event, BadEntry):
                self.fail(event.error)
                return
            # An event of a later version is passed over, and not read again.
            if isinstance(event, StreamedEvent):
                self.ended = event.is_terminal
                if self.ended or not self.only_end:
                    self.inbox.append(event)
            self.cursor = event.id  # last: whoever sees it finds the event in the inbox
            if self.inbox:
                self.signal.set()

    def fail(self, error: Exception) -> None:
        """End it with an error like that one, which the subscriber meets after the events in its inbox."""
        self.error = _own(error, self.job_id)
        self.signal.set()


def _own(error: Exception, job_id: str) -> Exception:
    """A copy for one of the many who raise it: one object would show each where the others were."""
    try:
        own = copy.copy(error).with_traceback(error.__traceback__)
    except TypeError:  # some classes cannot be copied, and nobody may be left to wait because of it
        return error
    own.__cause__ = error.__cause__
    if isinstance(own, GenqueueError) and own.job_id is None:
        own.job_id = job_id
    return own
