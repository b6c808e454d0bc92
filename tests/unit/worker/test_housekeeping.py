"""What is done about what a beat has seen."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from types import SimpleNamespace

import pytest
import redis
from fakeredis import FakeAsyncRedis, FakeServer
from rq import Queue
from rq.job import Job
from rq.rate_limit import RateLimit

from producer.contract import FUNCTION, BrokerUnavailable
from producer.ledger.sweep import SCHEDULED_AT_ONCE, Beat, Member
from producer.ledger.take import DUE_AT_ONCE
from worker import housekeeping
from worker.housekeeping import EXPIRE_AT_ONCE, Housekeeping
from worker.neighbours import Dead
from worker.queue.rq_worker import GenerationWorker

from .jobs import KEYS, NORMAL, beat, die, enqueue, in_list, in_queue, member_of, taken_job


class House:
    """A housekeeper, and what it was asked to end."""

    def __init__(self, worker: GenerationWorker, client: FakeAsyncRedis) -> None:
        self.exited: list[Dead] = []
        self.beats_due = 0
        self.presence = SimpleNamespace(trusts_beats=False, exited=self._exited, beat_soon=self._beat_soon)
        self.keeper = Housekeeping(worker, self.presence, client, self.end_late)  # type: ignore[arg-type]
        self.worker = worker
        self.ended: list[str] = []
        self.at_once = self.most_at_once = 0
        self.refuses: str | None = None

    async def end_late(self, job: Job | str) -> None:
        """As the service does: with an end, and out of our list."""
        job_id = job if isinstance(job, str) else job.id
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if job_id == self.refuses:
            raise RuntimeError
        self.worker.put_down(job_id)
        self.ended.append(job_id)

    def _exited(self) -> list[Dead]:
        exited, self.exited = self.exited, []
        return exited

    def _beat_soon(self) -> None:
        self.beats_due += 1

    async def step(self) -> None:
        """What is due."""
        async with asyncio.timeout(30):
            await self.keeper.step()


@pytest.fixture
async def house(worker: GenerationWorker, fake_server: FakeServer) -> AsyncIterator[House]:
    client = FakeAsyncRedis(server=fake_server)
    yield House(worker, client)
    await client.aclose()


def seen(*, is_first: bool = True, late: bool = False, scheduled: bool = False) -> Beat:
    return Beat(0, is_first, 1, (), (), (), late, scheduled)


@pytest.fixture
def dead_with_job(client, start: Callable[..., GenerationWorker]) -> tuple[GenerationWorker, Job]:
    dead = start("dead")
    enqueue(client)
    job = taken_job(dead)
    die(client, dead)
    return dead, job


async def test_whoever_is_found_dead_is_buried(client, house, dead_with_job):
    dead, job = dead_with_job
    for _ in range(2):
        await house.keeper.note_dead(Dead(member_of(dead), "overdue"))
    await house.step()
    assert in_queue(client) == [job.id]


async def test_a_burial_is_not_lost_when_redis_fails(client, house, dead_with_job, fake_server):
    dead, job = dead_with_job
    await house.keeper.note_dead(Dead(member_of(dead), "overdue"))
    fake_server.connected = False
    for _ in range(2):
        with pytest.raises(redis.ConnectionError):
            await house.step()
    fake_server.connected = True
    await house.step()
    assert in_queue(client) == [job.id]


async def test_whose_process_has_ended_is_buried_while_there_is_nothing_else_to_do(client, house, dead_with_job):
    dead, job = dead_with_job
    beat(dead)
    step = asyncio.create_task(house.step())
    await asyncio.sleep(0)
    house.exited = [Dead(member_of(dead), "exited")]
    await step
    assert in_queue(client) == [job.id]
    assert house.beats_due == 1, "whoever comes after it in the ring may be dead, too"


async def test_whose_process_ends_during_an_outage_is_buried_with_its_end(
    client, house, dead_with_job, fake_server
):
    dead, job = dead_with_job
    await house.keeper.note_beat(seen())
    house.keeper._due.set()
    fake_server.connected = False
    house.exited = [Dead(member_of(dead), "exited")]
    with pytest.raises(redis.ConnectionError):
        await house.step()
    assert not house.exited
    fake_server.connected = True
    await house.step()
    assert in_queue(client) == [job.id]


async def test_what_the_dead_had_sent_and_redis_got_late_is_swept_a_moment_later(
    client, house, dead_with_job, monkeypatch
):
    monkeypatch.setattr(housekeeping, "LATE_S", 0)
    dead, job = dead_with_job
    house.exited = [Dead(member_of(dead), "exited")]
    await house.step()
    assert in_queue(client) == [job.id]
    assert dead.take().job_id == job.id
    beat(dead)
    await house.step()
    assert (in_queue(client), in_list(client, dead)) == ([job.id], [])
    assert client.zcard(KEYS.beats) == 1, "the housekeeper's own"
    assert house.beats_due == 1
    assert not house.keeper._due.is_set(), "no third one"


async def test_the_dead_of_other_signs_are_swept_once(client, house, dead_with_job, monkeypatch):
    monkeypatch.setattr(housekeeping, "LATE_S", 0)
    await house.keeper.note_dead(Dead(member_of(dead_with_job[0]), "overdue"))
    await house.step()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not house.keeper._due.is_set()


async def test_late_jobs_are_ended_some_at_a_time(client, house):
    late = [enqueue(client).id for _ in range(3 * EXPIRE_AT_ONCE)]
    client.zadd(KEYS.deadlines("tiny"), dict.fromkeys(late, 1))
    await house.keeper.note_beat(seen(late=True))
    await house.step()
    assert sorted(house.ended) == sorted(late)
    assert house.most_at_once == EXPIRE_AT_ONCE
    assert in_list(client, house.worker) == in_queue(client) == []


async def test_a_late_job_that_cannot_be_ended_holds_up_no_other_and_is_taken_as_the_next(client, house):
    late = [enqueue(client).id for _ in range(3)]
    client.zadd(KEYS.deadlines("tiny"), dict.fromkeys(late, 1))
    house.refuses = late[1]
    await house.keeper.note_beat(seen(late=True))
    await house.step()
    assert sorted(house.ended) == sorted([late[0], late[2]])
    assert house.worker.take().job_id == late[1]


async def test_scheduled_jobs_are_started(client, house):
    client.zadd(f"rq:scheduled:{NORMAL}", {"a": 1})
    await house.keeper.note_beat(seen(scheduled=True))
    await house.step()
    assert in_queue(client) == ["a"]


async def test_many_jobs_of_one_time_are_started_at_once(client, house):
    due = [f"job-{number}" for number in range(2 * SCHEDULED_AT_ONCE + 1)]
    client.zadd(f"rq:scheduled:{NORMAL}", dict.fromkeys(due, 1))
    await house.keeper.note_beat(seen(scheduled=True))
    await house.step()
    assert sorted(in_queue(client)) == sorted(due)


async def test_rqs_rate_limit_holds_for_scheduled_jobs_and_none_waits_for_ever(client, house):
    limit = RateLimit("mine", concurrency=1)
    queue = Queue(NORMAL, connection=client, serializer="json")
    jobs = [queue.enqueue_in(timedelta(0), FUNCTION, request={}, rate_limit=limit) for _ in range(2)]
    client.zadd(f"rq:scheduled:{NORMAL}", {job.id: place for place, job in enumerate(jobs)})
    await house.keeper.note_beat(seen(scheduled=True))
    await house.step()
    assert in_queue(client) == [jobs[0].id]
    # It was cancelled, say, by whoever tells RQ's limit nothing.
    client.delete(f"rq:queue:{NORMAL}")
    client.hset(jobs[0].key, "status", "canceled")
    house.worker.maintain()
    assert in_queue(client) == [jobs[1].id]


async def test_the_dead_are_buried_between_the_ends_of_late_jobs(client, house, dead_with_job):
    dead, job = dead_with_job
    late = [enqueue(client).id for _ in range(2 * DUE_AT_ONCE)]
    client.zadd(KEYS.deadlines("tiny"), dict.fromkeys(late, 1))
    await house.keeper.note_beat(seen(late=True))
    end_late = house.end_late

    async def end_and_die(late_job: Job | str) -> None:
        await end_late(late_job)
        await house.keeper.note_dead(Dead(member_of(dead), "overdue"))

    house.keeper._end_late = end_and_die
    await house.step()
    assert len(house.ended) == DUE_AT_ONCE
    await house.step()
    assert job.id in in_queue(client)
    assert len(house.ended) == 2 * DUE_AT_ONCE


async def test_a_server_that_cannot_serve_us_is_told_as_such(client, house):
    client.zadd(KEYS.deadlines("tiny"), {enqueue(client).id: 1})
    await house.keeper.note_beat(seen(late=True))

    async def unfit(_: Job | str) -> None:
        raise BrokerUnavailable("no")

    house.keeper._end_late = unfit
    with pytest.raises(BrokerUnavailable):
        await house.step()


async def test_one_that_cannot_be_buried_holds_up_nothing_else(client, house, dead_with_job):
    dead, job = dead_with_job
    late = enqueue(client).id
    client.zadd(KEYS.deadlines("tiny"), {late: 1})
    await house.keeper.note_dead(Dead(Member("somebody's", "no/model"), "overdue"))
    await house.keeper.note_dead(Dead(member_of(dead), "overdue"))
    await house.keeper.note_beat(seen(late=True))
    await house.step()
    assert in_queue(client) == [job.id]
    assert house.ended == [late]
    assert house.beats_due == 1, "and not for one that the next beat would tell of again"


async def test_only_the_first_of_the_ring_does_it_for_all(client, house, dead_with_job):
    dead, _ = dead_with_job
    late = enqueue(client).id
    client.zadd(KEYS.deadlines("tiny"), {late: 1})
    await house.keeper.note_beat(seen(is_first=False, late=True, scheduled=True))
    assert not house.keeper._due.is_set()
    await house.keeper.note_dead(Dead(member_of(dead), "overdue"))
    await house.step()
    assert house.ended == []


async def test_a_beat_that_has_seen_nothing_wakes_nobody(house):
    await house.keeper.note_beat(seen())
    assert not house.keeper._due.is_set()


@pytest.mark.parametrize("trusts_beats", [True, False])
async def test_workers_of_an_earlier_version_are_looked_at_while_beats_can_be_trusted(
    client, house, dead_with_job, trusts_beats
):
    dead, job = dead_with_job
    client.delete(KEYS.beats)
    house.presence.trusts_beats = trusts_beats
    for _ in range(2):
        house.keeper._checked_earlier_at = float("-inf")
        await house.keeper.note_beat(seen())
        assert house.keeper._due.is_set() == trusts_beats
        if trusts_beats:
            await house.step()
            assert house.keeper._checked_earlier_at > 0
    assert in_queue(client) == ([job.id] if trusts_beats else [])
    assert (in_list(client, dead) == []) == trusts_beats
