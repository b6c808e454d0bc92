"""As people write it: all of this is accepted."""

import asyncio
from typing import Unpack

from producer import (
    AsyncProducer,
    GenerationRequest,
    GenerationResult,
    GenqueueError,
    JobError,
    Message,
    Producer,
    SamplingOptions,
    Tokens,
    as_completed,
    gather,
)


def ask(prompt: str) -> str:
    with Producer("redis://127.0.0.1:6379/0") as producer:
        job = producer.submit(prompt, model="tiny", max_new_tokens=32, temperature=1, stop="END", seed=None)
        for streamed in job.stream():
            if isinstance(streamed.event, Tokens):
                print(streamed.event.data.text, end="", flush=True)
        result = job.result(timeout_s=float("inf"))
    return result.text if not result.truncated else result.text + "..."


def ask_several(producer: Producer, prompt: str) -> list[str]:
    as_json = {"type": "json_object"}
    jobs = producer.submit(prompt, model="tiny", n=3, seed=1, response_format=as_json, job_id="mine", group="ours")
    return [job.text() for job in jobs]


def ask_as_always(producer: Producer, prompt: str, **options: Unpack[SamplingOptions]) -> str:
    return producer.submit(prompt, model="tiny", **options).result().text


def look_at_failures(producer: Producer) -> list[str | None]:
    jobs = producer.submit_many(
        ["a", {"prompt": "b", "seed": 5}, GenerationRequest(prompt="c")], model="tiny", top_p=0.9, stop=["a", "b"]
    )
    ended: list[GenerationResult] = [job.result(check=False) for job in jobs]
    return [result.error.message if result.error else None for result in ended]


async def chat(producer: AsyncProducer) -> str | None:
    messages = [Message(role="user", content="Hi")]
    job = await producer.submit(model="tiny", messages=messages, priority="high", logprobs=5)
    try:
        return (await job.result()).text
    except JobError as error:
        print(error.code, error.job_id, error.hint)
        return None


def call_tools(producer: Producer) -> list[Message]:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    chat = [Message(role="user", content="Hi")]
    job = producer.submit(
        model="tiny", messages=chat, tools=[tool], tool_choice="auto", chat_template_kwargs={"a": 1}
    )
    for delta in job.deltas(timeout_s=60):
        for piece in delta.tool_calls or ():
            print(piece.index, piece.function.name or "", piece.function.arguments)
    message = job.message()
    answers = [Message(role="tool", tool_call_id=call.id, content="1") for call in message.tool_calls]
    chosen = {"type": "function", "function": {"name": "f"}}
    print(producer.submit(model="tiny", messages=[{"role": "user", "content": "a"}], tool_choice=chosen).text())
    return [*chat, message, *answers]


def ask_all(producer: Producer, prompts: list[str]) -> list[str]:
    jobs = producer.submit_many(prompts, model="tiny")
    for job in as_completed((job for job in jobs), timeout_s=60):
        print(jobs.index(job), job.text(), "".join(job.text_stream(timeout_s=5)))
    results: list[GenerationResult] = gather(jobs, progress=True)
    return [result.text for result in results]


def count_failures(producer: Producer, prompts: list[str]) -> int:
    outcomes = gather(producer.submit_many(prompts, model="tiny"), return_exceptions=True, timeout_s=float("inf"))
    return sum(isinstance(outcome, GenqueueError) for outcome in outcomes)


async def ask_all_async(prompts: list[str]) -> list[GenerationResult]:
    async with AsyncProducer(on_interrupt="cancel") as producer:
        jobs = await producer.submit_many(prompts, model="tiny")
        async for job in as_completed(jobs):
            print(await job.text(), [piece async for piece in job.text_stream()])
        task = asyncio.create_task(gather(jobs))
        outcomes: list[GenerationResult | GenqueueError] = await gather(jobs, return_exceptions=True)
        print(len(outcomes))
        return await task
