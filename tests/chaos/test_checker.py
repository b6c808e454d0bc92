"""The checker finds each kind of broken promise, and nothing in a job that kept them all."""

import base64
import json
from collections.abc import Callable

import pytest
from fakeredis import FakeRedis, FakeServer

from .checker import Entry, Expected, check, check_subscriber, read

JOB = "job-1"
EVENTS, RESULT = f"gen:{{{JOB}}}:events", f"gen:{{{JOB}}}:result"
RQ_JOB, RESULTS = f"rq:job:{JOB}", f"rq:results:{JOB}"
EXPECTED = Expected(JOB, "你好🌱!", (5, 6, 7, 8), "length")

Events = list[tuple[str, str, dict]]


def started(attempt: int, resumed: int, seed: int = 7) -> dict:
    return {"attempt": attempt, "worker": f"w{attempt}", "resumed_tokens": resumed, "seed": seed}


def result(**changes) -> dict:
    return {
        "job_id": JOB,
        "status": "finished",
        "text": "你好🌱!",
        "token_ids": [5, 6, 7, 8],
        "finish_reason": "length",
        "stop": None,
        "usage": {"completion_tokens": 4},
        "attempts": 2,
        "error": None,
        **changes,
    }


def good() -> Events:
    """A job that was taken over by a second worker."""
    return [
        ("1-0", "started", started(1, 0)),
        ("1-1", "tokens", {"index": 0, "ids": [5], "text": "你"}),
        ("1-2", "tokens", {"index": 1, "ids": [6, 7], "text": "好🌱"}),
        ("2-3", "started", started(2, 3)),
        ("2-4", "tokens", {"index": 3, "ids": [8], "text": "!"}),
        ("2-5", "finished", result()),
    ]


@pytest.fixture
def client(fake_server: FakeServer) -> FakeRedis:
    return FakeRedis(server=fake_server)


def store(client: FakeRedis, events: Events) -> None:
    """Put the job where a worker leaves it."""
    for event_id, event_type, data in events:
        client.xadd(EVENTS, {"type": event_type, "data": json.dumps(data)}, id=event_id)
    final = next((data for _, event_type, data in reversed(events) if event_type == "finished"), result())
    client.set(RESULT, json.dumps(final), ex=100)
    client.hset(RQ_JOB, mapping={"status": "finished", "origin": "generate.tiny"})
    value = base64.b64encode(json.dumps(final).encode())
    client.xadd(RESULTS, {"type": 1, "return_value": value})
    for key in (EVENTS, RQ_JOB, RESULTS):
        client.expire(key, 100)
    client.zadd("rq:finished:generate.tiny", {JOB: 1e10})


def rules(client: FakeRedis) -> set[str]:
    return {violation.rule for violation in check(client, [EXPECTED])}


def test_a_job_that_kept_every_promise_is_left_in_peace(client):
    store(client, good())
    assert check(client, [EXPECTED]) == []


def _without(place: int) -> Callable[[Events], None]:
    return lambda events: events.pop(place)


def _with(place: int, **changes) -> Callable[[Events], None]:
    return lambda events: events[place][2].update(changes)


def _as(place: int, event_id: str) -> Callable[[Events], None]:
    def change(events: Events) -> None:
        events[place] = (event_id, *events[place][1:])

    return change


def _plus(*event: object) -> Callable[[Events], None]:
    return lambda events: events.append(event)


STREAMS = {
    "an event is missing": (_without(1), "gap"),
    "a seq is skipped": (_as(5, "2-6"), "gap"),
    "tokens are missing": (_without(1), "joined"),
    "an attempt does not say that it starts": (_without(3), "attempt"),
    "an attempt starts twice": (_plus("2-6", "started", started(2, 4)), "attempt"),
    "a started event names another attempt": (_with(3, attempt=3), "attempt"),
    "there is no end": (_without(5), "end"),
    "there are two ends": (_plus("2-6", "finished", result()), "end"),
    "there is something after the end": (_plus("3-6", "started", started(3, 4)), "end"),
    "the end says something else than its type": (_with(5, status="failed"), "result"),
    "tokens are counted wrongly": (_with(5, usage={"completion_tokens": 3}), "result"),
    "attempts are counted wrongly": (_with(5, attempts=1), "result"),
    "a token is doubled": (_with(4, ids=[7, 8]), "joined"),
    "an index jumps": (_with(4, index=4), "joined"),
    "a text is not the result's": (_with(4, text="?"), "joined"),
    "an attempt goes on from the wrong place": (_with(3, resumed_tokens=2), "resumed"),
    "the seed changes": (_with(3, seed=8), "resumed"),
    "the end has another text": (_with(5, text="你好"), "reference"),
    "the end has other ids": (_with(5, token_ids=[5, 6, 7, 9]), "reference"),
    "the end has another reason": (_with(5, finish_reason="stop", stop="!"), "reference"),
    "the job failed": (_with(5, status="failed", error={"code": "timeout"}), "reference"),
}  # fmt: skip


