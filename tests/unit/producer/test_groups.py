"""A job for a group, from `submit` and from a shell: where it waits, what is refused, and who sees it."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from fakeredis import FakeAsyncRedis, FakeRedis, FakeServer
from rq import Queue

from producer import (
    AsyncProducer,
    InvalidRequest,
    Producer,
    ProducerSettings,
    QueueFull,
    client as producer_client,
)
from producer.cli import run
from producer.contract import Keys
from producer.ledger.take import put_down, take
from producer.overview_values import WaitingGroup
from producer.testing import ScriptedWorker
from tests.scripted_worker import ScriptedWorker as PlainWorker

KEYS = Keys()
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def shell(fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer_client, "connect", lambda *_, **__: FakeRedis(server=fake_server))


def queue_of(client: FakeRedis, job_id: str) -> str:
    return (client.hget(f"rq:job:{job_id}", "origin") or b"").decode()


def alive(client: FakeRedis, request_fields: str | None = None) -> None:
    """A worker as it stands in RQ's records."""
    client.hset("rq:worker:w1", "birth", "2026-01-01T00:00:00Z")
    if request_fields is not None:
        client.hset("rq:worker:w1", "request_fields", request_fields)
    client.sadd("rq:workers:generate.tiny", "rq:worker:w1")


def test_each_way_to_submit_takes_a_group(
    producer: Producer, client: FakeRedis, worker: PlainWorker, fake_server: FakeServer
) -> None:
    first = producer.submit("a", model="tiny", group="alice", max_new_tokens=1)
    many = producer.submit_many(["b"], model="tiny", group="al ice", priority="low")
    client.lrem("rq:queue:generate.tiny@alice", 1, first.job_id)
    worker.take(first.job_id)
    worker.publish("x")
    worker.finish("finished", "length")
    on = first.continue_job(5, group="bob")

    async def submit() -> list[str]:
        async with AsyncProducer(connection=FakeAsyncRedis(server=fake_server)) as other:
            one = await other.submit("c", model="tiny", group="carl")
            two = await other.submit_many(["d"], model="tiny", group="dora", priority="high")
            return [one.job_id, *(each.job_id for each in two)]

    ids = [first.job_id, many[0].job_id, on.job_id, *asyncio.run(submit())]
    assert [queue_of(client, job_id) for job_id in ids] == [
        "generate.tiny@alice",
        "generate.tiny.low@al~20ice",
        "generate.tiny@bob",
        "generate.tiny@carl",
        "generate.tiny.high@dora",
    ]
    assert client.zrange(KEYS.turns("tiny", "low"), 0, -1) == [b"al~20ice"]
    assert Queue("generate.tiny.low@al~20ice", connection=client).job_ids == [many[0].job_id]


@pytest.mark.parametrize(
    ("group", "why"),
    [
        ("", "group: group '' is not valid: use a text of 1 to 64 characters"),
        ("a\nb", "without control characters"),
        ("a" * 65, "1 to 64 characters"),
        (7, "group: "),
    ],
)
def test_what_is_no_group_is_refused_before_anything_is_sent(
    producer: Producer, client: FakeRedis, group: object, why: str
) -> None:
    with pytest.raises(InvalidRequest, match=why):
        producer.submit("Hi", model="tiny", group=group)  # type: ignore[arg-type]
    assert client.keys("*") == []


def test_a_group_that_no_live_worker_understands_is_refused(producer: Producer, client: FakeRedis) -> None:
    alive(client, "prompt,cache_salt")
    with pytest.raises(InvalidRequest, match="no live worker understands 'group': upgrade the workers"):
        producer.submit("Hi", model="tiny", group="a")
    assert producer.submit("Hi", model="tiny").created
    alive(client, "prompt,group")
    assert producer.submit("Hi", model="tiny", group="a").created
    with pytest.raises(InvalidRequest, match="no live worker understands 'cache_salt'"):
        producer.submit("Hi", model="tiny", group="a", cache_salt="x")


def test_where_no_worker_lives_nothing_is_known(producer: Producer) -> None:
    assert producer.submit("Hi", model="tiny", group="a").created


