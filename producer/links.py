"""What carries a producer's operations to Redis: clients, a hub, and the tries at each command.

A `Link` is for threads, an `AsyncLink` for one event loop; `AsyncLinks` has one for whichever loop runs. What is
done is in `operations`, which errors are worth another try in `broker.tries`.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, TypeVar

import redis
import redis.asyncio

from .async_hub import AsyncHub
from .broker.advice import broker_unavailable, is_elsewhere
from .broker.bounds import AsyncPool, Cancels, close_now, drop_idle, drop_idle_async
from .broker.connections import address, check_suits, connect_async
from .broker.tries import Tries
from .contract import Keys
from .hub import Hub
from .operations import Command, Operation
from .settings import ProducerSettings
from .waits import Waiting

T = TypeVar("T")


class Link:
    """Runs operations, from any thread.

    client, blocking_client  for commands, and for the hub's reads
    owns_clients   they are closed with it, and dropped where they may lead nowhere. Another's client keeps its own
                   time-outs and retries
    check_usable   raises when the producer must not be used any more
    """

    def __init__(
        self,
        client: redis.Redis,
        blocking_client: redis.Redis,
        settings: ProducerSettings,
        *,
        owns_clients: bool,
        check_usable: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._check_usable = check_usable
        self.client = client
        self._owned = [client, blocking_client] if owns_clients else []
        self.hub = Hub(client, blocking_client, Keys(settings.prefix), owns_clients=owns_clients)

    def run(self, operation: Operation[T], deadline: float | None = None, job_id: str | None = None) -> T:
        """What the operation returns.

        deadline: of time.monotonic(), for what Redis has to answer.  job_id: of the job that is waited for.

        Raises BrokerUnavailable, and what the operation raises.
        """
        self._check_usable()
        step: Callable[[], Command] = partial(next, operation)
        try:
            while True:
                command = step()
                try:
                    is_wait = isinstance(command, Waiting)
                    reply = command(self.client) if is_wait else self._call(command, deadline)
                except redis.RedisError as error:
                    step = partial(operation.throw, error)
                else:
                    step = partial(operation.send, reply)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        except redis.RedisError as error:
            raise broker_unavailable(error, address(self.client), job_id=job_id) from error
        finally:
            operation.close()  # a Ctrl-C ends what it waits for, and not only once nobody looks at the traceback

    def close(self) -> None:
        """End all streams and close the connections that are its own. Waits for no answer of Redis."""
        self.hub.close()
        for client in self._owned:
            close_now(client)

    def _call(self, command: Command, deadline: float | None) -> Any:
        tries = _tries(self._settings, deadline, owns_client=bool(self._owned))
        while True:
            try:
                with tries.attempt():
                    return command(self.client)
            except redis.RedisError as error:
                self._check_usable()
                delay_s = tries.delay_s(error)
                if delay_s is None:
                    raise tries.reason(error) from None
                if is_elsewhere(error):
                    drop_idle(self.client)
            except Exception:
                self._check_usable()  # closed by another thread, for which redis-py has many words
                raise
            time.sleep(delay_s)
            self._check_usable()


AT_ONCE = 32
"""Commands under way of one AsyncLink. A pool has more connections."""


class AsyncLink:
    """As `Link`, for the event loop that runs when it is made."""

    def __init__(
        self,
        settings: ProducerSettings,
        connection: redis.asyncio.Redis | None,
        check_usable: Callable[[], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._settings = settings
        self._check_usable = check_usable
        self.client = connection or connect_async(**settings.reach)
        blocking_client = connection or connect_async(**settings.reach, blocking=True)
        self._owned = [] if connection else [self.client, blocking_client]
        self.hub = AsyncHub(self.client, blocking_client, Keys(settings.prefix), owns_clients=not connection)
        # In their order: redis-py's pool gives a connection to whoever asks next, so that of a thousand waits that
        # look again and again some would never get one.
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._end: AsyncGenerator[None, None] = self._until_the_end()

    async def open(self) -> None:
        """Have it closed when its loop ends, as `asyncio.run` ends one: it closes the generators that are left."""
        await anext(self._end)

    async def aclose(self) -> None:
        """As `Link.close`."""
        await self._end.aclose()

    async def run(self, operation: Operation[T], deadline: float | None = None, job_id: str | None = None) -> T:
        """As `Link.run`."""
        self._check_usable()
        step: Callable[[], Command] = partial(next, operation)
        try:
            while True:
                command = step()
                try:
                    is_wait = isinstance(command, Waiting)
                    reply = await (command(self.client) if is_wait else self._call(command, deadline))
                except redis.RedisError as error:
                    step = partial(operation.throw, error)
                else:
                    step = partial(operation.send, reply)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        except redis.RedisError as error:
            raise broker_unavailable(error, address(self.client), job_id=job_id) from error
        finally:
            operation.close()  # a Ctrl-C ends what it waits for, and not only once nobody looks at the traceback

    async def _call(self, command: Command, deadline: float | None) -> Any:
        # A cancel that came while nothing was awaited: redis-py would take it for a time-out of its own.
        await asyncio.sleep(0)
        cancels = Cancels()
        tries = _tries(self._settings, deadline, owns_client=bool(self._owned))
        while True:
            try:
                # A client that was passed in keeps its own time-outs, within the caller's deadline.
                is_bounded = self._owned or deadline is not None
                with tries.attempt() as bound:
                    async with asyncio.timeout(bound.left_s if is_bounded else None), self._turn:
                        reply = await command(self.client)
            except TimeoutError:
                self._check_usable()
                raise tries.reason(redis.TimeoutError("Timeout reading from socket")) from None
            except redis.RedisError as error:
                self._check_usable()
                delay_s = tries.delay_s(error)
                if delay_s is None:
                    raise tries.reason(error) from None
                if is_elsewhere(error):
                    await drop_idle_async(self.client)
            except Exception:
                self._check_usable()  # closed by another task
                raise
            else:
                cancels.heed()
                return reply
            cancels.heed()
            await asyncio.sleep(delay_s)
            self._check_usable()

    async def _until_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.hub.aclose()
            for client in self._owned:
                assert isinstance(client.connection_pool, AsyncPool)
                await client.connection_pool.drop(in_use=True)
            await asyncio.sleep(0)  # asyncio closes sockets in the next round


class AsyncLinks:
    """A link for whichever event loop runs, one at a time.

    A framework that runs each call in a loop of its own (`asyncio.run`, `async_to_sync`, pytest-asyncio) can share
    one AsyncProducer: a link ends with its loop, and the next loop gets a new one.
    """

    def __init__(
        self,
        settings: ProducerSettings,
        connection: redis.asyncio.Redis | None,
        check_usable: Callable[[], None],
    ) -> None:
        if connection is not None:
            check_suits(connection, redis.asyncio.Redis)
        self._settings = settings
        self._connection = connection
        self._check_usable = check_usable
        self._lock = threading.Lock()
        self.current: AsyncLink | None = None

    async def get(self) -> AsyncLink:
        """The link of the running loop.

        Raises RuntimeError while another loop uses the producer, and in a second loop with a connection that was
        passed in, which belongs to the first.
        """
        self._check_usable()
        with self._lock:
            link = self.current
            if link is not None and link.loop is asyncio.get_running_loop():
                return link
            if link is not None:
                self._check_free(link)
            link = self.current = AsyncLink(self._settings, self._connection, self._check_usable)
        await link.open()
        return link

    async def aclose(self) -> None:
        """Close the link, if it is one of the running loop."""
        link, self.current = self.current, None
        if link is not None and link.loop is asyncio.get_running_loop():
            await link.aclose()

    def _check_free(self, link: AsyncLink) -> None:
        if link.loop.is_running():
            raise RuntimeError(
                "this AsyncProducer is in use by an event loop that still runs, and this is another one: make an "
                "AsyncProducer for each loop, or use a Producer, which threads can share"
            )
        if self._connection is not None:
            raise RuntimeError(
                "the connection of this AsyncProducer belongs to an event loop that has ended: make a new "
                "AsyncProducer, or give it a URL in place of a connection"
            )


def _tries(settings: ProducerSettings, deadline: float | None, *, owns_client: bool) -> Tries:
    return Tries(
        answer_s=settings.socket_timeout_s,
        connect_s=settings.connect_timeout_s,
        deadline=deadline,
        sits_out_outages=owns_client,
    )