@pytest.mark.parametrize(("doctor", "rule"), STREAMS.values(), ids=STREAMS)
def test_a_doctored_stream_is_found(client, doctor, rule):
    events = good()
    doctor(events)
    store(client, events)
    assert rule in rules(client)


KEYS = {
    "the result is missing": (lambda r: r.delete(RESULT), "result"),
    "the result is not the terminal event": (lambda r: r.set(RESULT, json.dumps(result(seed=9)), ex=9), "result"),
    "RQ thinks that the job runs": (lambda r: r.hset(RQ_JOB, "status", "started"), "rq"),
    "RQ has lost the job": (lambda r: r.delete(RQ_JOB), "rq"),
    "RQ registered a failure": (lambda r: r.rename("rq:finished:generate.tiny", "rq:failed:generate.tiny"), "rq"),
    "RQ registered no end": (lambda r: r.delete("rq:finished:generate.tiny"), "rq"),
    "RQ has no return value": (lambda r: r.delete(RESULTS), "rq"),
    "RQ has it twice": (lambda r: r.xadd(RESULTS, r.xrange(RESULTS)[0][1]), "rq"),
    "RQ has another": (lambda r: r.xadd(RESULTS, {"return_value": base64.b64encode(b"{}")}), "rq"),
    "the job waits in a queue": (lambda r: r.rpush("rq:queue:generate.tiny.low", JOB), "left"),
    "the job is in a worker's hands": (lambda r: r.rpush("gen:{taken:w1}", JOB), "left"),
    "the job is registered as started": (lambda r: r.zadd("rq:wip:generate.tiny", {f"{JOB}:ab": 1}), "left"),
    "an execution is left": (lambda r: r.hset(f"rq:execution:{JOB}:ab", "id", "ab"), "left"),
    "a worker's execution is left": (lambda r: r.sadd("rq:worker:w1:executions", f"{JOB}:ab"), "left"),
    "a request to cancel is left": (lambda r: r.set(f"gen:{{{JOB}}}:cancel", 1), "left"),
    "the events never expire": (lambda r: r.persist(EVENTS), "left"),
    "the RQ job never expires": (lambda r: r.persist(RQ_JOB), "left"),
}  # fmt: skip


@pytest.mark.parametrize(("doctor", "rule"), KEYS.values(), ids=KEYS)
def test_a_doctored_key_is_found(client, doctor, rule):
    store(client, good())
    doctor(client)
    assert rule in rules(client)


def test_a_job_of_which_nothing_is_left_is_found(client):
    assert {"end", "result"} <= rules(client)


def entries(events: Events) -> list[Entry]:
    return [Entry(*event) for event in events]


SEEN = {
    "missed an event": _without(2),
    "saw an event twice": lambda events: events.insert(2, events[1]),
    "saw events out of order": lambda events: events.insert(1, events.pop(2)),
    "saw other tokens": _with(1, text="妳"),
    "saw what never was": _plus("2-6", "tokens", {"index": 4, "ids": [9], "text": ""}),
    "did not see the end": _without(5),
}


@pytest.mark.parametrize("doctor", SEEN.values(), ids=SEEN)
def test_a_subscriber_with_another_view_is_found(client, doctor):
    store(client, good())
    [evidence] = read(client, [JOB])
    seen = good()
    doctor(seen)
    assert [violation.rule for violation in check_subscriber("s", evidence, entries(seen))] == ["subscriber"]


@pytest.mark.parametrize(("after", "first"), [("0-0", 0), ("1-1", 2), ("2-5", 6)])
def test_a_subscriber_with_a_cursor_owes_only_what_came_after_it(client, after, first):
    store(client, good())
    [evidence] = read(client, [JOB])
    assert check_subscriber("s", evidence, entries(good())[first:], after) == []
