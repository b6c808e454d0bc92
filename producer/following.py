"""Who follows which stream from where: the pure half of a hub that serves many subscribers with one blocked read.

Knows cursors and inboxes, and nothing of threads, tasks or connections. The hub calls `next_read` and `deliver` in
turn; a subscription that is added, resumed or removed meanwhile says whether the blocked read must be ended.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from pydantic import ValidationError

from .contract import BEFORE_FIRST, EventId, GenqueueError, Keys, StreamedEvent, UnknownEvent, parse_entry

INBOX_LIMIT = 1024
"""Events that wait for a slow subscriber before its stream is left out of the read."""
READ_COUNT = 256
"""Entries taken from one stream at a time."""
RESUME_AT = INBOX_LIMIT // 2
"""A slow subscriber's stream is read on once its inbox has shrunk to this."""

Entries = Iterable[tuple[bytes, Mapping[bytes, bytes]]]


class Signal(Protocol):
    """What a waiting subscriber is woken with: the hub's, for a thread or for a task."""

    def set(self) -> None:
        """Wake the subscriber."""

    def clear(self) -> None:
        """Forget an earlier wake."""


class Subscription:
    """One subscriber's place in one stream."""

    def __init__(self, job_id: str, cursor: EventId, signal: Signal) -> None:
        self.job_id = job_id
        self.signal = signal
        self.cursor = cursor
        """Id of the last event put into the inbox."""
        self.error: Exception | None = None
        self.ended = False
        """The terminal event is in the inbox: nothing comes after it."""
        self.inbox: deque[StreamedEvent] = deque()

    @property
    def wants_more(self) -> bool:
        """Whether its stream should be read on."""
        return not self.ended and self.error is None and len(self.inbox) < INBOX_LIMIT

    def put_all(self, events: Iterable[StreamedEvent | UnknownEvent]) -> None:
        """Take the events that are newer than the cursor, as far as the inbox holds them.

        Stops at the first that finds it full: its subscriber empties it meanwhile, and an event taken after one
        that was not would leave a gap. The rest is read again, from the cursor.
        """
        for event in events:
            if event.id <= self.cursor:
                continue
            if not self.wants_more:
                return
            self.cursor = event.id
            if isinstance(event, UnknownEvent):
                continue  # of a later version: passed over, and not read again
            self.ended = event.is_terminal
            self.inbox.append(event)
            self.signal.set()

    def fail(self, error: Exception) -> None:
        """End it with an error, which the subscriber meets after the events in its inbox."""
        self.error = error
        self.signal.set()


class Subscriptions:
    """All subscriptions of one process. Not thread-safe: the hub guards it."""

    def __init__(self, keys: Keys, follower_id: str) -> None:
        self._keys = keys
        self.wake_key = keys.wake(follower_id)
        self._wake_cursor = "0-0"
        self._by_stream: dict[str, list[Subscription]] = {}
        self._reading: dict[str, EventId] | None = None
        """The read that goes on now: its streams and their cursors."""
        self._wake_sent = False

    def add(self, subscription: Subscription) -> bool:
        """Follow one stream more. Returns whether the blocked read must be ended for it."""
        self._by_stream.setdefault(self._keys.events(subscription.job_id), []).append(subscription)
        return self.resume(subscription)

    def remove(self, subscription: Subscription) -> bool:
        """Follow one less. Returns whether the blocked read must be ended: nobody is left to read for."""
        key = self._keys.events(subscription.job_id)
        left = [other for other in self._by_stream.get(key, []) if other is not subscription]
        if left:
            self._by_stream[key] = left
        else:
            self._by_stream.pop(key, None)
        return not self._by_stream and self._must_wake()

    def resume(self, subscription: Subscription) -> bool:
        """A subscriber takes events again. Returns whether the blocked read must be ended for it."""
        cursor = (self._reading or {}).get(self._keys.events(subscription.job_id))
        is_read = cursor is not None and cursor <= subscription.cursor
        return not is_read and self._must_wake()

    def next_read(self) -> dict[str, str]:
        """Streams to read next, each with the oldest cursor of its subscribers. Empty: nothing to wait for."""
        cursors: dict[str, EventId] = {}
        for key, subscriptions in self._by_stream.items():
            wanting = [subscription.cursor for subscription in subscriptions if subscription.wants_more]
            if wanting:
                cursors[key] = min(wanting)
        self._reading = cursors or None
        self._wake_sent = False
        if not cursors:
            return {}
        return {**{key: str(cursor) for key, cursor in cursors.items()}, self.wake_key: self._wake_cursor}

    def deliver(self, reply: Sequence[tuple[bytes, Entries]]) -> None:
        """Hand the entries of one read to their subscribers."""
        reading, self._reading = self._reading or {}, None
        for key, entries in reply:
            stream = key.decode()
            if stream == self.wake_key:
                self._wake_cursor = max((entry_id.decode() for entry_id, _ in entries), key=EventId.parse)
            else:
                # One that came during the read with an older cursor would miss what lies between: the next read
                # begins with it.
                after = reading.get(stream, BEFORE_FIRST)
                due = [each for each in self._by_stream.get(stream, []) if each.cursor >= after]
                self._deliver_stream(due, entries)

    def read_failed(self) -> None:
        """The read ended without a reply."""
        self._reading = None

    def fail_all(self, error: Exception) -> None:
        """End every subscription with an error."""
        for subscriptions in self._by_stream.values():
            for subscription in subscriptions:
                subscription.fail(error)

    def _must_wake(self) -> bool:
        must = self._reading is not None and not self._wake_sent
        self._wake_sent = self._wake_sent or must
        return must

    @staticmethod
    def _deliver_stream(subscriptions: Sequence[Subscription], entries: Entries) -> None:
        events: list[StreamedEvent | UnknownEvent] = []
        error: GenqueueError | None = None
        for entry_id, fields in entries:
            try:
                events.append(parse_entry(entry_id, fields))
            except (ValidationError, KeyError, UnicodeDecodeError):
                error = GenqueueError(
                    f"the stream's entry {entry_id.decode()} is no event of contract version 1: producer and "
                    "worker must speak the same version"
                )
                break
        for subscription in subscriptions:
            subscription.put_all(events)
            if error is not None and subscription.wants_more:
                subscription.fail(error)
