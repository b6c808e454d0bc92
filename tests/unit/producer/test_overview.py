"""What goes on in the queues, as one look at Redis tells: of workers, of jobs that wait, run and have ended."""

import asyncio
import json
from datetime import UTC, datetime

import pytest
from fakeredis import FakeAsyncRedis, FakeRedis, FakeServer
from redis.client import Pipeline

from producer import AsyncProducer, BrokerUnavailable, InvalidRequest, Producer
from producer.contract import Keys
from producer.overview import overview
from producer.overview_values import ModelOverview
from tests.scripted_worker import ScriptedWorker

QUEUE = "generate.tiny"


def alive(client: FakeRedis, name: str, model: str = "tiny", **fields: object) -> None:
    """A worker as RQ's and ours record it."""
    queues = Keys().queues(model)
    record = {"birth": "2026-01-01T00:00:00Z", "queues": ",".join(queues), "state": "idle", "model_state": "ready"}
    client.hset(f"rq:worker:{name}", mapping={**record, **fields})
    client.sadd("rq:workers", f"rq:worker:{name}")
    for queue in queues:
        client.sadd(f"rq:workers:{queue}", f"rq:worker:{name}")


def only(producer: Producer, model: str | None = None) -> ModelOverview:
    [found] = producer.overview(model).models
    return found


def test_where_nothing_is_nothing_is_shown(producer: Producer) -> None:
    assert producer.overview().model_dump() == {"suspended": False, "models": ()}
    assert only(producer, "tiny") == ModelOverview(model="tiny")


def test_jobs_that_wait_are_counted_by_priority_with_the_age_of_the_first(
    producer: Producer, client: FakeRedis
) -> None:
    first, *_ = producer.submit_many(["a", "b"], model="tiny")
    producer.submit("c", model="tiny", priority="high")
    client.hincrby(f"rq:job:{first.job_id}", "queued_at_ms", -90_000)
    model = only(producer)
    assert [(each.priority, each.count) for each in model.waiting] == [("high", 1), ("normal", 2)]
    assert model.queued == 3
    high, normal = (each.oldest_s for each in model.waiting)
    assert high is not None
    assert normal is not None
    assert 0 <= high < 60
    assert 90 <= normal < 150
    assert model.empty_in_s is None, "nobody works there"


@pytest.mark.parametrize("key", [f"rq:queue:{QUEUE}", f"rq:wip:{QUEUE}", "rq:job:a", "rq:worker:odd"])
def test_what_stands_in_place_of_one_key_keeps_nothing_else_from_being_shown(
    producer: Producer, client: FakeRedis, key: str
) -> None:
    alive(client, "w1")
    alive(client, "odd")
    producer.submit("a", model="tiny", job_id="a")
    producer.submit("b", model="tiny", priority="high")
    client.delete(key)
    client.set(key, "something else")
    model = only(producer)
    assert ("high", 1) in [(each.priority, each.count) for each in model.waiting]
    assert model.queued == (1 if key == f"rq:queue:{QUEUE}" else 2)
    assert "w1" in [worker.name for worker in model.workers]


def test_the_next_jobs_that_wait_are_listed_where_they_are_asked_for(
    producer: Producer, client: FakeRedis
) -> None:
    for group in ("ann", "bob"):
        names = [f"{group}-{number}" for number in range(3)]
        producer.submit_many(["a"] * 3, model="tiny", group=group, job_ids=names)
    producer.submit("c", model="tiny", priority="high", job_id="first")
    assert only(producer).waiting_jobs == ()
    [model] = producer._run(overview(Keys(), waiting_shown=4)).models
    assert [(each.job_id, each.group, each.priority) for each in model.waiting_jobs] == [
        ("first", None, "high"),
        *((f"{group}-{number}", group, "normal") for number, group in ((0, "ann"), (0, "bob"), (1, "ann"))),
    ]
    assert all(each.waited_s is not None for each in model.waiting_jobs)
    assert model.queued == 7


def test_what_wrote_no_time_has_no_age(producer: Producer, client: FakeRedis) -> None:
    client.sadd("rq:queues", f"rq:queue:{QUEUE}")
    client.rpush(f"rq:queue:{QUEUE}", "gone")
    [waiting] = only(producer).waiting
    assert (waiting.count, waiting.oldest_s) == (1, None)


