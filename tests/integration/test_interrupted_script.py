"""Ctrl-C of a script that waits for what it has submitted, as a process against a real server."""

import signal
import subprocess
import sys

import pytest
import redis

from producer import Producer
from producer.broker.embedded import EmbeddedBroker
from tests.scripted_worker import ScriptedWorker

from .test_worker import wait_for

pytestmark = pytest.mark.slow

ON_THREAD = """
import sys
from producer import Producer, gather

with Producer(sys.argv[1], on_interrupt="cancel") as producer:
    gather(producer.submit_many(["Hi"] * 30, model="tiny"))
"""
ON_LOOP = """
import asyncio, sys
from producer import AsyncProducer, gather

async def main():
    async with AsyncProducer(sys.argv[1], on_interrupt="cancel") as producer:
        await gather(await producer.submit_many(["Hi"] * 30, model="tiny"))

asyncio.run(main())
"""


@pytest.mark.parametrize("script", [ON_THREAD, ON_LOOP], ids=["thread", "loop"])
def test_what_it_has_submitted_is_cancelled(
    broker: EmbeddedBroker, redis_client: redis.Redis, script: str
) -> None:
    worker = ScriptedWorker(redis_client)
    worker.register()
    process = subprocess.Popen([sys.executable, "-c", script, broker.url], stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: len(list(redis_client.scan_iter("gen:{*}:waiters"))) == 30, "all to be waited for")
        running = worker.take()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()

    assert said.rstrip().endswith("KeyboardInterrupt")
    assert "while handling" not in said.lower()
    assert process.returncode == -signal.SIGINT
    assert redis_client.exists(worker.keys.cancel(running))
    with Producer(broker.url) as producer:
        ids = [key.decode()[len("rq:job:") :] for key in redis_client.scan_iter("rq:job:*")]
        states = sorted(producer.status(job_id).state for job_id in ids)
    assert states == ["cancelled"] * 29 + ["running"]
