"""The message of a job, at once and in deltas, on fakeredis: `message` and `deltas`."""

from collections.abc import AsyncIterator, Sequence

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from rq.job import Job
from rq.serializers import JSONSerializer

from producer import AsyncProducer, Delta, EngineError, Producer
from producer.contract import ErrorInfo, Markup, Message
from producer.contract.views.message_view import call_id
from tests.scripted_worker import ScriptedWorker

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CHAT = [{"role": "user", "content": "Wien?"}]
PIECES = (
    "<think>",
    "Hm.",
    "</think>\n\nSee:\n",
    '<tool_call>{"name": "wea',
    'ther", "arguments": {"city"',
    ': "Wien"}}',
)
ARGUMENTS = '{"city": "Wien"}'


@pytest.fixture
async def async_producer(fake_server: FakeServer) -> AsyncIterator[AsyncProducer]:
    connection = FakeAsyncRedis(server=fake_server)
    async with AsyncProducer(connection=connection) as producer:
        yield producer
    await connection.aclose()


def play(worker: ScriptedWorker, *, dies_after: int | None = None) -> None:
    """Answer as a model does that thinks and calls; by two workers, if one is to die."""
    markup = Markup(tool_calls="hermes", reasoning="think")
    worker.take(markup=markup)
    worker.publish(*PIECES[:dies_after])
    if dies_after is not None:
        worker.take(worker.job_id, markup=markup)
        worker.publish(*PIECES[dies_after:])
    worker.publish("</tool_call>")
    worker.finish()


def joined(deltas: Sequence[Delta]) -> tuple[str, str, list[str | None]]:
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    return (
        "".join(delta.reasoning or "" for delta in deltas),
        "".join(delta.content or "" for delta in deltas),
        [calls[0].id, calls[0].function.name, "".join(call.function.arguments for call in calls)],
    )


@pytest.mark.parametrize("dies_after", [None, 3, 4, 5])
def test_the_message_in_one_and_in_deltas(
    producer: Producer, worker: ScriptedWorker, dies_after: int | None
) -> None:
    job = producer.submit(messages=CHAT, model="tiny", tools=TOOLS)
    play(worker, dies_after=dies_after)

    message = job.message(timeout_s=60)
    called = [call_id(job.job_id, 0), "weather", ARGUMENTS]
    assert (message.role, message.content, message.reasoning) == ("assistant", "See:", "Hm.")
    assert [[call.id, call.function.name, call.function.arguments] for call in message.tool_calls] == [called]
    assert joined(list(job.deltas(timeout_s=60))) == ("Hm.", "See:", called)
    assert job.result().finish_reason == "tool_calls"
    assert job.text() == "".join(PIECES) + "</tool_call>"


def test_a_message_goes_back_into_the_chat(producer: Producer, worker: ScriptedWorker) -> None:
    job = producer.submit(messages=CHAT, model="tiny", tools=TOOLS)
    play(worker)
    message = job.message(timeout_s=60)
    answer = Message(role="tool", content="sunny", tool_call_id=message.tool_calls[0].id)

    producer.submit(messages=[*CHAT, message, answer], model="tiny", tools=TOOLS, job_id="next")

    sent = Job.fetch("next", connection=worker.client, serializer=JSONSerializer).kwargs["request"]
    *_, asked, answered = sent["messages"]
    assert asked["tool_calls"][0]["function"] == {"name": "weather", "arguments": ARGUMENTS}
    assert asked["reasoning"] == "Hm."
    assert answered["tool_call_id"] == asked["tool_calls"][0]["id"]


def test_arguments_come_as_they_are_written(producer: Producer, worker: ScriptedWorker) -> None:
    job = producer.submit(messages=CHAT, model="tiny", tools=TOOLS)
    worker.take(markup=Markup(tool_calls="hermes"))
    deltas = job.deltas(timeout_s=60)

    worker.publish('<tool_call>{"name": "weather", "arguments": {"ci')
    assert next(deltas).tool_calls[0].function.model_dump() == {"name": "weather", "arguments": '{"ci'}
    worker.publish('ty": 1')
    assert next(deltas).tool_calls[0].function.arguments == 'ty": 1'


def test_a_job_that_failed_raises_its_error_after_its_deltas(producer: Producer, worker: ScriptedWorker) -> None:
    job = producer.submit("Hi", model="tiny")
    worker.take()
    worker.publish("a ")
    worker.finish("failed", "error", ErrorInfo(code="engine_error", message="as asked"))
    deltas = job.deltas()

    assert [next(deltas).content, next(deltas).content] == ["a", " "]
    with pytest.raises(EngineError, match="as asked"):
        next(deltas)


async def test_the_same_with_await(async_producer: AsyncProducer, worker: ScriptedWorker) -> None:
    job = await async_producer.submit(messages=CHAT, model="tiny", tools=TOOLS)
    play(worker)

    called = [call_id(job.job_id, 0), "weather", ARGUMENTS]
    assert joined([delta async for delta in job.deltas(timeout_s=60)]) == ("Hm.", "See:", called)
    assert (await job.message(timeout_s=60)).content == "See:"


async def test_a_job_that_failed_raises_with_await(async_producer: AsyncProducer, worker: ScriptedWorker) -> None:
    job = await async_producer.submit("Hi", model="tiny")
    worker.take()
    worker.publish("a")
    worker.finish("failed", "error", ErrorInfo(code="engine_error", message="as asked"))
    deltas = job.deltas()

    assert (await anext(deltas)).content == "a"
    with pytest.raises(EngineError, match="as asked"):
        await anext(deltas)
