"""Versions side by side: this one, the one before as it was recorded, and one that writes more, in both roles."""

import asyncio
import json
from typing import Any, Literal

import pytest
from fakeredis import FakeAsyncRedis, FakeRedis, FakeServer
from rq.job import Job
from rq.serializers import JSONSerializer

from producer import GenerationRequest, InvalidRequest, Producer, Tokens
from producer.broker.outage import Outage
from producer.contract import (
    BASE_REQUEST_FIELDS,
    FUNCTION,
    GenerationResult,
    Keys,
    Markup,
    Started,
    StartedData,
    TokensData,
    UnknownEvent,
    Usage,
    events,
    parse_entry,
)
from producer.contract.tolerant import Tolerant
from producer.ledger.take import Taken
from tests.fixtures.recorded import Recording
from tests.unit.worker.scripted_engine import ScriptedEngine
from worker import intake
from worker.job import Done, Order
from worker.run import attempt
from worker.run.event_log import EventLog
from worker.run.history import read_or_discard_history
from worker.run.runner import Runner
from worker.settings import WorkerSettings

KEYS = Keys()
QUEUES = KEYS.queues("tiny")
SETTINGS = WorkerSettings(model_name="tiny")


# -- a version that says more than this one


class NewerRequest(GenerationRequest):
    """A request of the next version."""

    reasoning: Literal["low", "high"] | None = None


class NewerUsage(Usage):
    """Token counts of the next version."""

    energy_j: float = 0.0


class NewerResult(GenerationResult):
    """A result of the next version."""

    usage: NewerUsage = NewerUsage()
    trace_id: str | None = None


class NewerStartedData(StartedData):
    """What the next version says of a start."""

    engine: str = "static"


class NewerTokensData(TokensData):
    """Tokens of the next version."""

    drafted: int = 0


class NewerStarted(Started):
    """A start in the next version."""

    data: NewerStartedData


def newer_entries(job_id: str) -> list[tuple[str, dict[str, str]]]:
    """A stream that the next version has begun, with an event of a type that is new."""
    started = NewerStartedData(attempt=1, worker="w0", model="tiny", prompt_tokens=3, seed=7)
    tokens = NewerTokensData(index=0, ids=(5, 6), text="ab", drafted=1)
    return [
        ("1-0", {"type": "planned", "data": json.dumps({"job_id": job_id, "steps": ["a"]}, indent=1)}),
        ("1-1", {"type": "started", "data": started.model_dump_json()}),
        ("1-2", {"type": "tokens", "data": tokens.model_dump_json()}),
        ("1-3", {"type": "planned", "data": "{}"}),
    ]


@pytest.fixture
def client(fake_server: FakeServer) -> FakeRedis:
    return FakeRedis(server=fake_server)


@pytest.fixture
def producer(fake_server: FakeServer):
    with Producer(connection=FakeRedis(server=fake_server)) as producer:
        yield producer


@pytest.fixture
async def async_client(fake_server: FakeServer):
    client = FakeAsyncRedis(server=fake_server)
    yield client
    await client.aclose()


def job_of(client: FakeRedis, job_id: str) -> Job:
    return Job.fetch(job_id, connection=client, serializer=JSONSerializer)


