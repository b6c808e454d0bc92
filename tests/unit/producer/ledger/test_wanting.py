"""A job that ends where nobody waits for it. Time is turned by what stands in its hash, and never waited for."""

import redis

from producer.ledger.wanting import ask_unwanted, is_unwanted, leased, want

from .steps import append, entry, running

JOB = "rq:job:a"
LEASE_S = 50.0
LEASE_MS = 50_000


def now_ms(client: redis.Redis) -> int:
    seconds, micros = client.time()
    return seconds * 1000 + micros // 1000


def leased_job(client: redis.Redis, **fields: int) -> None:
    running(client, "a")
    client.hset(JOB, mapping={**leased(LEASE_S), **fields})


def must_end(client: redis.Redis, number: int = 0) -> bool:
    """What the worker's next append is answered."""
    previous = f"1-{number - 1}" if number else "0-0"
    appended = append(client, "a", previous, entry(f"1-{number}"))
    assert appended.answer == "ok"
    return appended.cancel_requested


def field(client: redis.Redis, name: str) -> int:
    return int(client.hget(JOB, name))


def test_a_job_that_nobody_waits_for_any_more_is_to_end(client):
    before = now_ms(client)
    leased_job(client, wanted_until_ms=before - 1, lapsed_at_ms=before - LEASE_MS)
    assert must_end(client)


def test_whoever_could_not_say_that_he_waits_has_as_much_time_again(client):
    """After an outage of Redis the worker is often the first to be back."""
    before = now_ms(client)
    leased_job(client, wanted_until_ms=before - 1)
    assert not must_end(client)
    lapsed = field(client, "lapsed_at_ms")
    assert before <= lapsed <= now_ms(client)
    assert not must_end(client, 1)
    assert field(client, "lapsed_at_ms") == lapsed
    client.hset(JOB, "lapsed_at_ms", before - LEASE_MS)
    assert must_end(client, 2)


def test_a_job_that_is_wanted_again_goes_on(client):
    before = now_ms(client)
    leased_job(client, wanted_until_ms=before - 1, lapsed_at_ms=before - LEASE_MS)
    want(["a"]).run(client)
    assert before + LEASE_MS <= field(client, "wanted_until_ms") <= now_ms(client) + LEASE_MS
    assert not must_end(client)
    client.hset(JOB, "wanted_until_ms", before - 1)
    assert not must_end(client, 1)  # the first time was forgotten


def test_a_job_of_which_nobody_has_said_anything_yet_begins_with_the_whole_time(client):
    leased_job(client)
    before = now_ms(client)
    assert not must_end(client)
    assert before + LEASE_MS <= field(client, "wanted_until_ms") <= now_ms(client) + LEASE_MS


def test_a_job_without_a_lease_goes_on(client):
    running(client, "a")
    client.hset(JOB, mapping={"wanted_until_ms": 1, "lapsed_at_ms": 1})
    assert not must_end(client)


def test_nothing_is_written_to_a_job_that_is_gone_or_has_no_lease(client):
    running(client, "a")
    want(["a", "b"]).run(client)
    assert client.hget(JOB, "wanted_until_ms") is None
    assert not client.exists("rq:job:b")


def test_what_is_no_number_is_no_lease(client):
    leased_job(client, wanted_until_ms=1, lapsed_at_ms=1)
    client.hset(JOB, "lease_ms", "soon")
    want(["a"]).run(client)
    assert not must_end(client)


def test_whether_anybody_waits_is_seen_from_outside(client):
    leased_job(client)
    assert not is_unwanted(ask_unwanted(client, "a"))
    client.hset(JOB, "wanted_until_ms", now_ms(client) - 1)
    assert is_unwanted(ask_unwanted(client, "a"))
    want(["a"]).run(client)
    assert not is_unwanted(ask_unwanted(client, "a"))
