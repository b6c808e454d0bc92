"""A script is sent by its hash, and whole where the server does not know it."""

from fakeredis import FakeAsyncRedis

from producer.ledger.step import GUARDS, script
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


def test_every_script_begins_with_the_guards():
    guards, step = script(GUARDS), script("take")
    assert step.text.startswith(guards.text[: len(guards.text) // 2])
    assert step.sha != guards.sha
