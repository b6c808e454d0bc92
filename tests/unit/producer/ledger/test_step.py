"""A script is sent by its hash, and whole where the server does not know it."""

import hashlib

import pytest
from fakeredis import FakeAsyncRedis

from producer.ledger import step
from producer.ledger.step import GUARDS, Script, Step, script
from producer.ledger.take import come_back

from .steps import field


def test_a_server_that_has_forgotten_its_scripts_gets_them_again(client):
    for _ in range(2):
        client.script_flush()
        client.hset("rq:job:a", mapping={"deaths": 1, "lost_by": "w1"})
        come_back("w1", "a").run(client)
        assert field(client, "a", "deaths") == "0"


def test_a_step_in_a_pipeline_needs_nothing_that_the_server_remembers(client):
    client.script_flush()
    client.hset("rq:job:a", mapping={"deaths": 1, "lost_by": "w1"})
    with client.pipeline() as pipeline:
        come_back("w1", "a").send(pipeline)
        pipeline.execute()
    assert field(client, "a", "deaths") == "0"


async def test_a_step_runs_on_an_asynchronous_client_too(fake_server):
    client = FakeAsyncRedis(server=fake_server)
    for _ in range(2):
        await client.script_flush()
        await client.hset("rq:job:a", mapping={"deaths": 1, "lost_by": "w1"})
        await come_back("w1", "a").run_async(client)
        assert await client.hget("rq:job:a", "deaths") == b"0"
    await client.aclose()


def echo() -> Step[list[bytes]]:
    """A step that shows what it got."""
    return Step("echo", ["key"], ["argument"], list)


@pytest.fixture
def echoing(monkeypatch):
    text = "return {KEYS[1], ARGV[1]}"
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(step, "script", lambda _: Script(text, sha))


def test_a_server_that_remembers_its_scripts_gets_keys_and_arguments(client, echoing):
    for _ in range(2):
        assert echo().run(client) == [b"key", b"argument"]


async def test_so_does_one_with_an_asynchronous_client(fake_server, echoing):
    client = FakeAsyncRedis(server=fake_server)
    for _ in range(2):
        assert await echo().run_async(client) == [b"key", b"argument"]
    await client.aclose()


def test_every_script_begins_with_the_guards():
    guards, take = script(GUARDS), script("take")
    assert take.text.startswith(guards.text[: len(guards.text) // 2])
    assert take.sha != guards.sha
