"""A job that cannot be run has its end all the same, with its result."""

from producer.contract import InvalidRequest
from worker.job import Done

from .runs import JOB, KEYS, events, result


async def test_a_refused_job_ends_once_with_its_result(client, runner):
    outcome = await runner.refuse(JOB, "tiny", InvalidRequest("no"), result_ttl_s=60)
    again = await runner.refuse(JOB, "tiny", InvalidRequest("no, again"), result_ttl_s=60)
    assert outcome == Done(outcome.result)
    assert again == Done(outcome.result, is_news=False)
    assert [event.type for event in await events(client)] == ["failed"]
    ended = await result(client)
    assert (ended.error.message, ended.finish_reason) == ("no", "error")
    assert (ended.attempts, ended.worker) == (1, "w1")


async def test_a_job_is_refused_by_whoever_read_its_stream_last_and_not_by_its_owner(client, runner):
    """The one whose worker died too often, say: RQ's hash still names the dead one."""
    await client.lrem(KEYS.taken("w1"), 1, JOB)
    await client.hset(f"rq:job:{JOB}", mapping={"status": "started", "worker_name": "dead"})
    outcome = await runner.refuse(JOB, "tiny", InvalidRequest("no"), result_ttl_s=60)
    assert outcome == Done(await result(client))


async def test_a_job_whose_worker_wrote_on_is_refused_behind_what_it_wrote(client, runner, monkeypatch):
    read = runner._history
    reads = []

    async def overtaken(job_id: str):
        past = await read(job_id)
        if not reads:
            data = '{"index":0,"ids":[5],"text":"a"}'
            await client.xadd(KEYS.events(JOB), {"type": "tokens", "data": data}, id="1-1")
        reads.append(past)
        return past

    await client.xadd(KEYS.events(JOB), {"type": "x", "data": "{}"}, id="1-0")
    monkeypatch.setattr(runner, "_history", overtaken)
    outcome = await runner.refuse(JOB, "tiny", InvalidRequest("no"), result_ttl_s=60)
    assert (outcome.result.status, outcome.result.text) == ("failed", "a")
    assert len(reads) == 2
