"""Who follows which stream from where: the pure half of a hub that serves many subscribers with one blocked read.

Knows cursors and inboxes, and nothing of threads, tasks or connections. The hub calls `next_read` and `deliver` in
turn; a subscription that is added, resumed or removed meanwhile says whether the blocked read must be ended.

Who wants nothing but a job's end would be woken by each of its tokens, and each read would name all the jobs that
are waited for. So where more than a few are, their streams are cold: left out of the read until an entry of this
process's wake stream says that the job has ended. Whoever ends a job writes it there (`Keys.waiters`); for those
who do not know of it, and for what got lost, the cold streams are looked at in turn every few seconds.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Protocol

from .contract import BEFORE_FIRST, EventId, GenqueueError, Keys, StreamedEvent, UnknownEvent, parse_entry

INBOX_LIMIT = 1024
"""Events that wait for a slow subscriber before its stream is left out of the read."""
READ_COUNT = 256
"""Entries taken from one stream at a time."""
RESUME_AT = INBOX_LIMIT // 2
"""A slow subscriber's stream is read on once its inbox has shrunk to this."""
FEW = 8
"""So many ends that are waited for are read along: that costs next to nothing, and nobody need announce them."""
CHECK_EVERY_S = 1.0
"""Between two looks at cold streams, at least."""
CHECKS_PER_S = 250
"""Cold streams looked at, on average."""
CHECK_AT_MOST = 1000
"""Cold streams in one read."""
ENDED = b"ended"
"""Field of an entry of the wake stream: the id of a job that has ended."""

Entries = Iterable[tuple[bytes, Mapping[bytes, bytes]]]


class Signal(Protocol):
    """What a waiting subscriber is woken with: the hub's, for a thread or for a task."""

    def set(self) -> None:
        """Wake the subscriber."""

    def clear(self) -> None:
        """Forget an earlier wake."""


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
            if self.ended or not self.only_end:
                self.inbox.append(event)
                self.signal.set()

    def fail(self, error: Exception) -> None:
        """End it with an error, which the subscriber meets after the events in its inbox."""
        self.error = error
        self.signal.set()


class Subscriptions:
    """All subscriptions of one process. Not thread-safe: the hub guards it.  now_s: of time.monotonic()."""

    def __init__(self, keys: Keys, follower_id: str) -> None:
        self._keys = keys
        self.wake_key = keys.wake(follower_id)
        self._wake_cursor = "0-0"
        self._by_stream: dict[str, list[Subscription]] = {}
        self._hot: dict[str, None] = {}
        """Streams in every read, in the order in which they came."""
        self._cold = ColdStreams()
        self._reading: dict[str, EventId] | None = None
        """The read that goes on now: its streams and their cursors."""
        self._wake_sent = False

    def add(self, subscription: Subscription) -> bool:
        """Follow one stream more. Returns whether the blocked read must be ended for it."""
        key = self._keys.events(subscription.job_id)
        self._by_stream.setdefault(key, []).append(subscription)
        if subscription.only_end and key not in self._hot:
            self._cold.add(key)
            return self._cold.are_few and self.resume(subscription)
        self._heat(key)
        return self.resume(subscription)

    def remove(self, subscription: Subscription) -> bool:
        """Follow one less. Returns whether the blocked read must be ended: nobody is left to read for."""
        key = self._keys.events(subscription.job_id)
        left = [other for other in self._by_stream.get(key, []) if other is not subscription]
        if left:
            self._by_stream[key] = left
            self._cool(key)
        else:
            self._by_stream.pop(key, None)
            self._hot.pop(key, None)
            self._cold.discard(key)
        return not self._by_stream and self._must_wake()

    def resume(self, subscription: Subscription) -> bool:
        """A subscriber takes events again. Returns whether the blocked read must be ended for it."""
        cursor = (self._reading or {}).get(self._keys.events(subscription.job_id))
        is_read = cursor is not None and cursor <= subscription.cursor
        return not is_read and self._must_wake()

    def next_read(self, now_s: float = 0.0) -> dict[str, str]:
        """Streams to read next, each with the oldest cursor of its subscribers. Empty: nothing to wait for."""
        cursors: dict[str, EventId] = {}
        for key in (*self._hot, *self._cold.due(now_s)):
            wanting = [each.cursor for each in self._by_stream[key] if each.wants_more]
            if wanting:
                cursors[key] = min(wanting)
        is_waited_for = bool(cursors or self._cold)
        self._reading = cursors if is_waited_for else None
        self._wake_sent = False
        if not is_waited_for:
            return {}
        return {**{key: str(cursor) for key, cursor in cursors.items()}, self.wake_key: self._wake_cursor}

    def block_s(self, now_s: float, longest_s: float) -> float:
        """How long the next read may block, so that cold streams are looked at in time."""
        return min(longest_s, self._cold.next_check_in_s(now_s))

    def deliver(self, reply: Sequence[tuple[bytes, Entries]]) -> None:
        """Hand the entries of one read to their subscribers."""
        reading, self._reading = self._reading or {}, None
        for key, raw in reply:
            stream, entries = key.decode(), list(raw)
            if stream == self.wake_key:
                self._hear(entries)
                continue
            # One that came during the read with an older cursor would miss what lies between: the next read begins
            # with it.
            after = reading.get(stream, BEFORE_FIRST)
            due = [each for each in self._by_stream.get(stream, []) if each.cursor >= after]
            self._deliver_stream(due, entries)
            if len(entries) >= READ_COUNT and stream in self._cold:
                self._cold.check_again(stream)  # there may be more, and the end among it

    def read_failed(self) -> None:
        """The read ended without a reply: what was announced may have been lost, with the wake stream itself."""
        self._reading = None
        self._wake_cursor = "0-0"
        self._cold.check_all()

    def fail_all(self, error: Exception) -> None:
        """End every subscription with an error."""
        for subscriptions in self._by_stream.values():
            for subscription in subscriptions:
                subscription.fail(error)

    def _hear(self, entries: Entries) -> None:
        """Take what the wake stream says. A wake that says nothing has done its work by ending the read."""
        for entry_id, fields in entries:
            self._wake_cursor = entry_id.decode()
            if ENDED in fields:
                key = self._keys.events(fields[ENDED].decode(errors="replace"))
                if key in self._cold:
                    self._heat(key)

    def _heat(self, key: str) -> None:
        self._cold.discard(key)
        self._hot[key] = None

    def _cool(self, key: str) -> None:
        """Whoever wanted more than the end has left: the stream need not be read on."""
        if key in self._hot and all(each.only_end for each in self._by_stream[key]):
            del self._hot[key]
            self._cold.add(key)
            self._cold.check_again(key)  # it may have been announced while it was hot

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
                events.append(event_in(entry_id, fields))
            except GenqueueError as fault:
                error = fault
                break
        for subscription in subscriptions:
            subscription.put_all(events)
            if error is not None and subscription.wants_more:
                subscription.fail(error)


