"""One connection of redis-py's, kept from command to command, for what is sent many times a second.

redis-py's client takes a connection out of its pool for each command, guards each wait with a task of its own and
measures all of it, and asyncio's streams wake whoever waits through a buffer. All that was more than half of an
append's processor time in the worker. Here redis-py connects and greets; then the connection's bytes go straight
through hiredis, so that a command is one write, and its reply one call of the event loop, within one bound.

Knows redis-py, and nothing of what is sent.
"""

import asyncio
import contextlib
from typing import Any

import hiredis
import redis
from redis.asyncio import Redis


class OneConnection:
    """Runs scripts over one connection, one after another. In place of a client, where only that is asked of it.

    It connects when it is used, and anew after a fault. Nothing is tried again in here.
    """

    def __init__(self, client: Redis, timeout_s: float) -> None:
        """client: whose pool it takes its connection from; its connections need no time-out of their own.

        timeout_s: for one command, and for connecting and greeting before it.
        """
        self.client = client
        self._timeout_s = timeout_s
        self._connection: Any = None
        self._replies: _Replies | None = None
        self._turn = asyncio.Lock()

    async def evalsha(self, sha: str, numkeys: int, *keys_and_args: Any) -> Any:
        """As redis-py's, with its errors."""
        return await self._call("EVALSHA", sha, numkeys, *keys_and_args)

    async def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Any:
        """As redis-py's, with its errors."""
        return await self._call("EVAL", script, numkeys, *keys_and_args)

    async def _call(self, *command: Any) -> Any:
        async with self._turn:
            loop = asyncio.get_running_loop()
            give_up_at = loop.time() + self._timeout_s
            try:
                replies = self._replies
                if replies is None or replies.has_ended:
                    async with asyncio.timeout_at(give_up_at):
                        replies = await self._ready()
                reply = replies.ask(command)
                bound = loop.call_at(give_up_at, _give_up, reply)
                try:
                    return await reply
                finally:
                    bound.cancel()
            except redis.ResponseError:
                raise  # the connection is whole
            except BaseException as error:
                await self._hang_up()  # a reply may still be on its way, to whoever comes next
                if isinstance(error, TimeoutError):
                    raise redis.TimeoutError(f"no answer within {self._timeout_s:g} s") from None
                raise

    async def _ready(self) -> "_Replies":
        if self._connection is None:
            pool: Any = self.client.connection_pool
            self._connection = await pool.get_connection()
        else:
            await self._hang_up()
            await self._connection.connect()  # it asks the Sentinels who is primary now
        self._replies = _Replies(self._connection)
        return self._replies

    async def _hang_up(self) -> None:
        self._replies = None
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)


class _Replies(asyncio.Protocol):
    """Takes a connection over from redis-py once it is greeted, and gives each reply to whoever waits for it."""

    def __init__(self, connection: Any) -> None:
        self._transport: asyncio.Transport = connection._writer.transport  # noqa: SLF001 - as in links
        self._before = self._transport.get_protocol()
        self._reader = hiredis.Reader(
            protocolError=redis.InvalidResponse,
            replyError=connection._parser.parse_error,  # noqa: SLF001
            notEnoughData=_NOT_ENOUGH,
        )
        self._waiting: asyncio.Future[Any] | None = None
        self.has_ended = False
        self._transport.set_protocol(self)

    def ask(self, command: tuple[Any, ...]) -> "asyncio.Future[Any]":
        """Send a command. Its reply, or its error, comes with the future."""
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(hiredis.pack_command(command))
        return self._waiting

    def data_received(self, data: bytes) -> None:
        """Of the server."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOT_ENOUGH:
                if not isinstance(reply, hiredis.PushNotification):  # nobody has asked for those
                    self._answer(reply)
        except redis.RedisError as error:  # what it says is no reply
            self._answer(error)
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """By the server, by a fault, or by us. redis-py is told, too: its `disconnect` may wait for it."""
        self.has_ended = True
        self._answer(redis.ConnectionError(str(exc) if exc else "Connection closed by server."))
        self._before.connection_lost(exc)

    def _answer(self, reply: Any) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None or waiting.done():
            return
        if isinstance(reply, Exception):
            waiting.set_exception(reply)
        else:
            waiting.set_result(reply)


_NOT_ENOUGH = object()


def _give_up(reply: "asyncio.Future[Any]") -> None:
    with contextlib.suppress(asyncio.InvalidStateError):
        reply.set_exception(TimeoutError())
