"""Tools and reasoning in the Responses API, by the schema of Open Responses and by openai's own client."""

import asyncio
import itertools
import json
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseFunctionToolCall
from pydantic import BaseModel

from producer.testing import ScriptedWorker
from tests.documents import Document

from .conftest import Door, OpenDoor
from .events import Event, all_events
from .test_responses import BODY, LOGPROBS, URL, checked, client_of, create, streamed
from .test_tools import ARGUMENTS, CALL

TOOLS = [{"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": None}]
THOUGHT = "<think>\nRain?\n</think>\n"
SECOND = '<tool_call>{"name": "weather", "arguments": {"city": "Ürümqi"}}</tool_call>'


def kinds_of(response: dict[str, Any]) -> list[str]:
    return [item["type"] for item in response["output"]]


def text_of(item: dict[str, Any]) -> str:
    return "".join(part["text"] for part in item["content"])


async def test_what_is_thought_said_and_called_are_items_in_their_order(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", f"{THOUGHT}{CALL} And there.\n{SECOND}")
    made = await create(door, tools=TOOLS)
    assert (made["status"], made["tool_choice"]) == ("completed", "auto")
    assert made["tools"] == [{**TOOLS[0], "description": None}]
    assert kinds_of(made) == ["reasoning", "message", "function_call", "message", "function_call"]
    thought, said, called, said_then, called_then = made["output"]
    assert (text_of(thought), text_of(said), text_of(said_then)) == ("Rain?", "Let me see.", " And there.")
    assert json.loads(called["arguments"]) == ARGUMENTS
    assert json.loads(called_then["arguments"]) == {"city": "Ürümqi"}
    assert len({item["id"] for item in made["output"]}) == 5
    assert called["call_id"] != called_then["call_id"]
    assert (await door.http.get(f"{URL}/{made['id']}")).json() == made


@pytest.mark.parametrize("size", [1, 7, 1000], ids=["bit by bit", "in pieces", "at once"])
async def test_events_are_of_the_schema_and_come_to_the_object(door: Door, worker: ScriptedWorker, size: int):
    worker.chunk_chars = size
    worker.answers("Hi", THOUGHT + CALL)
    events = await streamed(door, tools=TOOLS)
    runs = [key for key, _ in itertools.groupby(event.name.removeprefix("response.") for event in events)]
    item = ["output_item.added", "content_part.added"]
    assert runs == [
        "created", "queued", "in_progress",
        *item, "reasoning.delta", "reasoning.done", "content_part.done", "output_item.done",
        *item, "output_text.delta", "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    whole = checked(events[-1].data["response"])
    assert [event.data["item"] for event in events if event.name == "response.output_item.done"] == whole["output"]
    assert summed(events) == ["Rain?", "Let me see.", whole["output"][2]["arguments"]]
    assert (await door.http.get(f"{URL}/{whole['id']}")).json() == whole


def summed(events: list[Event]) -> list[str]:
    """The deltas of each item."""
    deltas = [event.data for event in events if event.name.endswith(".delta")]
    by_item = itertools.groupby(deltas, key=lambda data: data["item_id"])
    return ["".join(data["delta"] for data in item) for _, item in by_item]


async def test_a_stream_is_taken_up_in_the_middle_of_a_call(open_door: OpenDoor, worker: ScriptedWorker):
    worker.chunk_chars = 4
    worker.answers("Hi", THOUGHT + CALL + SECOND)
    worker.crash_after(20)
    worker.crash_after(9)
    first, second = await open_door(), await open_door()
    whole = await streamed(first, tools=TOOLS)
    names = [event.name for event in whole]
    assert names.count("response.function_call_arguments.delta") > 4
    public_id = whole[0].data["response"]["id"]
    for seen in range(len(whole) - 1):
        url = f"{URL}/{public_id}?stream=true&starting_after={seen}"
        async with second.http.stream("GET", url) as answer:
            assert await all_events(answer) == whole[seen + 1 :]


class weather(BaseModel):  # noqa: N801 - the name of the function
    city: str


async def test_an_openai_client_parses_calls_and_answers_them(door: Door, worker: ScriptedWorker):
    worker.answer_with({"Hi": THOUGHT + CALL, "rain": "Take an umbrella."})
    client, tools = client_of(door), [openai.pydantic_function_tool(weather)]
    async with client.responses.stream(model="tiny", input="Hi", tools=tools) as stream:
        deltas = [event.delta async for event in stream if event.type == "response.function_call_arguments.delta"]
        first = await stream.get_final_response()
    [call] = [item for item in first.output if isinstance(item, ResponseFunctionToolCall)]
    assert call.parsed_arguments == weather(**ARGUMENTS)
    assert "".join(deltas) == call.arguments
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    second = await client.responses.parse(model="tiny", input=[output], tools=tools, previous_response_id=first.id)
    assert second.output_text == "Take an umbrella."
    again = await client.responses.parse(
        model="tiny", input=[{"role": "user", "content": "Hi"}, *first.output, output], tools=tools
    )
    assert again.output_text == second.output_text
    asked, same = (worker.requests[at].request for at in (1, 2))
    assert [turn.role for turn in asked.messages] == ["user", "assistant", "tool"]
    assert asked.messages == same.messages
    assert (asked.messages[1].reasoning, asked.messages[1].content) == ("Rain?", "Let me see.")
    assert asked.messages[1].tool_calls[0].id == asked.messages[2].tool_call_id == call.call_id
    items = [item async for item in client.responses.input_items.list(again.id, order="asc")]
    assert [item.type for item in items] == [
        "message", "reasoning", "message", "function_call", "function_call_output",
]  # fmt: skip


async def test_cut_off_in_a_call_the_call_is_incomplete(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", CALL)
    made = await create(door, tools=TOOLS, max_output_tokens=len(CALL) - 15)
    assert (made["status"], kinds_of(made)) == ("incomplete", ["message", "function_call"])
    assert [item["status"] for item in made["output"]] == ["completed", "incomplete"]
    assert CALL.find(made["output"][1]["arguments"]) > 0


async def test_cut_off_in_thought_nothing_is_said(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", THOUGHT)
    made = await create(door, tools=TOOLS, max_output_tokens=11)
    assert [(item["type"], item["status"]) for item in made["output"]] == [("reasoning", "incomplete")]


async def test_an_empty_answer_is_an_empty_message(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", "")
    for more in ({}, {"tools": TOOLS}):
        made = await create(door, **more)
        assert [text_of(item) for item in made["output"]] == [""]
        events = await streamed(door, **more)
        assert events[-1].data["response"]["output"][0]["content"] == made["output"][0]["content"]


async def test_a_job_that_broke_before_its_first_token_is_told_as_it_was_streamed(
    door: Door, worker: ScriptedWorker
):
    worker.fails("Hi", "engine_error", "it broke")
    last = (await streamed(door))[-1].data["response"]
    assert (await door.http.get(f"{URL}/{last['id']}")).json() == last


async def test_logprobs_are_of_what_is_said(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", THOUGHT + CALL)
    worker.chunk_chars = 3
    events = await streamed(door, tools=TOOLS, **LOGPROBS)
    whole = events[-1].data["response"]
    in_deltas = [
        each for event in events if event.name == "response.output_text.delta" for each in event.data["logprobs"]
    ]
    assert in_deltas == whole["output"][1]["content"][0]["logprobs"]
    told = "".join(chr(int(each["token"].removeprefix("token_id:"))) for each in in_deltas)
    assert told == "k>\nLet me see.\n<"  # with what came in the same events
    made = await create(door, tools=TOOLS, **LOGPROBS)
    assert made["output"][1]["content"] == whole["output"][1]["content"]


@pytest.mark.parametrize(
    ("choice", "in_a_chat", "names"),
    [
        (None, "auto", ["a", "b"]),
        ("required", "required", ["a", "b"]),
        ({"type": "function", "name": "b"}, {"type": "function", "function": {"name": "b"}}, ["a", "b"]),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "b"}]},
            "required",
            ["b"],
        ),
    ],
)
async def test_which_tool_is_called(door: Door, worker: ScriptedWorker, choice: Any, in_a_chat: Any, names: list):
    tools = [{"type": "function", "name": name, "parameters": {"type": "object"}} for name in ("a", "b")]
    made = await create(door, tools=tools, tool_choice=choice)
    assert made["tool_choice"] == (choice or "auto")
    assert [tool["name"] for tool in made["tools"]] == ["a", "b"]
    asked = worker.requests[0].request.to_wire()
    assert asked.get("tool_choice", "auto") == in_a_chat
    assert [tool["function"]["name"] for tool in asked["tools"]] == names


FUNCTION = {"type": "function", "name": "f"}
OUTPUT = {"type": "function_call_output", "call_id": "a", "output": "rain"}
CALLED = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}


REFUSED = [
    ({"tools": {}}, "tools"),
    ({"tools": [3]}, "tools[0]"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [FUNCTION | {"name": "a b"}]}, "tools"),
    ({"tools": [FUNCTION, FUNCTION]}, "tools"),
    ({"tools": [FUNCTION | {"defer_loading": True}]}, "tools[0].defer_loading"),
    ({"tools": [FUNCTION | {"parameters": 3}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": FUNCTION}, "tool_choice"),
    ({"tool_choice": "any", "tools": [FUNCTION]}, "tool_choice"),
    ({"tool_choice": {"type": "function", "name": "g"}, "tools": [FUNCTION]}, "tool_choice"),
    ({"tool_choice": {"type": "allowed_tools", "tools": []}, "tools": [FUNCTION]}, "tool_choice"),
    ({"tool_choice": {"type": "allowed_tools", "tools": [3]}, "tools": [FUNCTION]}, "tool_choice.tools"),
    (
        {
            "tool_choice": {"type": "allowed_tools", "tools": [FUNCTION | {"name": "g"}]},
            "tools": [FUNCTION],
        },
        "tool_choice.tools",
    ),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ({"parallel_tool_calls": False, "tools": [FUNCTION]}, "parallel_tool_calls"),
    ({"parallel_tool_calls": False, "tools": [FUNCTION], "tool_choice": FUNCTION}, None),
    ({"input": [OUTPUT]}, "input[0].call_id"),
    ({"input": [OUTPUT | {"call_id": ""}]}, "input[0].call_id"),
    ({"input": [CALLED, OUTPUT | {"call_id": "b"}]}, "input[1].call_id"),
    ({"input": [CALLED, OUTPUT | {"output": 3}]}, "input[1].output"),
    ({"input": [CALLED, OUTPUT | {"output": [{"type": "input_image"}]}]}, "input[1].output"),
    ({"input": [CALLED, OUTPUT | {"output": [{"type": "input_text", "text": "rain"}]}]}, None),
    ({"input": [CALLED | {"arguments": {}}]}, "input[0].arguments"),
    ({"input": [CALLED | {"name": "a b"}]}, "input"),
    ({"input": [{"type": "reasoning"}]}, "input[0].summary"),
    ({"input": [{"type": "reasoning", "summary": [], "content": "x"}]}, "input[0].content"),
    (
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]},
        "input[0].encrypted_content",
    ),
    ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
    ({"input": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]}]}, None),
]


async def test_what_of_tools_cannot_be_is_refused_by_its_name(
    door: Door,
) -> None:
    for fields, param in REFUSED:
        answer = await door.http.post(URL, json=BODY | fields)
        if param is None:
            assert answer.status_code == 200, answer.text
        else:
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


async def test_the_readmes_program_calls_and_answers(open_live_door: OpenDoor, worker: ScriptedWorker, capsys):
    place, umbrella = '{"city": "Vienna"}', "Take no umbrella."
    call = f'<tool_call>{{"name": "weather", "arguments": {place}}}</tool_call>'
    worker.answer_with({"How is the weather in Vienna?": call, f"{place}: sunny, 24 degrees": umbrella})
    [_, program] = Document("producer/gateway/README.md").blocks("Responses")
    program = program.replace("http://127.0.0.1:8000/v1", (await open_live_door()).url)
    await asyncio.to_thread(exec, compile(program, "README.md", "exec"), {})
    assert capsys.readouterr().out == f"{umbrella}\n"
