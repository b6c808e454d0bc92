"""Who follows which stream from where: the pure half of a hub that serves many subscribers with one blocked read.

Knows cursors and inboxes, and of threads, tasks and connections nothing but a lock. The hub calls `next_read` and
`deliver` in turn; a subscription that is added, resumed or removed meanwhile says whether the blocked read must be
ended.

Who wants nothing but a job's end would be woken by each of its tokens, and each read would name all the jobs that
are waited for. So their streams are cold: left out of the read until an entry of the hub's wake stream says that
the job has ended. Whoever ends a job writes it there (`Keys.waiters`). For those who do not know of it, and for
what got lost, the cold streams are looked at in turn every few seconds. Streams that have a bell (`bells`) are
left out likewise, until it rings.
"""

from collections.abc import Iterable, Mapping

from .cold_streams import ColdStreams
from .contract import BEFORE_FIRST, EventId, GenqueueError, Keys, StreamedEvent, UnknownEvent, parse_entry
from .subscription import BadEntry, Subscription

READ_COUNT = 128
"""Entries taken from one stream at a time."""
ENDED = b"ended"
"""Field of an entry of the wake stream: the id of a job that has ended."""

Entries = Iterable[tuple[bytes, Mapping[bytes, bytes]]]


class Subscriptions:
    """All subscriptions of one hub. Not thread-safe: the hub guards it.  now_s: of time.monotonic()."""

    def __init__(self, keys: Keys, follower_id: str) -> None:
        self._keys = keys
        self.wake_key = keys.wake(follower_id)
        self._wake_cursor = "0-0"
        self._by_stream: dict[str, list[Subscription]] = {}
        self._hot: dict[str, None] = {}
        """Streams in every read, in the order in which they came."""
        self._cold = ColdStreams()
        self._rung = ColdStreams()
        """Streams that have a bell."""
        self._reading: dict[str, EventId] | None = None
        """The read that goes on now: its streams and their cursors."""
        self._wake_sent = False

    def add(self, subscription: Subscription) -> bool:
        """Follow one stream more. Returns whether the blocked read must be ended for it."""
        key = self._keys.events(subscription.job_id)
        self._by_stream.setdefault(key, []).append(subscription)
        if subscription.only_end and not self._is_read(key):
            self._cold.add(key)
            return False  # its end ends the read
        if key not in self._rung:
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
            self._rung.discard(key)
        return not self._by_stream and self._must_wake()

    def resume(self, subscription: Subscription) -> bool:
        """A subscriber takes events again. Returns whether the blocked read must be ended for it."""
        key = self._keys.events(subscription.job_id)
        if key in self._rung:
            self._rung.check_again(key)
        cursor = (self._reading or {}).get(key)
        is_read = cursor is not None and cursor <= subscription.cursor
        return not is_read and self._must_wake()

    def next_read(self, now_s: float = 0.0) -> dict[str, str]:
        """Streams to read next, each with the oldest cursor of its subscribers. Empty: nothing to wait for."""
        cursors: dict[str, EventId] = {}
        for key in (*self._hot, *self._cold.due(now_s), *self._rung.due(now_s)):
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

    @property
    def follows_one(self) -> bool:
        """Whether one stream is read, and nothing else looked at."""
        return len(self._hot) == 1 and not self._cold and not self._rung

    @property
    def have_bells(self) -> bool:
        """Whether a read that blocks would miss what is new."""
        return bool(self._rung)

    @property
    def hot_jobs(self) -> list[str]:
        """Jobs whose streams are in every read."""
        return [self._by_stream[key][0].job_id for key in self._hot]

    def reads(self, job_id: str) -> bool:
        """Whether somebody wants more of that job than its end."""
        return self._is_read(self._keys.events(job_id))

    def hang_bell(self, key: str) -> bool:
        """From now on it rings when something is new in the stream; what came before is read once more.

        Returns whether the blocked read must be ended.
        """
        if key in self._hot:
            del self._hot[key]
            self._rung.add(key)
        return self.ring(key)

    def ring(self, key: str) -> bool:
        """Something is new in the stream. Returns whether the blocked read must be ended."""
        if key not in self._rung:
            return False
        self._rung.check_again(key)
        return self._must_wake()

    def lose_bells(self) -> bool:
        """None rings any more. Returns whether the blocked read must be ended."""
        for key in list(self._rung):
            self._rung.discard(key)
            self._hot[key] = None
        return bool(self._hot) and self._must_wake()

    def due_in_s(self, now_s: float, look_s: float) -> float:
        """With bells, how long nothing needs to be read.  look_s: as often is what has none looked at."""
        silent_s = look_s if self._hot or self._cold else float("inf")
        return min(silent_s, self._cold.next_check_in_s(now_s), self._rung.next_check_in_s(now_s))

    def deliver(self, reply: Iterable[tuple[bytes, Entries]]) -> None:
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
            events = [read_entry(*entry) for entry in entries]
            for subscription in self._by_stream.get(stream, []):
                if subscription.cursor >= after:
                    subscription.put_all(events)
            for left_out in (self._cold, self._rung):
                if len(entries) >= READ_COUNT and stream in left_out:
                    left_out.check_again(stream)  # there may be more, and the end among it

    def read_failed(self) -> None:
        """The read ended without a reply: what was announced may have been lost, with the wake stream itself."""
        self._reading = None
        self._wake_cursor = "0-0"
        self._cold.check_all()
        self._rung.check_all()

    def fail_all(self, error: Exception) -> None:
        """End every subscription with an error."""
        for subscriptions in self._by_stream.values():
            for subscription in subscriptions:
                subscription.fail(error)

    def fail_streams(self, keys: Iterable[str]) -> bool:
        """End those who follow what is no stream, so that it ends nobody else's read. Whether there were any.

        A gateway tells its clients so: where the server is, is none of theirs.
        """
        failed = [each for key in keys for each in self._by_stream.get(key, [])]
        for subscription in failed:
            subscription.fail(
                GenqueueError(
                    f"what stands in place of the events of job {subscription.job_id} is no stream: "
                    "submit it again under another id",
                    hint="submit it again under another id",
                )
            )
        return bool(failed)

    def _hear(self, entries: Entries) -> None:
        """Take what the wake stream says. A wake that says nothing has done its work by ending the read."""
        for entry_id, fields in entries:
            self._wake_cursor = entry_id.decode()
            if ENDED in fields:
                key = self._keys.events(fields[ENDED].decode(errors="replace"))
                if key in self._cold:
                    self._heat(key)
                    for subscription in self._by_stream[key]:
                        subscription.is_announced = True
                        subscription.signal.set()

    def _is_read(self, key: str) -> bool:
        return key in self._hot or key in self._rung

    def _heat(self, key: str) -> None:
        self._cold.discard(key)
        self._hot[key] = None

    def _cool(self, key: str) -> None:
        """Whoever wanted more than the end has left: the stream need not be read on."""
        if self._is_read(key) and all(each.only_end for each in self._by_stream[key]):
            self._hot.pop(key, None)
            self._rung.discard(key)
            self._cold.add(key)
            self._cold.check_again(key)  # it may have been announced while it was hot

    def _must_wake(self) -> bool:
        must = self._reading is not None and not self._wake_sent
        self._wake_sent = self._wake_sent or must
        return must


def read_entry(entry_id: bytes, fields: Mapping[bytes, bytes]) -> StreamedEvent | UnknownEvent | BadEntry:
    """As `event_in`, without raising."""
    try:
        return event_in(entry_id, fields)
    except GenqueueError as error:
        return BadEntry(EventId.parse(entry_id), error)


def event_in(
    entry_id: bytes, fields: Mapping[bytes, bytes], job_id: str | None = None
) -> StreamedEvent | UnknownEvent:
    """The event in an entry of a stream.  Raises GenqueueError for what is none: anybody could have written it."""
    try:
        return parse_entry(entry_id, fields)
    except (KeyError, ValueError):
        # From None: the error within would quote what stands there.
        raise GenqueueError(
            f"the stream's entry {entry_id.decode()} is no event of contract version 1: producer and worker must "
            "speak the same version",
            job_id=job_id,
            hint="use producers and workers that speak the same version",
        ) from None
