"""A job is taken away: nothing of it is left on the server, under any state, and all else is as it was."""

from typing import Any

import pytest
import redis

from producer.ledger.delete import Held, delete
from producer.ledger.stream import clear
from producer.ledger.sweep import Member, claim, settled, sweep
from producer.ledger.take import Run, begin, put_back, put_down
from producer.ledger.waiting import await_end

from .steps import KEYS, NOW, append, cancel_job, entry, field, finish, ids, running, state, submit_jobs, taken

QUEUE = KEYS.queue("tiny")
STARTED = '{"attempt":1,"worker":"w1","model":"tiny","prompt_tokens":3,"seed":7}'
MARK = [KEYS.deleted("a")]
"""That it was deleted, after a worker had been taken for dead over it."""
OTHER = "other"
"""A job beside it, of which nothing may go."""


def delete_job(client: redis.Redis, job_id: str = "a", models: tuple[str, ...] = ("tiny",)) -> Held | bool:
    return delete(KEYS, job_id, models).run(client)


def left_of(client: redis.Redis, job_id: str) -> list[str]:
    """Every key that has the id in its name, and every place in another key where it stands by itself."""
    found = []
    for key in map(bytes.decode, client.keys("*")):
        if job_id in key.replace(":", " ").replace("{", " ").replace("}", " ").split():
            found.append(key)
        found += [f"{key} has {item}" for item in items_of(client, key) if item.split(":")[0] == job_id]
    return sorted(found)


def items_of(client: redis.Redis, key: str) -> list[str]:
    read: dict[bytes, Any] = {
        b"list": lambda: client.lrange(key, 0, -1),
        b"set": lambda: client.smembers(key),
        b"zset": lambda: client.zrange(key, 0, -1),
        b"hash": lambda: client.hvals(key),
        b"string": lambda: [client.get(key)],
        b"stream": list,
    }
    return [item.decode() for item in read[client.type(key)]()]


def none(client: redis.Redis) -> None: ...


def queued(client: redis.Redis) -> None:
    submit_jobs(client, "a")
    client.rpush(f"rq:queue:{QUEUE}", "a")  # RQ lets it stand there twice


def queued_high(client: redis.Redis) -> None:
    submit_jobs(client, "a", priority="high")


def waited_for(client: redis.Redis) -> None:
    submit_jobs(client, "a")
    await_end(KEYS, "a", KEYS.wake("1"), ttl_s=99).run(client)


def put_back_to_its_queue(client: redis.Redis) -> None:
    running(client, "a")
    append(client, "a", "0-0", entry("1-0", STARTED, "started"))
    client.set(KEYS.cancel("a"), "1")
    put_back(KEYS, "w1", "a", QUEUE, engine_died=True).run(client)


def in_a_registry(name: str) -> Any:
    def make(client: redis.Redis) -> None:
        client.hset("rq:job:a", mapping={"origin": QUEUE, "status": name})
        client.zadd(f"rq:{name}:{QUEUE}", {"a": 2e9, OTHER: 2e9})

    return make


def with_dependencies(client: redis.Redis) -> None:
    in_a_registry("deferred")(client)
    client.sadd("rq:job:a:dependencies", OTHER, "gone")
    client.sadd(f"rq:job:{OTHER}:dependents", "a", "b")
    client.sadd("rq:job:a:dependents", "b")


def in_a_group_under_a_limit(client: redis.Redis) -> None:
    client.hset("rq:job:a", mapping={"origin": QUEUE, "group_id": "g", "rate_limit_key": "k", "status": "x"})
    client.sadd("rq:group:g", "a", OTHER)
    client.zadd("rq:rl:k:rate_limited", {"a": 1, OTHER: 2})
    client.zadd("rq:rl:k:allowed", {"a": 1, OTHER: 2})


def settled_job(client: redis.Redis) -> None:
    finish(client, running(client, "a"))
    client.xadd("rq:results:a", {"type": "1"})
    client.zadd(f"rq:finished:{QUEUE}", {"a": 2e9, OTHER: 2e9})
    put_down(KEYS, "w1", "a").run(client)


