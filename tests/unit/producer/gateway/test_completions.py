"""Chat completions and completions over HTTP: whole and as streams."""

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from producer.gateway.calls import Call
from producer.testing import ScriptedWorker

from .conftest import Door, OpenDoor
from .events import all_events, read_events, text_of


def client_of(door: Door, **options) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=door.url, api_key="none", max_retries=0, http_client=door.http, **options)


CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


async def test_an_openai_client_gets_an_answer(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", "Hello, you.")
    answer = await client_of(door).chat.completions.create(**CHAT, metadata={"a": "b"}, service_tier="flex")
    assert answer.choices[0].message.content == "Hello, you."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.id == f"chatcmpl-{worker.requests[0].job_id}"
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 2,
        "completion_tokens": 11,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert (answer.service_tier, answer.metadata) == ("flex", {"a": "b"})
    assert worker.client.hget(f"rq:job:{worker.requests[0].job_id}", "origin") == b"generate.tiny.low"


async def test_an_openai_client_streams_an_answer(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", ["Hel", "lo,\n\n", "data: you\r\n"])
    options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 13}
    chunks = [chunk async for chunk in await client_of(door).chat.completions.create(**CHAT, **options)]
    first, *middle, last, usage = chunks
    assert first.choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content for chunk in middle) == "Hello,\n\ndata:"
    assert len(middle) == 3
    assert last.choices[0].finish_reason == "length"
    assert (usage.choices, usage.usage.completion_tokens, last.usage) == ([], 13, None)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


async def test_what_is_sent_is_of_openais_types(door: Door, worker: ScriptedWorker):
    """The client's own classes take anything: these refuse what is not as they say."""
    worker.answers("Hi", "abcde")
    for logprobs in ({}, {"logprobs": True, "top_logprobs": 1}):
        ChatCompletion.model_validate((await door.http.post("/v1/chat/completions", json=CHAT | logprobs)).json())
        async with door.http.stream(
            "POST", "/v1/chat/completions", json=CHAT | logprobs | {"stream": True}
        ) as answer:
            *chunks, done = await all_events(answer)
        assert done.data == "[DONE]"
        parsed = [ChatCompletionChunk.model_validate(chunk.data, strict=False) for chunk in chunks]
        said = [chunk.choices[0].logprobs for chunk in parsed if chunk.choices[0].delta.content]
        assert all(bool(each) == bool(logprobs) for each in said)
    body = {"model": "tiny", "prompt": "Hi", "logprobs": 1}
    whole = Completion.model_validate((await door.http.post("/v1/completions", json=body)).json())
    assert whole.choices[0].logprobs.tokens == [f"token_id:{ord(letter)}" for letter in "abcde"]
    async with door.http.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
        *chunks, done = await all_events(answer)
    choices = [chunk.data["choices"][0] for chunk in chunks]
    assert "".join(choice["text"] for choice in choices) == "abcde"
    assert [token for choice in choices[:-1] for token in choice["logprobs"]["tokens"]] == whole.choices[
        0
    ].logprobs.tokens


@pytest.mark.parametrize("stream", [False, True])
async def test_several_answers_are_several_jobs_behind_one_id(door: Door, worker: ScriptedWorker, stream: bool):
    worker.answer_with(lambda asked: f"{asked.prompt}{asked.request.seed}")
    body = {"model": "tiny", "prompt": ["a", "b"], "n": 2, "seed": 7, "stream": stream}
    if stream:
        async with door.http.stream(
            "POST", "/v1/completions", json=body | {"stream_options": {"include_usage": True}}
        ) as answer:
            *chunks, usage, _ = await all_events(answer)
        texts = [text_of(chunks, number) for number in range(4)]
        assert usage.data["usage"]["completion_tokens"] == 8
        public_id = usage.data["id"]
    else:
        answer = (await door.http.post("/v1/completions", json=body)).json()
        texts = [choice["text"] for choice in answer["choices"]]
        public_id = answer["id"]
    assert texts == ["a7", "a8", "b7", "b8"]
    call = public_id.removeprefix("cmpl-")
    assert {asked.job_id for asked in worker.requests} == {call, *(f"{call}-{number}" for number in (1, 2, 3))}


