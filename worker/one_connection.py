"""One connection of redis-py's, kept from command to command, for what is sent many times a second.

redis-py's client takes a connection out of its pool for each command, guards each wait with a task of its own and
measures all of it. That was half of an append's processor time in the worker. Here a command is packed, sent and
answered, within one bound.

Knows redis-py, and nothing of what is sent.
"""

import asyncio
from typing import Any

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
        self._turn = asyncio.Lock()

    async def evalsha(self, sha: str, numkeys: int, *keys_and_args: Any) -> Any:
        """As redis-py's, with its errors."""
        return await self._call("EVALSHA", sha, numkeys, *keys_and_args)

    async def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Any:
        """As redis-py's, with its errors."""
        return await self._call("EVAL", script, numkeys, *keys_and_args)

    async def _call(self, *command: Any) -> Any:
        async with self._turn:
            try:
                async with asyncio.timeout(self._timeout_s):
                    connection = await self._ready()
                    await connection.send_command(*command)
                    reply = await connection.read_response()
            except redis.ResponseError:
                raise  # the connection is whole
            except BaseException as error:
                await self._hang_up()  # a reply may still be on its way, to whoever comes next
                if isinstance(error, TimeoutError):
                    raise redis.TimeoutError(f"no answer within {self._timeout_s:g} s") from None
                raise
            return reply

    async def _ready(self) -> Any:
        if self._connection is None:
            pool: Any = self.client.connection_pool
            self._connection = await pool.get_connection()
            return self._connection
        if self._connection.is_connected and await self._has_ended():
            await self._hang_up()
        await self._connection.connect()  # here, and not within the send: it asks the Sentinels who is primary now
        return self._connection

    async def _has_ended(self) -> bool:
        """Whether the server has closed it, as it may while nothing is sent."""
        try:
            return bool(await self._connection.can_read())
        except redis.ConnectionError:
            return True

    async def _hang_up(self) -> None:
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)
