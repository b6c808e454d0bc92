"""Where many streams are followed, a bell for each: one Pub/Sub connection says in which of them something is new.

A read that names a thousand streams, to get a token of one, costs both ends a thousand names. What a bell says is
not believed, only looked at: Pub/Sub loses messages, and a channel belongs to all databases of a server. So a
stream is read once its bell hangs, whenever it rings, in turn every few seconds, and as before where it hangs no
more.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import redis
import redis.asyncio

from .broker.connections import BLOCK_S
from .contract import Keys
from .following import Subscriptions

MANY = 32
"""Streams that one read may name, before they get bells."""
FEW = 16
"""With fewer they lose them again."""
RETRY_S = 0.2


class Bells:
    """Those of one hub. For one event loop.

    stir: called when there is something to read, with whether a blocked read must be ended for it.
    """

    def __init__(
        self, client: redis.asyncio.Redis, keys: Keys, subscriptions: Subscriptions, stir: Callable[[bool], None]
    ) -> None:
        self._client = client
        self._keys = keys
        self._subscriptions = subscriptions
        self._stir = stir
        self._streams: dict[bytes, str] = {}
        """By channel."""
        self._orders: dict[bytes, bool] = {}
        """What the server is yet to be told: channels to hear of, and those to hear of no more."""
        self._pubsub: Any = None
        self._task: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._is_refused = False
        """This user of Redis may not hear of them, say."""

    def hang(self, job_id: str) -> None:
        """One stream more is followed: it gets a bell, and all others with it, where they are many."""
        if self._is_refused or (self._task is None and len(self._subscriptions.hot_jobs) <= MANY):
            return
        for each in [job_id] if self._task else self._subscriptions.hot_jobs:
            channel = self._keys.tokens(each).encode()
            if channel not in self._streams:
                self._streams[channel] = self._keys.events(each)
                self._orders[channel] = True
        if self._task is None:
            self._task = self._start(self._run(), "genqueue-bells")
        self._tell()

    def take_down(self, job_id: str) -> None:
        """Somebody has left that stream."""
        channel = self._keys.tokens(job_id).encode()
        if channel not in self._streams or self._subscriptions.reads(job_id):
            return
        del self._streams[channel]
        if len(self._streams) < FEW:
            self._stop()
            return
        self._orders[channel] = False
        self._tell()

    async def aclose(self, timeout_s: float) -> None:
        """Hear of nothing any more."""
        self._stop()
        if self._ending:
            await asyncio.wait(self._ending, timeout=timeout_s)

    def _stop(self) -> None:
        """The streams are read as before."""
        for task in filter(None, (self._task, self._telling)):
            task.cancel()
        self._task = self._telling = self._pubsub = None
        self._streams.clear()
        self._orders.clear()
        self._stir(self._subscriptions.lose_bells())

    def _start(self, work: Any, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def _run(self) -> None:
        while not self._is_refused:
            delay_s = 0.0
            try:
                # One that has said nothing for long is made anew: it may lead to a server that was left.
                async with self._client.pubsub() as pubsub:
                    await self._hear(pubsub)
            except redis.ResponseError:
                self._is_refused = True
            except redis.RedisError:
                delay_s = RETRY_S
            finally:
                if self._task is asyncio.current_task():
                    self._pubsub = None
                    self._stir(self._subscriptions.lose_bells())
            await asyncio.sleep(delay_s)

    async def _hear(self, pubsub: Any) -> None:
        """Until there was nothing for a while."""
        self._orders = dict.fromkeys(self._streams, True)
        await self._tell_orders(pubsub)
        self._pubsub = pubsub
        self._tell()
        while (message := await pubsub.get_message(timeout=BLOCK_S)) is not None:
            stream = self._streams.get(message["channel"])
            if stream is None:
                continue
            if message["type"] == "message":
                self._stir(self._subscriptions.ring(stream))
            elif message["type"] == "subscribe":
                self._stir(self._subscriptions.hang_bell(stream))

    def _tell(self) -> None:
        """Have the server told, by one task at a time: the order counts."""
        if self._pubsub is not None and self._orders and (self._telling is None or self._telling.done()):
            self._telling = self._start(self._tell_while_heard(self._pubsub), "genqueue-bells-telling")

    async def _tell_while_heard(self, pubsub: Any) -> None:
        with contextlib.suppress(redis.RedisError):  # whoever hears meets it, too
            await self._tell_orders(pubsub)

    async def _tell_orders(self, pubsub: Any) -> None:
        while self._orders:
            orders, self._orders = self._orders, {}
            if wanted := [channel for channel, is_wanted in orders.items() if is_wanted]:
                await pubsub.subscribe(*wanted)
            if unwanted := [channel for channel, is_wanted in orders.items() if not is_wanted]:
                await pubsub.unsubscribe(*unwanted)
