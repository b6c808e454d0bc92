"""A hub's blocked reads of its streams, over a connection that is its own.

redis-py's client takes a connection out of its pool for each command, looks whether it still stands and measures
all of it, which for a stream that flows is more than the reading. And between two events such a stream costs the
server as much for the next read as for the append. So, where one stream flows, the next reads are sent ahead: ids
have no gap, so that the cursors of the next reads are known before their events are there. The server answers
them one after another.

A read that was sent ahead is taken where it begins no later than what is wanted now: then it brings all of that,
and perhaps an event again, which its subscriber passes over. Any other is given up, with its connection: so where
a read was over without an event, as the one behind it begins too late.

Knows redis-py, and nothing of who follows.
"""

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import redis

from .contract import EventId

AHEAD = 7
"""Reads that are sent with one."""
FLOWS_AFTER = 8
"""Reads, one after another, that have brought events of the same one stream."""
FRESH_S = 1.0
"""A connection that has been quiet for longer may have been closed by the other end."""

Fields = dict[bytes, bytes]
Reply = list[tuple[bytes, list[tuple[bytes, Fields]]]]


class BlockedReads:
    """Those of one hub.  client: whose pool the connection is taken from. For one thread."""

    def __init__(self, client: redis.Redis) -> None:
        self._pool: Any = client.connection_pool
        self._connection: Any = None
        self._sent: deque[dict[str, str]] = deque()
        """Reads that are yet to be answered, in order: their streams and cursors."""
        self._flowed = 0
        self._heard_at = 0.0

    def read(self, streams: dict[str, str], *, count: int, block_ms: int, may_run_ahead: bool) -> Reply:
        """What is new in the streams, behind each one's cursor; nothing once the block is over.

        may_run_ahead: whether the streams are a job's, and behind it one that only ends reads.
        Raises errors of Redis.
        """
        if self._sent and not _is_covered(streams, self._sent[0]):
            self.hang_up()
        try:
            if not self._sent:
                self._send(streams, count, block_ms, may_run_ahead=may_run_ahead)
            reply = self._connection.read_response()
        except BaseException:
            self.hang_up()
            raise
        self._sent.popleft()
        self._heard_at = time.monotonic()
        by_stream = _entries(reply)
        flows = may_run_ahead and [key.decode() for key, _ in by_stream] == [next(iter(streams))]
        self._flowed = self._flowed + 1 if flows else 0
        return by_stream

    def rest(self) -> None:
        """Nobody follows anything: what was sent ahead is given up."""
        if self._sent:
            self.hang_up()

    def hang_up(self) -> None:
        """The next read makes the connection anew, to wherever the address leads then."""
        self._sent.clear()
        self._flowed = 0
        if self._connection is not None:
            self._connection.disconnect()

    def _send(self, streams: dict[str, str], count: int, block_ms: int, *, may_run_ahead: bool) -> None:
        if self._connection is None:
            self._connection = self._pool.get_connection()
        elif time.monotonic() - self._heard_at > FRESH_S:
            self._check()
        self._connection.connect()  # here, and not within the send: it asks the Sentinels who is primary now
        reads = [streams]
        if may_run_ahead and self._flowed >= FLOWS_AFTER:
            reads += _ahead(streams)
        words = ("XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS")
        self._connection.send_packed_command(
            self._connection.pack_commands([(*words, *each, *each.values()) for each in reads])
        )
        self._sent += reads

    def _check(self) -> None:
        try:
            is_dirty = self._connection.can_read()
        except redis.ConnectionError:
            is_dirty = True
        if is_dirty:
            self.hang_up()


def _ahead(streams: dict[str, str]) -> list[dict[str, str]]:
    """The reads that follow on that one, if each brings one event of the first stream."""
    (key, cursor), *others = streams.items()
    attempt, seq = EventId.parse(cursor)
    return [{key: f"{attempt}-{seq + more}", **dict(others)} for more in range(1, AHEAD + 1)]


def _is_covered(wanted: dict[str, str], sent: dict[str, str]) -> bool:
    """Whether the read that was sent brings all that is wanted."""
    if wanted == sent:
        return True
    return wanted.keys() == sent.keys() and all(
        EventId.parse(cursor) <= EventId.parse(wanted[key]) for key, cursor in sent.items()
    )


def _entries(reply: Any) -> Reply:
    """In one form, whichever protocol the connection speaks."""
    if not reply:
        return []
    pairs = reply.items() if isinstance(reply, Mapping) else reply
    return [(key, [(entry_id, _fields(words)) for entry_id, words in entries]) for key, entries in pairs]


def _fields(words: list[bytes]) -> Fields:
    return dict(zip(words[::2], words[1::2], strict=True))
