"""RQ's commands to this worker (stop a job, shut down), heard for as long as the worker lives.

RQ listens on a thread of its own that logs each second of an outage and does not notice a connection that was
dropped in silence. Here it is one more side task.
"""

import asyncio
import time
from typing import Any

import redis
from redis.asyncio import Redis

from .rq_worker import GenerationWorker

HEALTH_CHECK_S = 15
"""A connection on which nothing is said for so long is asked whether it still stands."""


class Commands:
    """Hears the commands to one worker.

    client: with `health_check_interval` HEALTH_CHECK_S, so that a broken connection is found out.
    """

    def __init__(self, client: "Redis", worker: GenerationWorker) -> None:
        self._client = client
        self._worker = worker
        self._pubsub: Any = None
        self._silences = 0

    async def step(self) -> None:
        """Subscribe, or hear the next command.  Raises errors of Redis; the next step subscribes anew."""
        try:
            if self._pubsub is None:
                self._pubsub, self._silences = self._client.pubsub(), 0
                await self._pubsub.subscribe(self._worker.pubsub_channel_name)
                return
            message = await self._hear()
        except BaseException:
            pubsub, self._pubsub = self._pubsub, None
            await pubsub.aclose()
            raise
        if message is not None:
            await asyncio.to_thread(self._worker.handle_payload, message)

    async def _hear(self) -> dict[str, Any] | None:
        """The next message, if one comes.  Raises TimeoutError of redis-py for a connection that leads nowhere.

        redis-py asks it whether it still stands, and does not miss the answer: what was dropped in silence would
        swallow commands until the kernel gives it up, a quarter of an hour later. The question falls into every
        second wait at the latest, so that two in a row in which nothing at all came are one too many.
        """
        began_at = time.monotonic()
        message: dict[str, Any] | None = await self._pubsub.get_message(
            ignore_subscribe_messages=True, timeout=HEALTH_CHECK_S
        )
        was_silent = message is None and time.monotonic() - began_at >= 0.9 * HEALTH_CHECK_S
        self._silences = self._silences + 1 if was_silent else 0
        if self._silences > 1:
            raise redis.TimeoutError("the connection for RQ's commands does not answer")
        return message
