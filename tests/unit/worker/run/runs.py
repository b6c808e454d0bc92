"""One job on a scripted engine: how a test starts it, and what it reads of it afterwards."""

import asyncio
from itertools import pairwise

from fakeredis import FakeAsyncRedis

from producer.contract import GenerationRequest, GenerationResult, Keys, Tokens, parse_entry
from worker.job import Order
from worker.run.runner import Runner

from ..scripted_engine import ScriptedEngine, ScriptedRun

KEYS = Keys()
JOB = "job-1"


def order(**fields) -> Order:
    request = GenerationRequest.parse({"prompt": "hi", **fields.pop("request", {})})
    return Order(job_id=JOB, model="tiny", request=request, **{"timeout_s": 30, "result_ttl_s": 100, **fields})


def runner_of(
    engine: ScriptedEngine, client: FakeAsyncRedis, name: str, *, cancel_poll_s: float, **options
) -> Runner:
    ttl = {"live_ttl_s": 1000}
    return Runner(engine, client, KEYS, worker_name=name, cancel_poll_s=cancel_poll_s, **ttl, **options)


async def begin(
    runner: Runner, engine: ScriptedEngine, an_order: Order | None = None
) -> tuple[asyncio.Task, ScriptedRun]:
    """Start a job; give back its task and the engine's run.  Raises what the task does, if that comes first."""
    task = asyncio.create_task(runner.run(an_order or order()))
    begun = asyncio.create_task(engine.runs.get())
    await asyncio.wait({task, begun}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    assert begun.done(), task.result()
    return task, begun.result()


async def until_written(client: FakeAsyncRedis, entries: int) -> None:
    """Until so many entries stand in the stream."""
    async with asyncio.timeout(60):
        while await client.xlen(KEYS.events(JOB)) < entries:
            await asyncio.sleep(0)


async def events(client: FakeAsyncRedis) -> list:
    return [parse_entry(entry_id, fields).event for entry_id, fields in await client.xrange(KEYS.events(JOB))]


async def result(client: FakeAsyncRedis) -> GenerationResult:
    return GenerationResult.model_validate_json(await client.get(KEYS.result(JOB)))


def joined(stream: list) -> tuple[str, list[int]]:
    tokens = [event.data for event in stream if isinstance(event, Tokens)]
    for before, after in pairwise(tokens):
        assert after.index == before.index + len(before.ids)
    return "".join(data.text for data in tokens), [token for data in tokens for token in data.ids]