async def test_the_prompt_of_several_answers_of_a_chat_counts_once(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", "four")
    usage = (await door.chat("Hi", n=3)).json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (2, 12, 14)


async def test_every_field_reaches_the_job(door: Door, worker: ScriptedWorker):
    fields = {
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "ignore_eos": True,
        "top_p": 0.9,
        "temperature": 0.5,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "seed": 3,
    }
    answer = await door.chat("Hi", **fields, max_completion_tokens=9, stop="x", logprobs=True, top_logprobs=2)
    assert answer.status_code == 200, answer.text
    wire = worker.requests[0].request.to_wire()
    assert wire == {
        **fields,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_new_tokens": 9,
        "stop": ["x"],
        "logprobs": 2,
    }


async def test_a_length_that_is_not_said_is_the_settings(open_door: OpenDoor, worker: ScriptedWorker):
    door = await open_door(max_tokens=77)
    await door.chat("Hi")
    await door.chat("Hi", max_tokens=5)
    assert [asked.request.max_new_tokens for asked in worker.requests] == [77, 5]


@pytest.mark.parametrize(
    ("header", "tier", "queue"),
    [
        ("high", "flex", "generate.tiny.high"),
        (None, "priority", "generate.tiny.high"),
        (None, "auto", "generate.tiny"),
    ],
)
async def test_priorities(door: Door, worker: ScriptedWorker, header, tier, queue):
    headers = {"X-Priority": header} if header else {}
    body = CHAT | {"service_tier": tier}
    assert (await door.http.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
    assert worker.client.hget(f"rq:job:{worker.requests[0].job_id}", "origin").decode() == queue


async def test_the_same_idempotency_key_is_the_same_answer(door: Door, worker: ScriptedWorker):
    headers = {"Idempotency-Key": "mine"}
    bodies = [CHAT, CHAT, CHAT | {"stream": True}]
    answers = [await door.http.post("/v1/chat/completions", json=body, headers=headers) for body in bodies]
    assert answers[0].json() == answers[1].json()
    assert len(worker.requests) == 1
    assert json.loads(answers[2].text.partition("data: ")[2].partition("\n")[0])["id"] == answers[0].json()["id"]

    for other in ({"seed": 3}, {"n": 2}):
        refused = await door.http.post("/v1/chat/completions", json=CHAT | other, headers=headers)
        assert refused.status_code == 422
        assert refused.json()["error"]["type"] == "invalid_request_error"
        assert refused.json()["error"]["code"] == "idempotency_key_in_use"
    assert len(worker.requests) == 1
    assert worker.client.keys("rq:job:*-1") == []


async def test_the_same_key_at_the_same_time_is_the_same_answer(
    door: Door, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
):
    """None of the two finds the other before it submits: the record of the first is that of both."""
    find = door.gateway.producer.find_call

    async def find_late(call_id: str) -> Call | None:
        return await find(call_id) if next(found, True) else None

    headers = {"Idempotency-Key": "mine"}
    first = await door.http.post("/v1/chat/completions", json=CHAT | {"metadata": {"a": "1"}}, headers=headers)
    found = iter([False])
    monkeypatch.setattr(door.gateway.producer, "find_call", find_late)
    second = await door.http.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert second.json() == first.json()


async def test_what_a_job_fails_of_is_the_status_of_the_response(door: Door, worker: ScriptedWorker):
    worker.fails("Hi", "prompt_too_long", "too long by far")
    for body in (CHAT, CHAT | {"stream": True}):
        answer = await door.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error == {
            "message": "too long by far",
            "type": "invalid_request_error",
            "param": None,
            "code": "context_length_exceeded",
        }


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", CHAT, "max_tokens"),
        ("/v1/responses", {"model": "tiny", "input": "Hi"}, "max_output_tokens"),
    ],
)
async def test_what_a_worker_says_of_a_field_names_it_as_the_client_does(
    door: Door, worker: ScriptedWorker, path: str, body: dict[str, Any], param: str
):
    worker.fails("Hi", "invalid_request", "max_new_tokens 9 does not fit: set max_new_tokens to 8 or less")
    error = (await door.http.post(path, json=body)).json()["error"]
    assert error["param"] == param
    assert error["message"] == f"{param} 9 does not fit: set {param} to 8 or less"


async def test_what_a_job_fails_of_in_mid_stream_is_an_event(door: Door, worker: ScriptedWorker):
    worker.fails("Hi", "engine_error", "it broke", after="so far")
    async with door.http.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as answer:
        *_, last = await all_events(answer)
    assert last.data["error"]["code"] == "engine_error"
    assert last.id is None


async def test_a_killed_worker_is_not_noticed(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", "All of it, and once.")
    worker.crash_after(3)
    worker.crash_after(6)
    async with door.http.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as answer:
        events = await all_events(answer)
    assert text_of(events) == "All of it, and once."
    assert [event.id for event in events] == [str(number) for number in range(len(events))]
    assert sum(bool(event.data["choices"][0]["delta"].get("role")) for event in events[:-1]) == 1


async def test_nothing_comes_for_long_but_comments(open_live_door: OpenDoor, worker: ScriptedWorker):
    door = await open_live_door(heartbeat_s=0.01)
    with worker.paused():
        async with door.http.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["x-accel-buffering"] == "no"
            lines = answer.aiter_lines()
            assert [await anext(lines) for _ in range(2)] == [": still here", ": still here"]


async def test_a_pause_in_mid_answer_is_nothing_to_openais_client(
    open_live_door: OpenDoor, worker: ScriptedWorker
):
    """It reads a blank line as an event without data where an earlier one had an id."""
    door = await open_live_door(heartbeat_s=0.01)
    worker.answers("Hi", ["a", "b", "c"])
    worker.delay_s = 0.1
    chunks = [chunk async for chunk in await client_of(door).chat.completions.create(**CHAT, stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "abc"


async def test_many_streams_at_once(door: Door, worker: ScriptedWorker):
    async def one(number: int) -> str:
        async with door.http.stream(
            "POST", "/v1/chat/completions", json=Door.body(f"{number}", stream=True)
        ) as answer:
            return text_of([event async for event in read_events(answer)])

    texts = await asyncio.gather(*(one(number) for number in range(10)))
    assert texts == [f"scripted answer to: {number}" for number in range(10)]
