"""Rows as there is room for them, read on a thread: a slow pipe, or a long way to the first open row, holds up
nothing else, Ctrl-C least of all.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator

from .rows import Row

AHEAD = 64
"""Rows that are read before they are asked for."""


class Feed:
    """Of one event loop.  on_change: called on it when there is a row, or an end."""

    def __init__(self, rows: Iterator[Row | None], on_change: Callable[[], None]) -> None:
        self._rows = rows
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._room = threading.Semaphore(AHEAD)
        self._ready: deque[Row] = deque()
        self._has_ended = False
        self._error: BaseException | None = None
        self._is_closed = False
        threading.Thread(target=self._read, name="genqueue-batch-input", daemon=True).start()

    @property
    def is_over(self) -> bool:
        """Whether every row has been taken.  Raises what reading has raised, after the rows before it."""
        if self._ready or not self._has_ended:
            return False
        if self._error is not None:
            raise self._error
        return True

    def take(self) -> Row | None:
        """The next row; None where none is there yet."""
        if not self._ready:
            return None
        self._room.release()
        return self._ready.popleft()

    def close(self) -> None:
        """No more rows are wanted: the thread ends with the one that it reads."""
        self._is_closed = True
        self._room.release()

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            for row in self._rows:
                if row is not None:
                    self._room.acquire()
                    if self._is_closed:
                        return
                    self._loop.call_soon_threadsafe(self._put, row)
        except Exception as caught:  # noqa: BLE001 - it is raised where the rows are taken
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody takes any more
            self._loop.call_soon_threadsafe(self._end, error)

    def _put(self, row: Row) -> None:
        self._ready.append(row)
        self._on_change()

    def _end(self, error: BaseException | None) -> None:
        self._has_ended, self._error = True, error
        self._on_change()
