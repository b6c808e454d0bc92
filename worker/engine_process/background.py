"""Work on a thread beside the one that serves the socket, for what can take long and cannot be interrupted.

That is tokenizing: minutes for a text of millions of characters, in which the tokenizer lets go of the interpreter
lock. Nothing of torch runs here.
"""

import contextlib
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """Does one thing after the other. What is given up is not begun, or runs on to its end while the next waits:
    so nothing piles up."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="background")
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._last: Future[Any] | None = None

    def fileno(self) -> int:
        """A descriptor that can be read from when something has been done, for `select.poll`."""
        return self._woken.fileno()

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, or waits for its turn."""
        return self._last is None or self._last.done()

    def begin(self, work: Callable[[], T]) -> "Future[T]":
        """Do this as soon as what came before is done. To give it up, cancel it."""
        self._last = future = self._executor.submit(work)
        future.add_done_callback(self._notify)
        return future

    def hear(self) -> None:
        """Take note of what has been done, so that the descriptor tells of what comes next."""
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(64):
                pass

    def close(self) -> None:
        """Begin nothing more. What runs on is not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._woken.close()
        self._wake.close()

    def _notify(self, _: "Future[Any]") -> None:
        with contextlib.suppress(OSError):  # closed: nobody wants to know
            self._wake.send(b"\0")
