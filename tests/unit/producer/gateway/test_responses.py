"""The Responses API, by the schema of Open Responses and by openai's own client."""

import asyncio
import math
from pathlib import Path
from typing import Any

import openresponses_types as schema
import pytest
from openai import AsyncOpenAI, NotFoundError
from openai.types.responses import Response as OpenAIResponse, response_create_params as params
from pydantic import BaseModel

from producer.contract import Keys
from producer.gateway.errors import ApiError
from producer.gateway.response_bodies import read_response
from producer.testing import ScriptedWorker

from .conftest import Door, OpenDoor
from .events import Event, all_events, read_events
from .fields import fields_of, value_of
from .test_entrance import bearer, keys_file
from .test_fields import README
from .test_resuming import until

URL = "/v1/responses"
BODY: dict[str, Any] = {"model": "tiny", "input": "Hi"}
LOGPROBS = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
SCHEMAS: dict[str, type[BaseModel]] = {
    each.value: event
    for name, event in vars(schema).items()
    if name.endswith("StreamingEvent")
    for each in event.model_fields["type"].annotation
}
"""By the name of the event."""


def client_of(door: Door) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=door.url, api_key="none", max_retries=0, http_client=door.http)


async def create(door: Door, **fields: Any) -> dict[str, Any]:
    """A response, which is of its schema."""
    answer = await door.http.post(URL, json=BODY | fields)
    assert answer.status_code == 200, answer.text
    return checked(answer.json())


def checked(response: dict[str, Any]) -> dict[str, Any]:
    """A response, if it is one."""
    schema.ResponseResource.model_validate(response)
    OpenAIResponse.model_validate(response)
    return response


async def streamed(door: Door, **fields: Any) -> list[Event]:
    """Its events, each of its schema and in its place."""
    async with door.http.stream("POST", URL, json=BODY | fields | {"stream": True}) as answer:
        events = await all_events(answer)
    for number, event in enumerate(events):
        assert (event.id, event.data["sequence_number"], event.data["type"]) == (str(number), number, event.name)
        SCHEMAS[event.name].model_validate(event.data)
    return events


