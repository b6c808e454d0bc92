"""How whoever waits is woken: a subscriber by its hub, a hub's blocked read by an entry of its wake stream."""

import contextlib
import threading
import time
from queue import Empty, SimpleQueue
from typing import Any

import redis

from .broker.bounds import Bound, within
from .broker.connections import BLOCK_S

WAKE_TTL_S = 60
WAKES_KEPT = 1_000
"""Entries of a wake stream, about: many jobs may end before the next read. Whoever ends a job keeps as many."""
CLOSE_S = 0.3
"""What closing grants the read to end. It is told to at once; one that makes its connection hears it later."""


def wake(client: Any, key: str) -> Any:
    """End the read that includes this wake stream, with a client of either kind."""
    pipeline = client.pipeline(transaction=False)
    return pipeline.xadd(key, {"wake": ""}, maxlen=WAKES_KEPT).expire(key, WAKE_TTL_S).execute()


class ThreadSignal:
    """An Event of threading whose wait is a single call into C: Ctrl-C in the middle of Event.wait can surface as
    "RuntimeError: release unlocked lock". For one waiting thread."""

    def __init__(self) -> None:
        self._tickets: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Wake the subscriber."""
        if self._tickets.empty():  # one is enough; a second, put meanwhile, does no harm
            self._tickets.put(None)

    def clear(self) -> None:
        """Forget an earlier wake."""
        while not self._tickets.empty():
            self._tickets.get_nowait()

    def wait(self, timeout_s: float) -> None:
        """Return once set, or when the time is over."""
        with contextlib.suppress(Empty):
            self._tickets.get(timeout=timeout_s)


class Silence:
    """Whether a connection has been silent for so long that it may lead nowhere.

    After a fail-over behind one address the old server may keep its connections and hear of nothing any more: a
    blocked read on it would never end, and never fail.
    """

    def __init__(self) -> None:
        self._heard_at = time.monotonic()

    def is_suspect(self, reply: Any) -> bool:
        """Whether to make the connection anew, after a reply that may be empty."""
        now = time.monotonic()
        suspect = not reply and now - self._heard_at >= 0.9 * BLOCK_S
        if reply or suspect:
            self._heard_at = now
        return suspect


class Waker:
    """Sends wakes from a daemon thread, which starts with the first."""

    def __init__(self, client: redis.Redis, key: str) -> None:
        self._client = client
        self._key = key
        self._requests: SimpleQueue[bool] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def wake(self) -> None:
        """End the blocked read, soon."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="genqueue-waker", daemon=True)
            self._thread.start()
        if self._requests.empty():  # one that is still to be sent does for this one, too
            self._requests.put(True)

    def close(self) -> None:
        """End the thread, once it has done what it does. A wake that is still to be sent goes with it."""
        self._closed = True
        self._requests.put(False)
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while self._requests.get() and not self._closed:
            # Without the wake the read ends by itself a little later, when none is needed any more; a replica
            # refuses it. ValueError, AttributeError: redis-py's words for a client that another thread has closed.
            by = time.monotonic() + BLOCK_S
            with within(Bound(by, by)), contextlib.suppress(redis.RedisError, OSError, ValueError, AttributeError):
                wake(self._client, self._key)