def settled_elsewhere(client: redis.Redis) -> None:
    """The worker before was taken for dead."""
    taken(client, "a", "frozen")
    sweep(KEYS, "frozen", Member("frozen", "tiny"), "overdue", now=NOW).run(client)
    settled_job(client)


def cancelled(client: redis.Redis) -> None:
    submit_jobs(client, "a")
    cancel_job(client, "a")


def stranded(client: redis.Redis) -> None:
    running(client, "a")
    client.delete(KEYS.taken("w1"))
    client.hset("rq:job:a", "status", "failed")
    client.zadd(f"rq:failed:{QUEUE}", {"a": 2e9})


def left_by_the_dead_as_running(client: redis.Redis) -> None:
    """RQ's records of a run, whose worker's list is gone with the worker."""
    begun(client)
    client.delete(KEYS.taken("w1"), "rq:worker:w1")
    client.delete("rq:executions:a")  # the registry alone knows of its run, and of another that has no hash
    client.sadd("rq:worker:w1:executions", "a:other-run")
    client.zadd(f"rq:wip:{QUEUE}", {"a:other-run": 1, f"{OTHER}:run": 1, "a-b:run": 1})


def recorded_as_running(client: redis.Redis) -> None:
    begun(client)
    client.delete(KEYS.taken("w1"), "rq:worker:w1")


def dropped_by_the_registry(client: redis.Redis) -> None:
    recorded_as_running(client)
    client.delete(f"rq:wip:{QUEUE}")


def begun(client: redis.Redis) -> None:
    taken(client, "a")
    begin(KEYS, "w1", "a", QUEUE, a_run()).run(client)
    append(client, "a", "0-0", entry("1-0", STARTED, "started"))


def a_run() -> Run:
    return Run(
        "run", {"worker_name": "w1"}, {"status": "started", "worker_name": "w1", "started_at": NOW}, 99, 2e9
    )


def but_for_its_events(client: redis.Redis) -> None:
    settled_job(client)
    client.delete("rq:job:a", KEYS.result("a"), "rq:results:a")


def but_for_its_result(client: redis.Redis) -> None:
    settled_job(client)
    client.delete("rq:job:a", KEYS.events("a"))


def but_for_a_request(client: redis.Redis) -> None:
    client.set(KEYS.cancel("a"), "1")


def cleared_for_another_run(client: redis.Redis) -> None:
    finish(client, running(client, "a"), event_id="3-7")
    clear(KEYS, "w1", "a").run(client)
    put_back(KEYS, "w1", "a", QUEUE, engine_died=False).run(client)


def other_things_in_its_place(client: redis.Redis) -> None:
    for key in (KEYS.events("a"), "rq:job:a", KEYS.waiters("a"), "rq:executions:a", "rq:job:a:dependencies"):
        client.rpush(key, "x")
    client.hset(KEYS.result("a"), "x", "y")
    client.set(f"rq:wip:{QUEUE}", "x")
    client.set(f"rq:deferred:{QUEUE}", "x")


STATES = [
    *(none, queued, queued_high, waited_for, put_back_to_its_queue, cleared_for_another_run),
    *(in_a_registry(name) for name in ("deferred", "scheduled", "ready", "failed", "finished", "canceled")),
    *(with_dependencies, in_a_group_under_a_limit, settled_job, cancelled, stranded),
    *(recorded_as_running, dropped_by_the_registry, left_by_the_dead_as_running),
    *(but_for_its_events, but_for_its_result, but_for_a_request, other_things_in_its_place),
]


@pytest.mark.parametrize("make", STATES, ids=lambda make: make.__name__)
def test_nothing_of_a_job_is_left(client, make):
    make(client)
    submit_jobs(client, OTHER)
    client.hset("rq:job:b", "origin", QUEUE)
    assert bool(left_of(client, "a")) == (make is not none)
    others = {name: left_of(client, name) for name in (OTHER, "b", "a-b")}
    assert delete_job(client) is (make is not none)
    assert left_of(client, "a") == []
    after = {name: left_of(client, name) for name in others}
    if make is with_dependencies:  # which was a key of the job's own
        others["b"].remove("rq:job:a:dependents has b")
        others[OTHER].remove(f"rq:job:a:dependencies has {OTHER}")
    assert after == others


