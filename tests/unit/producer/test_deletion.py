"""A job is deleted: what becomes of one that waits, of one that runs, and of those who wait for it."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from fakeredis import FakeAsyncRedis, FakeRedis, FakeServer

from producer import AsyncProducer, JobCancelled, NoSuchJob, Producer, WaitTimeout, deletion as deletion_module
from producer.deletion import Pause, deletion
from producer.operations import Operations
from producer.settings import ProducerSettings
from tests.scripted_worker import ScriptedWorker

from .conftest import Clock


def keys_of(client: FakeRedis, job_id: str) -> list[bytes]:
    return [key for key in client.keys("*") if job_id.encode() in key]


@pytest.fixture
def lets_go(worker: ScriptedWorker) -> Callable[[], threading.Thread]:
    """The worker ends its job once it is asked to."""

    def end_when_asked() -> None:
        deadline = time.monotonic() + 60
        while not worker.client.exists(worker.keys.cancel(worker.job_id)):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        worker.finish("cancelled", "cancelled")

    def start() -> threading.Thread:
        thread = threading.Thread(target=end_when_asked)
        thread.start()
        return thread

    return start


def test_a_job_that_waits_is_deleted_at_once(producer: Producer, client: FakeRedis) -> None:
    job = producer.submit("Hi", model="tiny")
    other = producer.submit("Ho", model="tiny")
    before = set(client.keys("*")) - set(keys_of(client, job.job_id))

    job.delete()

    assert set(client.keys("*")) == before
    assert client.lrange("rq:queue:generate.tiny", 0, -1) == [other.job_id.encode()]
    with pytest.raises(NoSuchJob):
        job.status()
    with pytest.raises(NoSuchJob, match="deleted before"):
        producer.delete(job.job_id)


def test_a_job_that_has_ended_is_deleted(producer: Producer, worker: ScriptedWorker, client: FakeRedis) -> None:
    job = producer.submit("Hi", model="tiny")
    worker.play("a")
    job.delete()
    assert keys_of(client, job.job_id) == []


def test_a_job_that_runs_is_ended_by_its_worker_and_then_deleted(
    producer: Producer, worker: ScriptedWorker, client: FakeRedis, lets_go: Callable[[], threading.Thread]
) -> None:
    job = producer.submit("Hi", model="tiny")
    worker.take()
    thread = lets_go()
    job.delete()
    thread.join()
    assert keys_of(client, job.job_id) == []


def test_a_worker_that_does_not_let_go_keeps_its_job(
    producer: Producer, worker: ScriptedWorker, client: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion_module.deletion, "__defaults__", (0.05,))
    job = producer.submit("Hi", model="tiny")
    worker.take()

    with pytest.raises(WaitTimeout, match=r"is with w1, .* nothing was deleted: delete it again") as caught:
        job.delete()

    assert caught.value.job_id == job.job_id
    assert client.exists(f"rq:job:{job.job_id}", worker.keys.cancel(job.job_id)) == 2


def test_what_is_there_without_a_hash_is_deleted(
    producer: Producer, worker: ScriptedWorker, client: FakeRedis
) -> None:
    job = producer.submit("Hi", model="tiny")
    worker.play("a")
    client.delete(f"rq:job:{job.job_id}")
    client.zadd("rq:finished:generate.tiny", {job.job_id: 2e9})
    producer.delete(job.job_id)
    assert keys_of(client, job.job_id) == []
    assert not client.exists("rq:finished:generate.tiny")


@pytest.mark.parametrize("gone", ["hash", "hash and events", "all but a request"])
def test_what_tells_of_no_model_is_looked_for_in_all_queues(
    producer: Producer, client: FakeRedis, gone: str
) -> None:
    job = producer.submit("Hi", model="tiny")
    client.delete(f"rq:job:{job.job_id}")
    if gone == "hash and events":
        client.set(f"gen:{{{job.job_id}}}:result", "no result")
    elif gone == "all but a request":
        client.set(f"gen:{{{job.job_id}}}:cancel", "1")
    producer.delete(job.job_id)
    assert keys_of(client, job.job_id) == []
    assert not client.exists("rq:queue:generate.tiny", "gen:{deadlines:tiny}")


@pytest.mark.parametrize("name", ["rq:job:a", "gen:{a}:events", "gen:{a}:result"])
def test_what_stands_in_its_place_goes_with_it(producer: Producer, client: FakeRedis, name: str) -> None:
    producer.submit("Hi", model="tiny", job_id="a")
    client.delete(name)
    client.rpush(name, "x")
    producer.delete("a")
    assert keys_of(client, "a") == [] if name != "rq:job:a" else not client.exists("rq:job:a")


def test_a_job_of_another_queue_is_not_ours_to_delete(producer: Producer, client: FakeRedis) -> None:
    client.hset("rq:job:a", mapping={"origin": "mails", "status": "queued"})
    with pytest.raises(NoSuchJob, match="another RQ queue"):
        producer.delete("a")
    assert client.exists("rq:job:a")


def test_a_reply_that_got_lost_is_no_error(producer: Producer, client: FakeRedis) -> None:
    """The command is sent again, and finds nothing any more."""
    producer.submit("Hi", model="tiny", job_id="a")
    operation = deletion(Operations(producer._keys, ProducerSettings()), "a")
    command = next(operation)
    with suppress(StopIteration):
        while True:
            if not isinstance(command, Pause) and client.exists("gen:{a}:result"):
                command(client)
            command = operation.send(command(client))
    assert keys_of(client, "a") == []


def test_whoever_waits_for_its_end_hears_of_it(producer: Producer, client: FakeRedis) -> None:
    """The end that a delete brings, or that there is no such job: it is a race, and soon over."""
    job = producer.submit("Hi", model="tiny")
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            job.result()
        except (JobCancelled, NoSuchJob) as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    deadline = time.monotonic() + 60
    while not client.exists(f"gen:{{{job.job_id}}}:waiters"):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    job.delete()
    thread.join(60)
    assert raised
    assert keys_of(client, job.job_id) == []


def test_whoever_is_woken_by_a_delete_is_soon_told(
    producer: Producer, client: FakeRedis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is gone before its end was read: nothing comes any more."""
    monkeypatch.setattr("producer.patience.CONFIRM_S", 0.01)
    job = producer.submit("Hi", model="tiny")
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            job.result()
        except NoSuchJob as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    deadline = time.monotonic() + 60
    waiters = f"gen:{{{job.job_id}}}:waiters"
    while not client.exists(waiters):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    [wake] = client.smembers(waiters)
    client.delete(waiters, f"rq:job:{job.job_id}")
    client.xadd(wake, {"ended": job.job_id})
    while not raised:  # two looks
        assert time.monotonic() < deadline
        clock.turn(0.01)
        time.sleep(0.02)
    thread.join(60)


def test_asyncio_has_the_same(fake_server: FakeServer, worker: ScriptedWorker, client: FakeRedis) -> None:
    async def main() -> None:
        async with AsyncProducer(connection=FakeAsyncRedis(server=fake_server)) as producer:
            waiting = await producer.submit("Hi", model="tiny")
            await waiting.delete()
            running = await producer.submit("Hi", model="tiny")
            worker.take()
            deleting = asyncio.create_task(producer.delete(running.job_id))
            while not client.exists(worker.keys.cancel(running.job_id)):
                await asyncio.sleep(0.005)
            worker.finish("cancelled", "cancelled")
            await deleting
            assert keys_of(client, running.job_id) == keys_of(client, waiting.job_id) == []

    asyncio.run(main())
