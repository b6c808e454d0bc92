"""RQ's commands to this worker (stop a job, shut down), heard for as long as the worker lives.

RQ listens on a thread of its own that logs each second of an outage and does not notice a connection that was
dropped in silence. Here it is one more side task.
"""

import asyncio

from redis.asyncio import Redis

from .rq_worker import GenerationWorker

HEALTH_CHECK_S = 15
"""A connection on which nothing is said for so long is asked whether it still stands."""


async def listen(client: "Redis", worker: GenerationWorker) -> None:
    """Hear commands until the task is cancelled.  Raises errors of Redis when the connection breaks.

    client: with `health_check_interval` HEALTH_CHECK_S, so that a broken connection is found out.
    """
    async with client.pubsub() as pubsub:
        await pubsub.subscribe(worker.pubsub_channel_name)
        while True:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=HEALTH_CHECK_S)
            if message is not None:
                await asyncio.to_thread(worker.handle_payload, message)
