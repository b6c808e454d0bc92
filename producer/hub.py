"""One blocked read for all streams that a producer follows: the I/O half of `following`, on a thread.

A wake stream of its own ends the blocked read when a job is added; it costs nothing while nothing changes.
Nobody waits for a wake to arrive, nor for the read to end: a server that does not answer holds up no subscriber.
"""

import contextlib
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import redis

from .blocked_reads import BlockedReads
from .broker.advice import broker_unavailable, is_transient
from .broker.bounds import close_now, drop_idle, is_bounded
from .broker.connections import BLOCK_S, address, block_ms
from .broker.meaning import is_wrong_type
from .contract import EventId, Keys
from .following import READ_COUNT, Subscriptions
from .subscription import RESUME_AT, Signal, Subscription
from .waking import CLOSE_S, Silence, ThreadSignal, Waker

RETRY_S = 0.2
"""Between two tries while Redis is away."""
CLOSED = "the producer was closed while its stream was read"


def ask_first(client: Any, streams: Iterable[str]) -> Any:
    """The first entry of each, or the error in its place."""
    pipeline = client.pipeline(transaction=False)
    for stream in streams:
        pipeline.xrange(stream, count=1)
    return pipeline.execute(raise_on_error=False)


def strays_of(streams: Iterable[str], replies: Iterable[Any]) -> list[str]:
    """Those of the streams whose reply says that they are none."""
    pairs = zip(streams, replies, strict=True)
    return [stream for stream, reply in pairs if isinstance(reply, redis.RedisError) and is_wrong_type(reply)]


class Hub:
    """Follows streams on a daemon thread, which starts with the first subscriber.

    owns_clients: the blocking client is used by nobody else, so that its connections may be dropped.
    """

    def __init__(
        self, client: redis.Redis, blocking_client: redis.Redis, keys: Keys, *, owns_clients: bool = False
    ) -> None:
        self._blocking_client = blocking_client
        self._owns_clients = owns_clients
        self._reads = BlockedReads(blocking_client) if owns_clients and is_bounded(blocking_client) else None
        self._subscriptions = Subscriptions(keys, uuid.uuid4().hex)
        self._waker = Waker(client, self.wake_key)
        self._silence = Silence()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def wake_key(self) -> str:
        """The wake stream of this hub."""
        return self._subscriptions.wake_key

    @contextlib.contextmanager
    def following(
        self, job_id: str, cursor: EventId, *, only_end: bool = False, signal: Signal | None = None
    ) -> Iterator[Subscription]:
        """A subscription to the events after the cursor, or to the end alone, for as long as the block runs.

        signal: in place of one that `wait` waits for. It is set from the hub's thread.
        """
        subscription = Subscription(job_id, cursor, signal or ThreadSignal(), only_end=only_end)
        with self._changed:
            must_wake = self._subscriptions.add(subscription)
            if self._closed:
                subscription.fail(RuntimeError(CLOSED))
            else:
                self._ensure_thread()
            self._changed.notify()
        try:
            self._wake_if(must_wake)
            yield subscription
        finally:
            with self._changed:
                must_wake = self._subscriptions.remove(subscription)
            self._wake_if(must_wake)

    def wait(self, subscription: Subscription, timeout_s: float) -> None:
        """Return when something is in the inbox, or when the time is over."""
        signal = subscription.signal
        assert isinstance(signal, ThreadSignal)
        signal.clear()
        if not subscription.has_news:
            signal.wait(timeout_s)

    def resume(self, subscription: Subscription) -> None:
        """To be called after each event taken: reads on for a subscriber that was too slow."""
        if len(subscription.inbox) != RESUME_AT:
            return
        with self._changed:
            must_wake = self._subscriptions.resume(subscription)
            self._changed.notify()
        self._wake_if(must_wake)

    def close(self) -> None:
        """End the thread; every subscriber gets an error. Waits for no answer of Redis."""
        with self._changed:
            self._closed = True
            self._subscriptions.fail_all(RuntimeError(CLOSED))
            self._changed.notify()
        if self._thread is not None and self._thread.is_alive():
            self._end_read(self._thread)
        self._waker.close()

    def _end_read(self, thread: threading.Thread) -> None:
        self._waker.wake()
        deadline = time.monotonic() + CLOSE_S
        while thread.is_alive() and time.monotonic() < deadline:
            if self._owns_clients:
                # It shuts the socket down, which ends a read at once; again, for one that was only about to begin.
                close_now(self._blocking_client)
            thread.join(0.02)

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="genqueue-hub", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            while streams := self._next_read():
                self._read(streams)
            self._let_go()
        except Exception as error:
            with self._changed:
                self._let_go()
                if self._closed:  # redis-py's words for a connection that was closed under it are many
                    return
                self._thread = None  # whoever comes from here on needs another
                self._subscriptions.fail_all(error)
            raise

    def _let_go(self) -> None:
        """Of the connection, also of one that was made while the producer was closed."""
        if self._reads is not None:
            self._reads.hang_up()

    def _next_read(self) -> dict[str, str]:
        """Wait until there is something to follow. Empty once closed."""
        with self._changed:
            while not self._closed:
                if streams := self._subscriptions.next_read(time.monotonic()):
                    return streams
                if self._reads is not None:
                    self._reads.rest()
                self._changed.wait()
        return {}

    def _read(self, streams: dict[str, str]) -> None:
        client = self._blocking_client
        block = block_ms(client, self._subscriptions.block_s(time.monotonic(), BLOCK_S))
        try:
            reply = self._xread(streams, block)
        except redis.RedisError as error:
            strays = self._strays(streams) if is_wrong_type(error) else []
            with self._changed:
                self._subscriptions.read_failed()
                if not self._subscriptions.fail_streams(strays) and not is_transient(error):
                    self._subscriptions.fail_all(broker_unavailable(error, address(client)))
            self._drop()  # a server that was demoted keeps its connections, and they lead nowhere
            with self._changed:
                self._changed.wait_for(lambda: self._closed, RETRY_S)
        else:
            with self._changed:
                self._subscriptions.deliver(reply)
            if self._owns_clients and self._silence.is_suspect(reply):
                self._drop()

    def _xread(self, streams: dict[str, str], block: int) -> Any:
        if self._reads is None:
            return self._blocking_client.xread(streams, count=READ_COUNT, block=block)  # type: ignore[arg-type]
        may_run_ahead = self._subscriptions.follows_one
        return self._reads.read(streams, count=READ_COUNT, block_ms=block, may_run_ahead=may_run_ahead)

    def _drop(self) -> None:
        """Have the next read made on a new connection, if connections are ours to drop."""
        if self._reads is not None:
            self._reads.hang_up()
        if self._owns_clients:
            drop_idle(self._blocking_client)

    def _strays(self, streams: dict[str, str]) -> list[str]:
        """Those of the streams that are none. The read's own error does not say which."""
        with contextlib.suppress(redis.RedisError):
            return strays_of(streams, ask_first(self._blocking_client, streams))
        return []

    def _wake_if(self, must_wake: bool) -> None:
        if must_wake:
            self._waker.wake()