def test_a_time_that_nobody_can_count_with_is_none(producer: Producer, client: FakeRedis) -> None:
    job = producer.submit("Hi", model="tiny")
    client.hset(f"rq:job:{job.job_id}", "queued_at_ms", "9" * 400)
    client.hdel(f"rq:job:{job.job_id}", "enqueued_at")
    [waiting] = only(producer).waiting
    assert (waiting.count, waiting.oldest_s) == (1, None)


def test_jobs_that_run_have_their_worker_and_their_progress(producer: Producer, client: FakeRedis) -> None:
    jobs = producer.submit_many(["a", "b"], model="tiny")
    now_s = client.time()[0]
    for job, status in zip(jobs, ("started", "queued"), strict=True):
        client.zadd(f"rq:wip:{QUEUE}", {f"{job.job_id}:run": "inf"})
        meta = json.dumps({"phase": "decode", "tokens": 7, "tokens_per_second": 3.5})
        client.hset(f"rq:job:{job.job_id}", mapping={"status": status, "worker_name": "w1", "meta": meta})
    client.hset(f"rq:job:{jobs[0].job_id}", "started_at", rq_time(now_s - 30))
    [running] = only(producer).running
    assert (running.job_id, running.worker) == (jobs[0].job_id, "w1")
    assert running.running_s is not None
    assert 25 < running.running_s < 90
    assert running.progress is not None
    assert (running.progress.tokens, running.progress.tokens_per_second) == (7, 3.5)


def rq_time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_what_has_ended_is_counted_and_the_newest_are_shown(producer: Producer, client: FakeRedis) -> None:
    now_s = client.time()[0]
    client.sadd("rq:queues", f"rq:queue:{QUEUE}")
    for number, (registry, status) in enumerate([("finished", "finished")] * 7 + [("canceled", "canceled")]):
        ended_at = rq_time(now_s - 100 + number)
        client.hset(f"rq:job:j{number}", mapping={"origin": QUEUE, "status": status, "ended_at": ended_at})
        client.zadd(f"rq:{registry}:{QUEUE}", {f"j{number}": now_s + number})
    client.zadd(f"rq:failed:{QUEUE}", {"gone": now_s})
    model = only(producer)
    assert (model.finished, model.failed, model.cancelled) == (7, 1, 1)
    assert [(each.job_id, each.state) for each in model.ended] == [
        ("j7", "cancelled"),
        *((f"j{number}", "finished") for number in (6, 5, 4, 3)),
    ]


def test_the_newest_ends_are_shown_beside_older_ones_that_are_kept_longer(
    producer: Producer, client: FakeRedis
) -> None:
    """Stored answers of the gateway are kept for a day, and stood before all that ended in that day."""
    now_s = client.time()[0]
    client.sadd("rq:queues", f"rq:queue:{QUEUE}")
    for number in range(12):
        ended_at = rq_time(now_s - 100 + number)
        fields = {"origin": QUEUE, "status": "finished", "ended_at": ended_at}
        client.hset(f"rq:job:j{number}", mapping=fields)
        kept_s = 86_400 if number < 6 else 3_600
        client.zadd(f"rq:finished:{QUEUE}", {f"j{number}": now_s + number + kept_s})
    client.hset("rq:job:j9", "status", "queued")  # somebody has put it back
    alive(client, "w1", ended_jobs="j7,j8,j9,gone,j10")
    alive(client, "w2", ended_jobs="j11")
    model = only(producer)
    assert [each.job_id for each in model.ended] == ["j11", "j10", "j8", "j7", "j5"]


def test_workers_are_shown_with_their_model_though_nothing_was_submitted(
    producer: Producer, client: FakeRedis
) -> None:
    alive(client, "w1", device="cuda:0", hostname="h", job_seconds="2.5", state="busy", busy_seconds="1.0")
    alive(client, "w2", model="small", model_state="loading", context_length="2048")
    alive(client, "dead", death="2026-01-01T00:00:00Z")
    alive(client, "of-others")
    client.hset("rq:worker:of-others", "queues", "mails,staging.generate.tiny")
    small, tiny = producer.overview().models
    assert (small.model, [each.name for each in small.workers]) == ("small", ["w2"])
    assert small.workers[0].context_length == 2048
    [worker] = tiny.workers
    assert (worker.device, worker.hostname, worker.job_seconds, worker.busy_seconds) == ("cuda:0", "h", 2.5, 1.0)
    assert only(producer, "tiny") == tiny