def test_a_job_that_is_deleted_twice_is_gone(client):
    queued(client)
    assert delete_job(client) is True
    before = state(client)
    assert delete_job(client) is False
    assert state(client) == before


@pytest.mark.parametrize(
    "take", [taken, running, lambda client, _: begun(client)], ids=["taken", "running", "begun"]
)
def test_a_job_that_a_worker_has_is_not_deleted(client, take):
    take(client, "a")
    before = state(client)
    assert delete_job(client) == Held("w1")
    assert state(client) == before


def test_one_that_its_hash_knows_no_holder_of_is_looked_for_in_every_list(client):
    running(client, "a")
    client.delete("rq:job:a")
    assert delete_job(client) == Held("w1")


def test_a_holder_that_is_no_taker_is_known_by_the_hash(client):
    running(client, "a")
    client.delete(KEYS.takers)
    assert delete_job(client) == Held("w1")
    client.hdel("rq:job:a", "taken_by")
    assert delete_job(client) == Held("w1")
    client.hset("rq:job:a", mapping={"taken_by": "w1", "worker_name": ""})
    assert delete_job(client) == Held("w1")


def test_an_end_of_which_rq_is_yet_to_hear_is_deleted_once_it_has(client):
    finish(client, running(client, "a"))
    assert delete_job(client) == Held("w1")
    claim(KEYS, "w1", "w2", b"a", ttl_s=99).run(client)
    assert delete_job(client) == Held("w2.settling")
    settled(KEYS, "w2", b"a").run(client)
    assert delete_job(client) is True
    assert left_of(client, "a") == []


def test_a_worker_that_runs_it_without_a_list_has_it_all_the_same(client):
    running(client, "a")
    client.delete(KEYS.taken("w1"))
    client.hset("rq:worker:w1", "birth", NOW)
    assert delete_job(client) == Held("w1")
    client.hset("rq:worker:w1", "death", NOW)
    assert delete_job(client) is True


def test_an_end_does_not_wait_for_what_rq_says_of_a_live_worker(client):
    finish(client, running(client, "a"))
    client.delete(KEYS.taken("w1"))
    client.hset("rq:worker:w1", "birth", NOW)
    assert delete_job(client) is True


def test_whoever_waits_for_it_is_woken(client):
    waited_for(client)
    delete_job(client)
    assert client.xlen(KEYS.wake("1")) == 1


def test_its_id_stands_for_a_new_job_afterwards(client):
    settled_job(client)
    delete_job(client)
    assert submit_jobs(client, "a", digest="another") == [True]
    assert (ids(client, "a"), field(client, "a", "status")) == ([], "queued")


def test_the_deadlines_of_each_model_are_looked_through(client):
    submit_jobs(client, "a", model="small")
    client.delete("rq:job:a")
    assert delete_job(client, models=("tiny", "small")) is True
    assert left_of(client, "a") == []


def test_whoever_had_it_adds_nothing_afterwards(client):
    """It has let go of the job, and says so once more: the answer was lost."""
    settled_job(client)
    delete_job(client)
    put_down(KEYS, "w1", "a").run(client)
    assert left_of(client, "a") == []


def test_a_worker_that_was_taken_for_dead_does_not_bring_a_deleted_job_back(client):
    """It was stopped, another one had the job, and it was deleted there. Then it goes on."""
    settled_elsewhere(client)
    delete_job(client)
    assert client.get(KEYS.deleted("a")) == b""
    assert 86_000 < client.ttl(KEYS.deleted("a")) <= 86_400
    assert append(client, "a", "1-0", entry("1-1"), worker="frozen").answer == "fenced"
    assert append(client, "a", "0-0", entry("1-0", STARTED, "started"), worker="frozen").answer == "fenced"
    assert not begin(KEYS, "frozen", "a", QUEUE, a_run()).run(client)
    assert left_of(client, "a") == MARK


def test_the_mark_of_a_deleted_job_does_not_hold_up_the_next_of_its_id(client):
    settled_elsewhere(client)
    delete_job(client)
    finish(client, running(client, "a"))
    assert field(client, "a", "status") == "started"
    assert ids(client, "a") == ["1-0"]