@pytest.mark.parametrize("more", [{}, LOGPROBS], ids=["plain", "logprobs"])
async def test_events_and_objects_are_of_the_schema(door: Door, worker: ScriptedWorker, more):
    worker.answers("Hi", ["Hel", "lo."])
    whole = await create(door, **more)
    assert whole["status"] == "completed"
    assert whole["output"][0]["content"][0]["text"] == "Hello."
    assert len(whole["output"][0]["content"][0]["logprobs"]) == (6 if more else 0)
    assert whole["usage"]["total_tokens"] == 8
    events = await streamed(door, **more)
    assert [event.name.removeprefix("response.") for event in events] == [
        "created", "queued", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    last = checked(events[-1].data["response"])
    changing = {"id", "created_at", "completed_at"}
    assert {name: last[name] for name in last.keys() - changing - {"output"}} == {
        name: whole[name] for name in whole.keys() - changing - {"output"}
    }
    assert last["output"][0]["content"] == whole["output"][0]["content"]
    assert (await door.http.get(f"{URL}/{last['id']}")).json() == last


async def test_an_openai_client_reads_events_and_their_sum(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", "Hello, you.")
    client = client_of(door)
    async with client.responses.stream(model="tiny", input="Hi", instructions="Be brief.") as stream:
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        response = await stream.get_final_response()
    assert "".join(deltas) == response.output_text == "Hello, you."
    assert [turn.content for turn in worker.requests[0].request.messages] == ["Be brief.", "Hi"]
    assert (await client.responses.retrieve(response.id)).output_text == "Hello, you."
    await client.responses.delete(response.id)
    with pytest.raises(NotFoundError):
        await client.responses.retrieve(response.id)


async def test_a_conversation_goes_on(door: Door, worker: ScriptedWorker):
    worker.answer_with({"Hi": "Hello.", "And?": "More.", "Last?": "Yes."})
    first = await create(door, instructions="Be brief.")
    second = await create(door, input="And?", previous_response_id=first["id"], instructions="Be long.")
    third = await create(door, input=[{"role": "user", "content": "Last?"}], previous_response_id=second["id"])
    assert third["previous_response_id"] == second["id"]
    asked = [[(turn.role, turn.content) for turn in each.request.messages] for each in worker.requests]
    said = [("user", "Hi"), ("assistant", "Hello."), ("user", "And?"), ("assistant", "More."), ("user", "Last?")]
    assert asked == [[("system", "Be brief."), *said[:1]], [("system", "Be long."), *said[:3]], said]


async def test_what_cannot_be_gone_on_from_is_said(door: Door, worker: ScriptedWorker):
    with worker.paused():
        waiting = await create(door, background=True)
        for previous, status in ((waiting["id"], 400), ("resp_none", 404), ("none", 404)):
            refused = await door.http.post(URL, json=BODY | {"previous_response_id": previous})
            assert (refused.status_code, refused.json()["error"]["param"]) == (status, "previous_response_id")


async def test_a_conversation_is_its_keys_alone(open_door: OpenDoor, tmp_path: Path):
    door = await open_door(api_keys=keys_file(tmp_path, "alice", "bob"))
    made = (await door.http.post(URL, json=BODY, headers=bearer("alice"))).json()
    body = BODY | {"previous_response_id": made["id"]}
    answers = [await door.http.post(URL, json=body, headers=bearer(name)) for name in ("alice", "bob")]
    assert [answer.status_code for answer in answers] == [200, 404]
    for path in ("", "/input_items"):
        assert (await door.http.get(f"{URL}/{made['id']}{path}", headers=bearer("bob"))).status_code == 404
    assert (await door.http.post(f"{URL}/{made['id']}/cancel", headers=bearer("bob"))).status_code == 404


async def test_in_the_background(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", ["a", "b"])
    with worker.paused():
        made = await create(door, background=True)
        assert (made["status"], made["output"], made["background"]) == ("queued", [], True)
        url = f"{URL}/{made['id']}"
        assert checked((await door.http.get(url)).json())["status"] == "queued"
        worker.delay_s = math.inf
    await until(lambda: worker.client.exists(Keys().events(made["id"].removeprefix("resp_"))))
    assert checked((await door.http.get(url)).json())["status"] == "in_progress"
    worker.delay_s = 0
    async with door.http.stream("GET", f"{url}?stream=true") as answer:
        assert (await all_events(answer))[-1].name == "response.completed"
    assert checked((await door.http.get(url)).json())["output"][0]["content"][0]["text"] == "ab"


async def test_a_stream_is_taken_up_after_any_event(open_door: OpenDoor, worker: ScriptedWorker):
    worker.answers("Hi", "One text, and all of it.")
    worker.crash_after(5)
    worker.crash_after(4)
    first, second = await open_door(), await open_door()
    whole = await streamed(first)
    assert whole[-1].data["response"]["output"][0]["content"][0]["text"] == "One text, and all of it."
    public_id = whole[0].data["response"]["id"]
    for seen in range(len(whole) - 1):
        url = f"{URL}/{public_id}?stream=true&starting_after={seen}"
        async with second.http.stream("GET", url) as answer:
            assert await all_events(answer) == whole[seen + 1 :]
    assert (await second.http.get(f"{url}9")).status_code == 204


async def test_background_events_begin_before_there_is_a_worker(open_live_door: OpenDoor, worker: ScriptedWorker):
    door = await open_live_door()
    with worker.paused():
        async with door.http.stream("POST", URL, json=BODY | {"stream": True, "background": True}) as answer:
            events = read_events(answer)
            assert [(await anext(events)).name for _ in range(2)] == ["response.created", "response.queued"]
    public_id = (await door.http.get("/v1/models")) and next(iter(worker.client.keys("rq:job:*"))).decode()[7:]
    url = f"{URL}/resp_{public_id}?stream=true&starting_after=1"
    async with door.http.stream("GET", url) as answer:
        assert (await all_events(answer))[-1].name == "response.completed"


async def test_cancelled_it_keeps_what_it_has(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", ["a"] * 1000)
    worker.delay_s = 0.02
    made = await create(door, background=True)
    await until(lambda: worker.client.xlen(Keys().events(made["id"].removeprefix("resp_"))) > 2)
    cancelled = checked((await door.http.post(f"{URL}/{made['id']}/cancel")).json())
    assert cancelled["status"] == "cancelled"
    assert set(cancelled["output"][0]["content"][0]["text"]) == {"a"}
    async with door.http.stream("GET", f"{URL}/{made['id']}?stream=true") as answer:
        last = (await all_events(answer))[-1]
    assert (last.name, last.data["response"]) == ("response.incomplete", cancelled)


async def test_cut_off_it_is_incomplete(door: Door, worker: ScriptedWorker):
    worker.answers("Hi", "abcdef")
    made = await create(door, max_output_tokens=3)
    assert (made["status"], made["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (await streamed(door, max_output_tokens=3))[-1].name == "response.incomplete"


@pytest.mark.parametrize("after", ["", "so far"])
async def test_what_it_fails_of(door: Door, worker: ScriptedWorker, after: str):
    worker.fails("Hi", "engine_error", "it broke", after=after)
    assert (await door.http.post(URL, json=BODY)).status_code == 500
    events = await streamed(door)
    assert events[-1].name == "response.failed"
    failed = checked(events[-1].data["response"])
    assert (failed["status"], failed["error"]) == ("failed", {"code": "server_error", "message": "it broke"})
    assert checked((await door.http.get(f"{URL}/{failed['id']}")).json())["error"] == failed["error"]


async def test_what_is_refused_is_the_status_of_the_response(door: Door, worker: ScriptedWorker):
    worker.fails("Hi", "prompt_too_long", "too long")
    for more in ({}, {"stream": True}):
        assert (await door.http.post(URL, json=BODY | more)).status_code == 400
    made = await create(door, background=True)
    async with door.http.stream("GET", f"{URL}/{made['id']}?stream=true") as answer:
        events = await all_events(answer)
    assert [event.name for event in events] == ["response.created", "response.queued", "response.failed"]
    assert checked(events[-1].data["response"])["error"] == {"code": "invalid_prompt", "message": "too long"}


async def test_the_items_that_it_was_made_of(door: Door):
    content = [{"type": "input_text", "text": "b"}, {"type": "input_text", "text": "c"}]
    items = [{"role": "developer", "content": "a"}, {"type": "message", "role": "user", "content": content}]
    made = await create(door, input=items)
    url = f"{URL}/{made['id']}/input_items"
    listed = (await door.http.get(url, params={"order": "asc"})).json()
    assert [[part["text"] for part in item["content"]] for item in listed["data"]] == [["a"], ["b", "c"]]
    assert (listed["object"], listed["has_more"], listed["first_id"]) == ("list", False, listed["data"][0]["id"])
    page = (await door.http.get(url, params={"limit": 1})).json()
    assert (page["data"], page["has_more"]) == ([listed["data"][1]], True)
    rest = (await door.http.get(url, params={"after": page["last_id"]})).json()
    assert rest["data"] == [listed["data"][0]]
    for wrong in ({"order": "up"}, {"limit": 0}, {"limit": "x"}, {"after": "none"}):
        assert (await door.http.get(url, params=wrong)).status_code == 400
    paged = [
        item.content[0].text async for item in client_of(door).responses.input_items.list(made["id"], limit=1)
    ]
    assert paged == ["b", "a"]


async def test_an_idempotency_key_makes_one_response(door: Door, worker: ScriptedWorker):
    headers = {"Idempotency-Key": "mine"}
    made = [(await door.http.post(URL, json=BODY, headers=headers)).json() for _ in range(2)]
    assert made[0] == made[1]
    assert len(worker.requests) == 1
    other = await door.http.post("/v1/chat/completions", json=Door.body("Hi"), headers=headers)
    assert other.status_code == 422


async def test_stored_it_outlives_its_client(open_live_door: OpenDoor, worker: ScriptedWorker):
    door = await open_live_door(grace_s=0.01, store_ttl_s=777)
    worker.answers("Hi", ["a", "b"])
    with worker.paused():
        asking = asyncio.create_task(door.http.post(URL, json=BODY))
        await until(lambda: worker.client.keys("rq:job:*"))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    job_key = worker.client.keys("rq:job:*")[0].decode()
    assert worker.client.hget(job_key, "result_ttl") == b"777"
    await until(lambda: worker.client.hget(job_key, "status") == b"finished")
    not_stored = await create(await open_live_door(), store=False)
    assert worker.client.hget(f"rq:job:{not_stored['id'].removeprefix('resp_')}", "lease_ms") == b"5000"


# -- its fields

TOOLS = [{"type": "function", "name": "f"}]
HINTS = fields_of(*params.ResponseCreateParams.__args__)
VALUES: dict[str, Any] = {
    "input": "Ho",
    "model": "large",
    "service_tier": "flex",
    "temperature": 0.3,
    "top_p": 0.3,
    "include": LOGPROBS["include"],
    "store": False,
    "stream": True,
    "background": True,
    "text": {"format": {"type": "json_object"}},
    "stream_options": {"include_obfuscation": True},
    "reasoning": {"effort": "high"},
    "tools": TOOLS,
    "prompt_cache_retention": "24h",
    "parallel_tool_calls": False,
    "truncation": "auto",
    "tool_choice": "required",
    "background_options": {"completion_window": "2h"},
    "prompt_cache_options": {"mode": "explicit"},
}


def outcome(name: str) -> str:
    """What becomes of a field: served, or refused by its name."""
    beside = BODY | {"top_logprobs": LOGPROBS, "tool_choice": {"tools": TOOLS}}.get(name, {})
    value = VALUES.get(name, value_of(HINTS[name]))
    try:
        asked = read_response(beside | {name: value})
    except ApiError as error:
        named = (error.param or "").partition(".")[0].partition("[")[0]
        return "refused" if (error.status, named) == (400, name) else error.message
    return "served" if asked != read_response(beside) else "ignored"


def table() -> str:
    """As it stands in the README."""
    by_outcome: dict[str, list[str]] = {}
    for name in sorted(HINTS):
        by_outcome.setdefault(outcome(name), []).append(f"`{name}`")
    return "\n".join(f"- {said}: {', '.join(names)}." for said, names in sorted(by_outcome.items(), reverse=True))


def test_every_field_of_a_response_is_in_the_readme():
    assert outcome("model") == "served"
    assert table() in README.read_text(encoding="utf-8"), f"put this into {README}:\n{table()}"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [3]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"role": "king", "content": "Hi"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": ""}]}, None),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 101}, "temperature"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"include": LOGPROBS["include"], "top_logprobs": 21}, "top_logprobs"),
        ({"background": True, "store": False}, "store"),
        ({"instructions": 3}, "instructions"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"conversation": "c"}, "conversation"),
    ],
)
async def test_what_cannot_be_is_refused(door: Door, fields: dict[str, Any], param: str | None):
    answer = await door.http.post(URL, json=BODY | fields)
    if param is None:
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_one_whose_events_are_gone_is_told_by_its_result(door: Door, worker: ScriptedWorker):
    """It was `queued` then, for as long as anybody asked."""
    made = (await door.http.post("/v1/responses", json={"model": "tiny", "input": "Hi"})).json()
    worker.client.delete(Keys().events(made["id"].removeprefix("resp_")))
    assert (await door.http.get(f"/v1/responses/{made['id']}")).json() == made