def test_until_it_is_empty_is_told_by_the_workers_own_speed(producer: Producer, client: FakeRedis) -> None:
    producer.submit_many([f"{number}" for number in range(20)], model="tiny")
    alive(client, "w1", job_seconds="2")
    alive(client, "w2", state="suspended", job_seconds="2")
    alive(client, "w3", model_state="loading", job_seconds="2")
    assert only(producer).empty_in_s == pytest.approx(40, rel=0.01)
    # A worker of an earlier version says no mean: RQ counts its jobs.
    counts = {"successful_job_count": "8", "failed_job_count": "2", "total_working_time": "20"}
    alive(client, "w4", **counts)
    assert only(producer).empty_in_s == pytest.approx(20, rel=0.01)


def test_that_all_are_suspended_is_shown(producer: Producer, client: FakeRedis) -> None:
    client.set("rq:suspended", "1")
    assert producer.overview().suspended


def test_other_prefixes_and_queues_are_not_ours(producer: Producer, client: FakeRedis) -> None:
    client.sadd("rq:queues", "rq:queue:mails", "rq:queue:staging.generate.tiny", b"rq:queue:\xff")
    assert producer.overview().models == ()


def test_a_name_that_is_no_models_is_refused(producer: Producer) -> None:
    with pytest.raises(InvalidRequest):
        producer.overview("Qwen/Qwen2")


def test_of_a_long_queue_it_takes_as_many_commands_as_of_a_short_one(
    producer: Producer, client: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    execute = Pipeline.execute

    def counted(pipeline: Pipeline, raise_on_error: bool = True) -> object:
        sent.append(len(pipeline))
        return execute(pipeline, raise_on_error)

    producer.submit("a", model="tiny")
    monkeypatch.setattr(Pipeline, "execute", counted)
    producer.overview()
    short, sent[:] = list(sent), []
    client.rpush(f"rq:queue:{QUEUE}", *range(10_000))
    producer.overview()
    assert sent == short
    assert len(short) == 3


def test_a_user_who_may_not_look_is_told_whose_that_is(redis_client, broker) -> None:
    redis_client.execute_command("ACL", "SETUSER", "somebody", "on", ">secret", "+@all", "-smembers", "~*", "&*")
    try:
        with Producer(f"redis://somebody:secret@127.0.0.1:{broker.port}/0") as producer:
            with pytest.raises(BrokerUnavailable, match="operator"):
                producer.overview()
            with pytest.raises(BrokerUnavailable, match="operator"):
                producer.cancel_all()
    finally:
        redis_client.execute_command("ACL", "DELUSER", "somebody")


def test_a_user_who_may_not_ask_for_the_time_sees_all_else(redis_client, broker) -> None:
    """As the dashboard's, of configs/redis.acl."""
    redis_client.execute_command("ACL", "SETUSER", "somebody", "on", ">secret", "+@all", "-time", "~*", "&*")
    try:
        with Producer(port_url := f"redis://127.0.0.1:{broker.port}/0") as submitter:
            submitter.submit("a", model="tiny")
        with Producer(port_url.replace("//", "//somebody:secret@")) as producer:
            [waiting] = only(producer).waiting
            assert waiting.oldest_s is not None
            assert waiting.oldest_s < 60
    finally:
        redis_client.execute_command("ACL", "DELUSER", "somebody")


def test_asyncio_has_the_same(fake_server: FakeServer, producer: Producer, worker: ScriptedWorker) -> None:
    producer.submit("a", model="tiny")

    async def main() -> None:
        async with AsyncProducer(connection=FakeAsyncRedis(server=fake_server)) as other:
            [model] = (await other.overview()).models
            assert model.queued == 1
            assert await other.cancel_all() == {"cancelled": 1}

    asyncio.run(main())
