"""Calls of tools and structured answers, as OpenAI's clients see them."""

import json

import pytest

from producer.testing import ScriptedWorker

from .conftest import Door
from .events import all_events
from .test_completions import CHAT, client_of

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALL = 'Let me see.\n<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}</tool_call>'
ARGUMENTS = {"city": "Bern"}


async def test_a_call_of_a_tool(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", CALL)
    choice = (await client_of(door).chat.completions.create(**CHAT, tools=TOOLS)).choices[0]
    [call] = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", ARGUMENTS)


async def test_a_call_of_a_tool_as_it_comes(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", CALL)
    async with client_of(door).chat.completions.stream(**CHAT, tools=TOOLS) as stream:
        kinds = [event.type async for event in stream]
        message = (await stream.get_final_completion()).choices[0].message
    assert kinds.count("tool_calls.function.arguments.done") == 1
    assert message.content == "Let me see."
    assert json.loads(message.tool_calls[0].function.arguments) == ARGUMENTS


async def test_a_call_of_a_tool_goes_on_from_any_place(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", CALL)
    body = CHAT | {"tools": TOOLS, "stream": True}
    async with door.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        whole = await all_events(answer)
    url = f"/v1/chat/completions/{whole[0].data['id']}"
    for seen in range(len(whole) - 1):
        async with door.http.stream("GET", f"{url}?starting_after={seen}") as answer:
            assert await all_events(answer) == whole[seen + 1 :]


async def test_what_a_client_has_parsed_is_sent_back(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", CALL)
    client, tools = client_of(door), [{**TOOLS[0], "function": {**TOOLS[0]["function"], "strict": True}}]
    async with client.chat.completions.stream(**CHAT, tools=tools) as stream:
        message = (await stream.get_final_completion()).choices[0].message
    [call] = message.tool_calls
    assert call.function.parsed_arguments == ARGUMENTS
    messages = [*CHAT["messages"], message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    await client.chat.completions.create(model="tiny", messages=messages, tools=tools)
    assert worker.requests[1].request.messages[1].tool_calls[0].id == call.id


async def test_an_answer_of_a_tool_is_read(door: Door, worker: ScriptedWorker):
    called = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
    ]
    answer = await door.http.post(
        "/v1/chat/completions", json={"model": "tiny", "messages": messages, "tools": TOOLS}
    )
    assert answer.status_code == 200, answer.text
    assert [turn.role for turn in worker.requests[0].request.messages] == ["user", "assistant", "tool"]


@pytest.mark.parametrize(
    "form", [{"type": "json_object"}, {"type": "json_schema", "name": "a", "schema": {"type": "object"}}]
)
async def test_a_structured_response(door: Door, worker: ScriptedWorker, form):
    body = {"model": "tiny", "input": "Hi", "text": {"format": form}}
    answer = await door.http.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"] == {"format": form}
    asked = worker.requests[0].request.to_wire()["response_format"]
    assert asked["type"] == form["type"]
    assert asked.get("json_schema", {}).get("name") == form.get("name")


async def test_a_structure_that_is_none_is_refused_by_its_name(door: Door):
    body = {"model": "tiny", "input": "Hi", "text": {"format": {"type": "xml"}}}
    refused = await door.http.post("/v1/responses", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "text.format")
