"""What stands in place of one stream ends nobody else's wait: one blocked read names them all."""

from typing import Any

import pytest
import redis
from fakeredis import FakeAsyncRedis, FakeRedis, FakeServer

from producer import AsyncProducer, GenqueueError, Producer
from producer.async_hub import AsyncHub
from producer.contract import BEFORE_FIRST, Keys
from producer.hub import Hub
from tests.scripted_worker import ScriptedWorker

WRONG_TYPE = redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
BOUND_S = 60.0


@pytest.fixture(autouse=True)
def word_of_a_server(client: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    """XREAD refuses all streams for one that is none, and does not say which. fakeredis has no word for it."""

    def wrap(kind: Any) -> None:
        real = kind.xread

        def xread(self: Any, streams: dict[str, str], **how: Any) -> Any:
            if any(client.type(key) == b"string" for key in streams):
                raise WRONG_TYPE
            return real(self, streams, **how)

        monkeypatch.setattr(kind, "xread", xread)

    wrap(FakeRedis)
    wrap(FakeAsyncRedis)


@pytest.fixture
def jobs(producer: Producer, client: FakeRedis) -> list[str]:
    """One whose stream is none, and one like any other."""
    broken, fine = (handle.job_id for handle in producer.submit_many(["a", "b"], model="tiny"))
    client.set(Keys().events(broken), "no stream")
    return [broken, fine]


def check(error: Exception | None, job_id: str) -> None:
    assert isinstance(error, GenqueueError)
    assert f"the events of job {job_id} is no stream: submit it again under another id" in str(error)
    assert error.job_id == job_id


def test_of_threads(jobs: list[str], producer: Producer, worker: ScriptedWorker) -> None:
    hub: Hub = producer._hub
    with hub.following(jobs[0], BEFORE_FIRST) as broken, hub.following(jobs[1], BEFORE_FIRST) as fine:
        hub.wait(broken, BOUND_S)
        check(broken.error, jobs[0])
        worker.play("b", job_id=jobs[1])
        while not fine.ended and fine.error is None:
            hub.wait(fine, BOUND_S)
            fine.inbox.clear()

        assert fine.error is None


async def test_of_tasks(jobs: list[str], fake_server: FakeServer, worker: ScriptedWorker) -> None:
    connection = FakeAsyncRedis(server=fake_server)
    async with AsyncProducer(connection=connection) as producer:
        await producer.workers("tiny")
        hub: AsyncHub = producer._hub
        with hub.following(jobs[0], BEFORE_FIRST) as broken, hub.following(jobs[1], BEFORE_FIRST) as fine:
            await hub.wait(broken, BOUND_S)
            check(broken.error, jobs[0])
            worker.play("b", job_id=jobs[1])
            while not fine.ended and fine.error is None:
                await hub.wait(fine, BOUND_S)
                fine.inbox.clear()

            assert fine.error is None
    await connection.aclose()