def order_of(job: Job) -> Order:
    """What a worker of this version reads in a job that it has just taken."""
    seconds, microseconds = job.connection.time()
    taken = Taken(job.id, job.connection.hgetall(job.key), seconds * 1000 + microseconds // 1000)
    return intake.read_order(job, taken, SETTINGS, QUEUES)


async def go_on(
    client: FakeAsyncRedis, order: Order, *texts: str, finish: str = "length", **accepted: Any
) -> tuple[Any, Any]:
    """Run a job on from its stream with an engine that says those texts; the outcome and the engine's run."""
    await client.rpush(KEYS.taken("w2"), order.job_id)
    engine = ScriptedEngine()
    runner = Runner(engine, client, KEYS, worker_name="w2", cancel_poll_s=1, live_ttl_s=1000)
    task = asyncio.create_task(runner.run(order))
    run = await asyncio.wait_for(engine.runs.get(), 30)
    run.accept(**accepted)
    run.steps(*texts, finish=finish)
    run.end()
    return await task, run


# -- what a newer worker wrote, this version reads


async def test_a_worker_goes_on_from_a_newer_workers_stream_and_its_producer_sees_no_gap(
    producer, client, async_client
):
    handle = producer.submit("Hi", model="tiny", max_new_tokens=4)
    written = newer_entries(handle.job_id)
    for entry_id, fields in written:
        client.xadd(KEYS.events(handle.job_id), fields, id=entry_id)
    before = client.xrange(KEYS.events(handle.job_id))

    order = order_of(job_of(client, handle.job_id))
    outcome, run = await go_on(async_client, order, "c", "d")

    assert isinstance(outcome, Done)
    assert (run.seed, run.resumed_ids) == (7, [5, 6])
    assert client.xrange(KEYS.events(handle.job_id))[: len(before)] == before
    followed = list(handle.stream(timeout_s=10))
    assert [str(event.id) for event in followed] == ["1-1", "1-2", "2-4", "2-5", "2-6"]
    assert "".join(event.event.data.text for event in followed if isinstance(event.event, Tokens)) == "abcd"
    assert handle.result(timeout_s=10).text == outcome.result.text == "abcd"
    assert list(handle.stream(after="1-2", timeout_s=10)) == followed[2:]
    assert list(handle.stream(after="1-3", timeout_s=10)) == followed[2:]


async def test_a_newer_workers_result_is_read_and_waited_for(producer, client):
    handle = producer.submit("Hi", model="tiny")
    result = NewerResult(
        job_id=handle.job_id, status="finished", model="tiny", text="ab", finish_reason="tool_call", trace_id="t"
    )
    client.xadd(KEYS.events(handle.job_id), {"type": "finished", "data": result.model_dump_json()}, id="1-0")
    client.set(KEYS.result(handle.job_id), result.model_dump_json())

    read = handle.result(timeout_s=10).raise_for_status()

    assert (read.text, read.finish_reason) == ("ab", "tool_call")
    assert type(read) is GenerationResult


# -- what this version wrote, a newer one reads


async def test_a_newer_worker_goes_on_from_this_versions_stream_and_this_producer_follows(
    producer, client, async_client, monkeypatch
):
    handle = producer.submit("Hi", model="tiny", max_new_tokens=2)
    log = EventLog(
        async_client, KEYS, handle.job_id, (), worker="w2", as_owner=False, live_ttl_s=100, result_ttl_s=100
    )
    log.start(Started(data=StartedData(attempt=1, worker="w1", model="tiny", prompt_tokens=3, seed=7)))
    log.tokens(0, [5], "a")
    log.close()
    await log.run()

    with monkeypatch.context() as newer:
        newer.setitem(events._TYPES, "started", (NewerStarted, NewerStartedData))
        newer.setitem(events._TYPES, "tokens", (Tokens, NewerTokensData))
        newer.setattr(attempt, "Started", NewerStarted)
        newer.setattr(attempt, "StartedData", NewerStartedData)
        outcome, run = await go_on(async_client, order_of(job_of(client, handle.job_id)), "b")

    assert (run.seed, run.resumed_ids) == (7, [5])
    second_start = client.xrange(KEYS.events(handle.job_id))[2]
    assert json.loads(second_start[1][b"data"])["engine"] == "static"
    followed = list(handle.stream(timeout_s=10))
    assert [str(event.id) for event in followed] == ["1-0", "1-1", "2-2", "2-3", "2-4"]
    assert handle.result(timeout_s=10) == outcome.result
    assert outcome.result.text == "ab"


async def test_a_newer_producer_reads_this_versions_result(producer, client, async_client):
    handle = producer.submit("Hi", model="tiny", max_new_tokens=1)
    await go_on(async_client, order_of(job_of(client, handle.job_id)), "a")

    read = NewerResult.model_validate_json(client.get(KEYS.result(handle.job_id)))

    assert (read.text, read.trace_id, read.usage.energy_j) == ("a", None, 0.0)


# -- requests


def enqueue(client: FakeRedis, request: GenerationRequest) -> Job:
    """As any producer does, whose request this version may not know."""
    job = Job.create(
        FUNCTION,
        kwargs={"request": request.to_wire()},
        connection=client,
        serializer=JSONSerializer,
        origin="generate.tiny",
    )
    job.save()
    return job_of(client, job.id)


def test_a_newer_producer_that_asks_for_nothing_new_is_served(client):
    order = order_of(enqueue(client, NewerRequest(prompt="Hi", top_k=5, reasoning=None)))

    assert order.request == GenerationRequest(prompt="Hi", top_k=5)


def test_a_newer_producer_that_asks_for_something_new_is_told_who_is_behind(client):
    with pytest.raises(InvalidRequest, match="does not know the field 'reasoning': it is older than the producer"):
        order_of(enqueue(client, NewerRequest(prompt="Hi", reasoning="high")))


def test_this_versions_producer_is_served_by_a_newer_worker(producer, client):
    handle = producer.submit("Hi", model="tiny", top_k=5)

    request = NewerRequest.parse(job_of(client, handle.job_id).kwargs["request"], as_worker=True)

    assert (request.prompt, request.top_k, request.reasoning) == ("Hi", 5, None)


# -- tools, which the version before does not know

TOOLS = {
    "messages": [{"role": "user", "content": "Wien?"}],
    "tools": [{"type": "function", "function": {"name": "weather"}}],
}
CALL = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>'


class OlderResult(Tolerant):
    """A result as the version before reads it."""

    status: Literal["finished", "failed", "cancelled"] | str
    text: str
    finish_reason: Literal["stop", "length", "cancelled", "error"] | str


class OlderStartedData(Tolerant):
    """A start as the version before reads it."""

    attempt: int
    seed: int


async def test_an_older_producer_reads_the_result_of_a_job_that_has_called_a_tool(producer, client, async_client):
    handle = producer.submit(model="tiny", **TOOLS)
    outcome, _ = await go_on(
        async_client,
        order_of(job_of(client, handle.job_id)),
        CALL,
        markup=Markup(tool_calls="hermes"),
        finish="stop",
    )

    read = OlderResult.model_validate_json(client.get(KEYS.result(handle.job_id)))
    first, *_ = client.xrange(KEYS.events(handle.job_id))

    assert outcome.result.message.tool_calls[0].function.name == "weather"
    assert (read.status, read.text, read.finish_reason) == ("finished", CALL, "tool_calls")
    assert OlderStartedData.model_validate_json(first[1][b"data"]).attempt == 1


@pytest.mark.parametrize(
    "wanted", [TOOLS, {"messages": [{"role": "tool", "content": "sunny", "tool_call_id": "abc"}]}]
)
def test_an_older_worker_is_not_given_what_it_would_refuse(producer, client, wanted):
    older = {"birth": "2026-01-01T00:00:00Z", "request_fields": ",".join(BASE_REQUEST_FIELDS)}
    client.hset("rq:worker:w0", mapping=older)
    client.sadd("rq:workers:generate.tiny", "rq:worker:w0")

    with pytest.raises(InvalidRequest, match=r"no live worker understands '(tools|messages\.tool_call_id)'"):
        producer.submit(model="tiny", **wanted)
    assert producer.submit(model="tiny", messages=TOOLS["messages"]).created


@pytest.mark.parametrize("markup", ["in a form of its own", {"tool_calls": "of a later version", "new": 1}])
async def test_calls_in_a_form_of_a_later_version_are_content(producer, client, markup):
    handle = producer.submit(model="tiny", messages=TOOLS["messages"])
    started = StartedData(attempt=1, worker="w0", model="tiny", prompt_tokens=3, seed=7).model_dump()
    client.xadd(
        KEYS.events(handle.job_id),
        {"type": "started", "data": json.dumps({**started, "markup": markup})},
        id="1-0",
    )
    tokens = TokensData(index=0, ids=(5,), text=CALL)
    client.xadd(KEYS.events(handle.job_id), {"type": "tokens", "data": tokens.model_dump_json()}, id="1-1")

    first = next(handle.deltas(timeout_s=60))

    assert (first.content, first.tool_calls) == (CALL, None)


# -- the version before, as it was recorded


@pytest.mark.parametrize("name", ["queued-by-producer", "queued-by-rq"])
async def test_a_worker_runs_a_job_that_the_version_before_enqueued(client, async_client, name):
    recording = Recording.load(name)
    recording.restore(client)

    order = order_of(job_of(client, recording.job_id))
    outcome, run = await go_on(async_client, order, "a")

    assert isinstance(outcome, Done)
    assert (run.request, run.seed) == ({"prompt": "Hi", "max_new_tokens": 8, "seed": 7}, 7)
    assert outcome.result.text == "a"


async def test_a_worker_goes_on_from_the_stream_of_the_version_before(client, async_client):
    """Its worker was killed in mid-stream. Redis comes back empty meanwhile, too: the stream is what it was."""
    recording = Recording.load("cut-off")
    recording.restore(client)
    earlier = [parse_entry(*entry).event.data for entry in recording.entries]
    ids = [token_id for data in earlier[1:] for token_id in data.ids]

    order = order_of(job_of(client, recording.job_id))
    outcome, run = await go_on(async_client, order, "这", "里")

    assert (run.resumed_ids, run.seed) == (ids, earlier[0].seed)
    assert client.xrange(KEYS.events(recording.job_id))[: len(recording.entries)] == recording.entries
    assert outcome.result.text == "".join(data.text for data in earlier[1:]) + "这里"
    assert list(outcome.result.token_ids) == [*ids, len(ids), len(ids) + 1]
    assert outcome.result.attempts == 2


async def test_the_stream_of_the_version_before_is_filled_up_again_as_it_was(client, async_client):
    recording = Recording.load("cut-off")
    recording.restore(client)
    await async_client.rpush(KEYS.taken("w2"), recording.job_id)
    past = await read_or_discard_history(async_client, KEYS, recording.job_id, "w2", Outage())
    log = EventLog(
        async_client,
        KEYS,
        recording.job_id,
        past.entries,
        worker="w2",
        as_owner=False,
        live_ttl_s=100,
        result_ttl_s=100,
    )

    client.flushall()
    log.tokens(0, [5], "a")
    log.close()
    await log.run()

    assert client.xrange(KEYS.events(recording.job_id))[:-1] == recording.entries


@pytest.mark.parametrize(
    "name", ["finished", "failed", "cancelled", "finished-with-stop", "finished-with-logprobs"]
)
async def test_an_end_of_the_version_before_is_an_end(client, async_client, name):
    recording = Recording.load(name)
    recording.restore(client)
    past = await read_or_discard_history(async_client, KEYS, recording.job_id, "w2", Outage())

    assert past.fault is None
    assert past.ended == GenerationResult.model_validate_json(recording.result)
    assert not any(isinstance(parse_entry(*entry), UnknownEvent) for entry in recording.entries)