def event_in(entry_id: bytes, fields: Mapping[bytes, bytes]) -> StreamedEvent | UnknownEvent:
    """The event in an entry of a stream.  Raises GenqueueError for what is none: anybody could have written it."""
    try:
        return parse_entry(entry_id, fields)
    except (KeyError, ValueError):
        # From None: the error within would quote what stands there.
        raise GenqueueError(
            f"the stream's entry {entry_id.decode()} is no event of contract version 1: producer and worker must "
            "speak the same version"
        ) from None


class ColdStreams:
    """Streams that are left out of the read, and when each is looked at all the same."""

    def __init__(self) -> None:
        self._streams: dict[str, None] = {}
        """In the order in which they are looked at next."""
        self._at_once: dict[str, None] = {}
        """Those that are looked at with the next read."""
        self._next_check_s = 0.0

    def __contains__(self, key: str) -> bool:
        return key in self._streams

    def __bool__(self) -> bool:
        return bool(self._streams)

    @property
    def are_few(self) -> bool:
        """So few that every read looks at them all."""
        return len(self._streams) <= FEW

    def add(self, key: str) -> None:
        """Leave that one out."""
        self._streams.setdefault(key)

    def discard(self, key: str) -> None:
        """Leave it out no more."""
        self._streams.pop(key, None)
        self._at_once.pop(key, None)

    def check_again(self, key: str) -> None:
        """Look at that one with the next read."""
        self._at_once[key] = None

    def check_all(self) -> None:
        """Look at all of them, as many with each of the next reads as go into one."""
        self._at_once = dict(self._streams)

    def due(self, now_s: float) -> list[str]:
        """Those to look at in a read that begins now."""
        if self.are_few:
            self._at_once.clear()
            return list(self._streams)
        if self._at_once:
            due = list(islice(self._at_once, CHECK_AT_MOST))
            for key in due:
                del self._at_once[key]
            return due
        if now_s < self._next_check_s:
            return []
        due = list(islice(self._streams, CHECK_AT_MOST))
        for key in due:  # to the end of the line
            del self._streams[key]
            self._streams[key] = None
        self._next_check_s = now_s + max(CHECK_EVERY_S, len(due) / CHECKS_PER_S)
        return due

    def next_check_in_s(self, now_s: float) -> float:
        """Until the next look. Infinite where every read is one, or none is needed."""
        if self.are_few:
            return float("inf")
        return 0.0 if self._at_once else max(0.0, self._next_check_s - now_s)