def test_a_full_group_is_named(producer: Producer) -> None:
    producer.submit_many(["a", "b"], model="tiny", group="alice")
    with pytest.raises(QueueFull, match="2 jobs of group 'alice' wait for tiny and max_queued is 2"):
        producer.submit("c", model="tiny", group="alice", max_queued=2)
    assert producer.submit("c", model="tiny", group="bob", max_queued=1).created
    assert producer.submit("c", model="tiny", max_queued=1).created


def test_the_settings_bound_each_group(fake_server: FakeServer) -> None:
    settings = ProducerSettings(group_max_queued=1)
    with Producer(connection=FakeRedis(server=fake_server), settings=settings) as producer:
        producer.submit("a", model="tiny", group="alice")
        with pytest.raises(QueueFull, match="'alice'"):
            producer.submit("b", model="tiny", group="alice")
        assert producer.submit("b", model="tiny", group="alice", max_queued=2).created
        assert producer.submit("b", model="tiny", group="bob").created
        assert len(producer.submit_many(["c", "d"], model="tiny")) == 2


def test_the_status_says_whom_it_is_for_and_how_many_turns_come_before(producer: Producer) -> None:
    of_alice = producer.submit_many(["a"] * 5, model="tiny", group="alice")
    of_bob = producer.submit("b", model="tiny", group="bob")
    plain = producer.submit("c", model="tiny")
    assert [job.status().position for job in (*of_alice, of_bob, plain)] == [0, 3, 4, 5, 6, 1, 2]
    status = of_bob.status()
    assert (status.group, status.queue, status.is_held) == ("bob", "generate.tiny@bob", True)
    assert status.describe().startswith("queued, 2nd in line")
    assert plain.status().group is None


def test_the_overview_counts_all_groups_and_names_those_that_wait(producer: Producer, client: FakeRedis) -> None:
    producer.submit_many(["a"] * 3, model="tiny", group="alice")
    producer.submit("a", model="tiny", group="alice", priority="high")
    producer.submit("b", model="tiny", group="小明")
    oldest = producer.submit("c", model="tiny")
    client.hincrby(f"rq:job:{oldest.job_id}", "queued_at_ms", -90_000)
    client.zadd("rq:finished:generate.tiny@gone", {"x": 2e9})
    client.sadd("rq:queues", "rq:queue:generate.tiny@gone")
    [model] = producer.overview().models
    assert [(each.priority, each.count) for each in model.waiting] == [("high", 1), ("normal", 5)]
    assert 90 <= (model.waiting[1].oldest_s or 0) < 150
    assert model.groups == (WaitingGroup(group="alice", count=4), WaitingGroup(group="小明", count=1))
    assert (model.groups_waiting, model.finished) == (2, 1)


def test_of_many_groups_it_takes_a_few_round_trips_more(producer: Producer, client: FakeRedis) -> None:
    for number in range(1_200):
        client.sadd("rq:queues", f"rq:queue:generate.tiny@g{number}")
        client.rpush(f"rq:queue:generate.tiny@g{number}", "x")
    [model] = producer.overview().models
    assert (model.queued, model.groups_waiting, len(model.groups)) == (1_200, 1_200, 10)


@pytest.mark.parametrize("model", [None, "tiny"])
def test_all_that_wait_are_cancelled_whatever_their_group(
    producer: Producer, client: FakeRedis, model: str | None
) -> None:
    jobs = [producer.submit("a", model="tiny", group=group) for group in ("a", "b", None)]
    assert producer.cancel_all(model, queued_only=True) == {"cancelled": 3}
    assert {job.result(check=False).status for job in jobs} == {"cancelled"}
    assert not client.exists(KEYS.turns("tiny"))


def test_all_that_run_or_are_put_off_are_cancelled_whatever_their_group(
    producer: Producer, client: FakeRedis
) -> None:
    later = producer.submit("a", model="tiny", group="a")
    client.lrem("rq:queue:generate.tiny@a", 1, later.job_id)
    client.zadd("rq:scheduled:generate.tiny@a", {later.job_id: 2e9})
    client.hset(f"rq:job:{later.job_id}", "status", "scheduled")
    assert producer.cancel_all("tiny") == {"cancelled": 1}
    assert not client.exists("rq:scheduled:generate.tiny@a")


