"""Whoever waits for a job's end is told of it, or finds it there."""

from producer.contract import GenerationResult
from producer.ledger.step import script
from producer.ledger.stream import last_id
from producer.ledger.waiting import await_end
from producer.waking import WAKES_KEPT

from .steps import KEYS, append, entry, finish, result_of, running

WAKE = KEYS.wake("1")


def wait(client):
    return await_end(KEYS, "a", WAKE, ttl_s=300).run(client)


def test_who_waits_for_a_job_is_told_of_its_end(client):
    running(client, "a")
    assert wait(client) is None
    assert client.smembers(KEYS.waiters("a")) == {WAKE.encode()}
    assert 290 < client.ttl(KEYS.waiters("a")) <= 300
    finish(client, "a")
    assert client.xlen(WAKE) == 1


def test_whoever_writes_to_a_wake_stream_keeps_as_much_of_it():
    assert f"'XADD', wake, 'MAXLEN', '~', {WAKES_KEPT}," in script("await_end").text


def test_who_comes_after_the_end_gets_it_and_waits_for_nothing(client):
    finish(client, running(client, "a"))
    entry_id, fields = wait(client)
    assert (entry_id, fields[b"type"]) == (b"1-0", b"finished")
    assert GenerationResult.model_validate_json(fields[b"data"]) == result_of("a")
    assert not client.exists(KEYS.waiters("a"))


def test_who_comes_after_the_stream_is_gone_waits_for_nothing(client):
    """The result is kept, and tells of the end by itself."""
    finish(client, running(client, "a"))
    client.delete(KEYS.events("a"))
    assert wait(client) is None
    assert not client.exists(KEYS.waiters("a"))


def test_who_waits_for_a_job_that_is_not_there_leaves_no_key(client):
    running(client, "b")
    assert wait(client) == "gone"
    assert not client.exists(KEYS.waiters("a"))


def test_where_the_waiters_are_something_else_the_wait_goes_on(client):
    running(client, "a")
    client.set(KEYS.waiters("a"), "foreign")
    assert wait(client) is None


def test_the_last_id_of_a_stream_is_read_without_its_event(client):
    assert str(last_id(KEYS, "a").run(client)) == "0-0"
    running(client, "a")
    append(client, "a", "0-0", entry("1-0"), entry("1-1"))
    assert str(last_id(KEYS, "a").run(client)) == "1-1"
    client.set(KEYS.events("b"), "foreign")
    assert str(last_id(KEYS, "b").run(client)) == "0-0"
