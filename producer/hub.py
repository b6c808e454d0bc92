"""One blocked read for all streams that a process follows: the I/O halves of `following`, on a thread or a task.

A wake stream of this process ends the blocked read when a job is added; it costs nothing while nothing changes.
"""

import asyncio
import contextlib
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from queue import Empty, SimpleQueue
from typing import Any

import redis
import redis.asyncio

from .broker.advice import broker_unavailable, is_transient
from .broker.connections import address, block_ms
from .contract import EventId, Keys
from .following import READ_COUNT, RESUME_AT, Subscription, Subscriptions

RETRY_S = 0.2
"""Between two tries while Redis is away."""
WAKE_TTL_S = 60
CLOSE_S = 1.0


def _wake(client: Any, key: str) -> Any:
    return client.pipeline(transaction=False).xadd(key, {"wake": ""}, maxlen=1).expire(key, WAKE_TTL_S).execute()


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


class Hub:
    """Follows streams on a daemon thread, which starts with the first subscriber."""

    def __init__(self, client: redis.Redis, blocking_client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._blocking_client = blocking_client
        self._subscriptions = Subscriptions(keys, uuid.uuid4().hex)
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def following(self, job_id: str, cursor: EventId) -> Iterator[Subscription]:
        """A subscription to the events after the cursor, for as long as the block runs."""
        subscription = Subscription(job_id, cursor, ThreadSignal())
        with self._changed:
            must_wake = self._subscriptions.add(subscription)
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
        if not subscription.inbox and subscription.error is None:
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
        """End the thread; every subscriber gets an error."""
        with self._changed:
            self._closed = True
            self._subscriptions.fail_all(RuntimeError("the producer was closed while its stream was read"))
            self._changed.notify()
        if self._thread is not None and self._thread.is_alive():
            self._wake_if(True)
            self._thread.join(CLOSE_S)

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="genqueue-hub", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            while streams := self._next_read():
                self._read(streams)
        except Exception as error:
            with self._changed:
                self._subscriptions.fail_all(error)
            raise

    def _next_read(self) -> dict[str, str]:
        """Wait until there is something to follow. Empty once closed."""
        with self._changed:
            while not self._closed:
                if streams := self._subscriptions.next_read():
                    return streams
                self._changed.wait()
        return {}

    def _read(self, streams: dict[str, str]) -> None:
        client = self._blocking_client
        try:
            reply: Any = client.xread(streams, count=READ_COUNT, block=block_ms(client))  # type: ignore[arg-type]
        except redis.RedisError as error:
            with self._changed:
                self._subscriptions.read_failed()
                if not is_transient(error):
                    self._subscriptions.fail_all(broker_unavailable(error, address(client)))
                self._changed.wait_for(lambda: self._closed, RETRY_S)
        else:
            with self._changed:
                self._subscriptions.deliver(reply)

    def _wake_if(self, must_wake: bool) -> None:
        if must_wake:
            # Without the wake the read ends by itself a little later; a replica refuses it.
            with contextlib.suppress(redis.RedisError):
                _wake(self._client, self._subscriptions.wake_key)


class AsyncHub:
    """Follows streams on a task, which starts with the first subscriber."""

    def __init__(self, client: redis.asyncio.Redis, blocking_client: redis.asyncio.Redis, keys: Keys) -> None:
        self._client = client
        self._blocking_client = blocking_client
        self._subscriptions = Subscriptions(keys, uuid.uuid4().hex)
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def following(self, job_id: str, cursor: EventId) -> AsyncIterator[Subscription]:
        """As `Hub.following`."""
        subscription = Subscription(job_id, cursor, asyncio.Event())
        must_wake = self._subscriptions.add(subscription)
        try:
            self._ensure_task()
            self._changed.set()
            await self._wake_if(must_wake)
            yield subscription
        finally:
            await self._wake_if(self._subscriptions.remove(subscription))

    async def wait(self, subscription: Subscription, timeout_s: float) -> None:
        """As `Hub.wait`."""
        signal = subscription.signal
        assert isinstance(signal, asyncio.Event)
        signal.clear()
        if not subscription.inbox and subscription.error is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await signal.wait()

    async def resume(self, subscription: Subscription) -> None:
        """As `Hub.resume`."""
        if len(subscription.inbox) == RESUME_AT:
            self._changed.set()
            await self._wake_if(self._subscriptions.resume(subscription))

    async def aclose(self) -> None:
        """End the task; every subscriber gets an error."""
        self._subscriptions.fail_all(RuntimeError("the producer was closed while its stream was read"))
        if self._task is not None:
            # redis-py closes a connection whose read is cancelled: no reply is left on it.
            self._task.cancel()
            await asyncio.wait([self._task])

    def _ensure_task(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="genqueue-hub")

    async def _run(self) -> None:
        try:
            while True:
                self._changed.clear()
                if streams := self._subscriptions.next_read():
                    await self._read(streams)
                else:
                    await self._changed.wait()
        except Exception as error:
            self._subscriptions.fail_all(error)
            raise

    async def _read(self, streams: dict[str, str]) -> None:
        client = self._blocking_client
        try:
            reply: Any = await client.xread(streams, count=READ_COUNT, block=block_ms(client))  # type: ignore[arg-type]
        except redis.RedisError as error:
            self._subscriptions.read_failed()
            if not is_transient(error):
                self._subscriptions.fail_all(broker_unavailable(error, address(client)))
            await asyncio.sleep(RETRY_S)
        else:
            self._subscriptions.deliver(reply)

    async def _wake_if(self, must_wake: bool) -> None:
        if must_wake:
            with contextlib.suppress(redis.RedisError):
                await _wake(self._client, self._subscriptions.wake_key)
