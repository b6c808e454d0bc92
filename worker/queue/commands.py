"""RQ's commands to this worker (stop a job, shut down), heard for as long as the worker lives.

RQ listens on a thread of its own that logs each second of an outage and does not notice a connection that was
dropped in silence. Here it is one more side task.
"""

import asyncio
from typing import Any

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

    async def step(self) -> None:
        """Subscribe, or hear the next command.  Raises errors of Redis; the next step subscribes anew."""
        try:
            if self._pubsub is None:
                self._pubsub = self._client.pubsub()
                await self._pubsub.subscribe(self._worker.pubsub_channel_name)
                return
            message = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=HEALTH_CHECK_S)
        except BaseException:
            pubsub, self._pubsub = self._pubsub, None
            await pubsub.aclose()
            raise
        if message is not None:
            await asyncio.to_thread(self._worker.handle_payload, message)
