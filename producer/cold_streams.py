"""Streams that a read leaves out, as it is said when something is new: when each is looked at all the same.

Pure: `following` says why there are any.
"""

from collections.abc import Iterator
from itertools import islice

CHECK_EVERY_S = 1.0
"""Between two looks at cold streams, at least."""
CHECKS_PER_S = 250
"""Cold streams looked at, on average."""
CHECK_AT_MOST = 1000
"""Cold streams in one read."""


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

    def __iter__(self) -> Iterator[str]:
        return iter(self._streams)

    def __bool__(self) -> bool:
        return bool(self._streams)

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
        due = list(islice(self._at_once, CHECK_AT_MOST))
        for key in due:
            del self._at_once[key]
        if now_s < self._next_check_s or len(due) == CHECK_AT_MOST:
            return due
        in_turn = list(islice(self._streams, CHECK_AT_MOST - len(due)))
        for key in in_turn:  # to the end of the line
            del self._streams[key]
            self._streams[key] = None
        self._next_check_s = now_s + max(CHECK_EVERY_S, len(in_turn) / CHECKS_PER_S)
        return list(dict.fromkeys((*due, *in_turn)))

    def next_check_in_s(self, now_s: float) -> float:
        """Until the next look. Infinite where none is needed."""
        if not self._streams:
            return float("inf")
        return 0.0 if self._at_once else max(0.0, self._next_check_s - now_s)