def test_a_job_of_a_group_is_deleted_whole(producer: Producer, client: FakeRedis) -> None:
    job = producer.submit("a", model="tiny", group="a")
    job.delete()
    assert [key for key in client.keys("*") if job.job_id.encode() in key] == []
    assert not client.exists("rq:queue:generate.tiny@a", KEYS.turns("tiny"))


def test_a_job_that_nothing_says_the_group_of_is_looked_for_in_all(
    producer: Producer, client: FakeRedis, worker: PlainWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.deletion._QUEUES_AT_ONCE", 2)
    jobs = [producer.submit("a", model="tiny", group=f"g{number}") for number in range(5)]
    worker.take(jobs[4].job_id)
    worker.finish("cancelled", "cancelled")
    client.delete(f"rq:job:{jobs[4].job_id}")
    client.rpush("rq:queue:generate.tiny@g3", jobs[4].job_id)
    jobs[4].delete()
    assert client.lrange("rq:queue:generate.tiny@g3", 0, -1) == [jobs[3].job_id.encode()]


def test_a_shell_takes_a_group_and_shows_who_waits(shell: None, client: FakeRedis, capsys: Captured) -> None:
    assert run(["submit", "Hi", "--model-name", "tiny", "--group", "[b]alice[/b]", "--job-id", "mine"]) == 0
    assert queue_of(client, "mine") == "generate.tiny@~5bb~5dalice~5b~2fb~5d"
    capsys.readouterr()
    assert run(["status", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["group"] == "[b]alice[/b]"
    assert run(["ps"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[-2:] == [["GROUP", "WAITING"], ["[b]alice[/b]", "1"]]


def test_ps_says_how_many_groups_it_does_not_name(shell: None, client: FakeRedis, capsys: Captured) -> None:
    for number in range(12):
        assert run(["submit", "Hi", "--model-name", "tiny", "--group", f"g{number}"]) == 0
    capsys.readouterr()
    assert run(["ps"]) == 0
    assert "and 2 more" in capsys.readouterr().out


def test_a_shell_says_what_is_no_group(shell: None, capsys: Captured) -> None:
    assert run(["submit", "Hi", "--model-name", "tiny", "--group", "a" * 65]) == 2
    assert "1 to 64 characters" in capsys.readouterr().err


# -- with producer.testing


@pytest.fixture
def scripted(genqueue_worker: ScriptedWorker) -> Iterator[tuple[ScriptedWorker, Producer]]:
    with Producer() as producer:
        yield genqueue_worker, producer


def test_the_scripted_worker_takes_turns_and_says_whom_a_job_was_for(
    scripted: tuple[ScriptedWorker, Producer],
) -> None:
    worker, producer = scripted
    with worker.paused():
        jobs = producer.submit_many(["a1", "a2", "a3"], model="tiny", group="a b")
        jobs += [producer.submit("b1", model="tiny", group="b"), producer.submit("c1", model="tiny")]
    assert {job.result().status for job in jobs} == {"finished"}
    assert [(each.prompt, each.group) for each in worker.requests] == [
        *(("a1", "a b"), ("b1", "b"), ("c1", None), ("a2", "a b"), ("a3", "a b")),
    ]


def test_a_job_of_a_group_whose_worker_dies_goes_on(scripted: tuple[ScriptedWorker, Producer]) -> None:
    worker, producer = scripted
    worker.answers("Hi", "abcdef")
    worker.crash_after(3)
    result = producer.submit("Hi", model="tiny", group="a").result()
    assert (result.text, result.attempts) == ("abcdef", 2)


def test_a_turn_is_taken_whatever_took_it(producer: Producer, client: FakeRedis) -> None:
    """The order that a worker of the ledger sees, over the clients that people use."""
    producer.submit_many([f"{number}" for number in range(50)], model="tiny", group="many")
    few = producer.submit("few", model="tiny", group="few")
    order = []
    for _ in range(3):
        taken = take(KEYS, "w", "tiny", known=(), list_ttl_s=100, max_bytes=10_000).run(client)
        order.append(taken.job_id)  # type: ignore[union-attr]
        put_down(KEYS, "w", order[-1]).run(client)
    assert order[1] == few.job_id
