"""As `hub`, for asyncio: one blocked read for a few streams, bells and short reads for many.

With bells nothing blocks at the server: a read names those streams alone in which something is new. An end that is
waited for, and streams whose bell does not hang yet, are looked at so often that nobody notices the wait.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

import redis
import redis.asyncio

from .bells import Bells
from .broker.advice import broker_unavailable, is_transient
from .broker.bounds import drop_idle_async
from .broker.connections import BLOCK_S, address, block_ms
from .broker.meaning import is_wrong_type
from .contract import EventId, Keys
from .ending import end
from .following import READ_COUNT, Subscriptions
from .hub import CLOSED, RETRY_S, ask_first, strays_of
from .subscription import RESUME_AT, Signal, Subscription
from .waking import CLOSE_S, Silence, wake

LOOK_S = 0.025
"""Between two looks at what has no bell, where others have."""


class AsyncHub:
    """Follows streams on a task, which starts with the first subscriber. For one event loop."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        blocking_client: redis.asyncio.Redis,
        keys: Keys,
        *,
        owns_clients: bool = False,
    ) -> None:
        self._client = client
        self._blocking_client = blocking_client
        self._owns_clients = owns_clients
        self._subscriptions = Subscriptions(keys, uuid.uuid4().hex)
        # Of a client that was passed in no connection is taken for long beside the one of the blocked read.
        self._bells = Bells(blocking_client, keys, self._subscriptions, self._stir) if owns_clients else None
        self._is_blocked = False
        self._silence = Silence()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._wakes: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def wake_key(self) -> str:
        """As `Hub.wake_key`."""
        return self._subscriptions.wake_key

    @contextlib.contextmanager
    def following(
        self, job_id: str, cursor: EventId, *, only_end: bool = False, signal: Signal | None = None
    ) -> Iterator[Subscription]:
        """As `Hub.following`."""
        subscription = Subscription(job_id, cursor, signal or asyncio.Event(), only_end=only_end)
        must_wake = self._subscriptions.add(subscription)
        try:
            if self._closed:
                subscription.fail(RuntimeError(CLOSED))
            else:
                self._ensure_task()
            if self._bells is not None and not only_end and not self._closed:
                self._bells.hang(job_id)
            self._stir(must_wake)
            yield subscription
        finally:
            self._stir(self._subscriptions.remove(subscription))
            if self._bells is not None:
                self._bells.take_down(job_id)

    async def wait(self, subscription: Subscription, timeout_s: float) -> None:
        """As `Hub.wait`."""
        signal = subscription.signal
        assert isinstance(signal, asyncio.Event)
        signal.clear()
        if not subscription.has_news:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await signal.wait()

    def resume(self, subscription: Subscription) -> None:
        """As `Hub.resume`."""
        if len(subscription.inbox) == RESUME_AT:
            self._stir(self._subscriptions.resume(subscription))

    async def aclose(self) -> None:
        """As `Hub.close`."""
        self._closed = True
        self._subscriptions.fail_all(RuntimeError(CLOSED))
        if self._bells is not None:
            await self._bells.aclose(CLOSE_S)
        # redis-py closes a connection whose read is cancelled: no reply is left on it.
        await end([*self._wakes, *([self._task] if self._task else [])])

    def _ensure_task(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="genqueue-hub")

    async def _run(self) -> None:
        try:
            while True:
                has_bells = self._subscriptions.have_bells
                await self._until_due(self._subscriptions.due_in_s(time.monotonic(), LOOK_S) if has_bells else 0)
                self._changed.clear()
                if streams := self._subscriptions.next_read(time.monotonic()):
                    await self._read(streams, blocks=not has_bells)
                elif not has_bells:
                    await self._changed.wait()
        except Exception as error:
            self._subscriptions.fail_all(error)
            raise

    async def _until_due(self, due_in_s: float) -> None:
        """Until there is something to read, or to look at."""
        if due_in_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(due_in_s):
                    await self._changed.wait()

    async def _read(self, streams: dict[str, str], *, blocks: bool) -> None:
        client = self._blocking_client
        block = block_ms(client, self._subscriptions.block_s(time.monotonic(), BLOCK_S)) if blocks else None
        self._is_blocked = blocks
        try:
            reply: Any = await client.xread(streams, count=READ_COUNT, block=block)  # type: ignore[arg-type]
        except redis.RedisError as error:
            strays = await self._strays(streams) if is_wrong_type(error) else []
            self._subscriptions.read_failed()
            if not self._subscriptions.fail_streams(strays) and not is_transient(error):
                self._subscriptions.fail_all(broker_unavailable(error, address(client)))
            if self._owns_clients:
                await drop_idle_async(client)
            await asyncio.sleep(RETRY_S)
        else:
            self._subscriptions.deliver(reply)
            if self._owns_clients and self._silence.is_suspect(reply):
                await drop_idle_async(client)
        finally:
            self._is_blocked = False

    async def _strays(self, streams: dict[str, str]) -> list[str]:
        with contextlib.suppress(redis.RedisError):
            return strays_of(streams, await ask_first(self._blocking_client, streams))
        return []

    def _stir(self, must_wake: bool) -> None:
        """There is something to read. A read that does not block ends by itself."""
        self._changed.set()
        if not must_wake or not self._is_blocked or self._closed:
            return
        with contextlib.suppress(RuntimeError):  # no loop runs any more that could be woken
            task = asyncio.get_running_loop().create_task(self._send_wake(), name="genqueue-wake")
            self._wakes.add(task)
            task.add_done_callback(self._wakes.discard)

    async def _send_wake(self) -> None:
        with contextlib.suppress(redis.RedisError):
            await wake(self._client, self.wake_key)
