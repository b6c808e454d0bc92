"""As people write it: all of this is accepted."""

from typing import Unpack

from producer import (
    AsyncProducer,
    GenerationRequest,
    GenerationResult,
    JobError,
    Message,
    Producer,
    SamplingOptions,
    Tokens,
)


def ask(prompt: str) -> str:
    with Producer("redis://127.0.0.1:6379/0") as producer:
        job = producer.submit(prompt, model="tiny", max_new_tokens=32, temperature=1, stop="END", seed=None)
        for streamed in job.stream():
            if isinstance(streamed.event, Tokens):
                print(streamed.event.data.text, end="", flush=True)
        result = job.result(timeout_s=float("inf"))
    return result.text if not result.truncated else result.text + "..."


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
