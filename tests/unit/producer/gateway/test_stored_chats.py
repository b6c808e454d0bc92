"""Stored chat completions, with openai's client."""

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from producer.contract import Keys
from producer.testing import ScriptedWorker

from .conftest import Door, OpenDoor
from .test_entrance import keys_file


def chats_of(door: Door, key: str = "none"):
    client = AsyncOpenAI(base_url=door.url, api_key=key, max_retries=0, http_client=door.http)
    return client.chat.completions


def asked(text: str, **fields):
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **fields}


async def test_stored_ones_are_listed_and_no_other(door: Door, worker: ScriptedWorker):
    chats = chats_of(door)
    worker.fails("fail", "engine_error", "it broke")
    await chats.create(**asked("Hi"))
    made = [await chats.create(**asked(f"Hi {n}", store=True, metadata={"n": str(n % 2)}, n=2)) for n in range(4)]
    with pytest.raises(openai.InternalServerError):
        await chats.create(**asked("fail", store=True))
    ids = [each.id for each in made]
    raw = (await door.http.get("/v1/chat/completions")).json()
    assert sorted(each["id"] for each in raw["data"]) == sorted(ids)
    assert {each["id"]: ChatCompletion.model_validate(each) for each in raw["data"]} == {
        each.id: each for each in made
    }
    listed = [each["id"] for each in raw["data"]]
    assert [each.id async for each in chats.list(limit=1)] == listed
    assert [each.id async for each in chats.list(limit=3, order="desc")] == listed[::-1]
    assert {each.id async for each in chats.list(metadata={"n": "1"})} == {ids[1], ids[3]}
    assert [each async for each in chats.list(model="other")] == []
    await chats.delete(ids[0])
    assert {each.id async for each in chats.list()} == set(ids[1:])
    worker.client.delete(f"rq:job:{ids[1].removeprefix('chatcmpl-')}")
    assert {each.id async for each in chats.list()} == set(ids[2:])
    assert 0 < worker.client.ttl(Keys().stored("")) <= 2 * 86_400


async def test_they_are_deleted_page_by_page(door: Door):
    """The last of a page, behind which the next begins, is deleted by then."""
    chats = chats_of(door)
    made = [(await chats.create(**asked(f"Hi {n}", store=True))).id for n in range(5)]
    deleted = []
    async for each in chats.list(limit=2):
        assert (await chats.delete(each.id)).deleted
        deleted.append(each.id)
    assert sorted(deleted) == sorted(made)
    assert [each async for each in chats.list()] == []


async def test_metadata_is_changed_and_nothing_else(door: Door, worker: ScriptedWorker):
    chats = chats_of(door)
    made = await chats.create(**asked("Hi", store=True, metadata={"a": "b"}))
    changed = await chats.update(made.id, metadata={"c": "d"})
    assert changed == made.model_copy(update={"metadata": {"c": "d"}})
    assert (await chats.retrieve(made.id)).metadata == {"c": "d"}
    for body, param in (({"model": "x"}, "model"), ({}, "metadata"), ({"metadata": {"a": 1}}, "metadata")):
        refused = await door.http.post(f"/v1/chat/completions/{made.id}", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    await chats.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        await chats.update(made.id, metadata={})
    assert not worker.client.exists(f"rq:job:{made.id.removeprefix('chatcmpl-')}")


async def test_messages_are_what_was_asked(door: Door):
    chats = chats_of(door)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    made = await chats.create(model="tiny", messages=turns, store=True)
    shown = [each async for each in chats.messages.list(made.id, limit=1)]
    assert [(each.id, each.role, each.content) for each in shown] == [
        (f"{made.id}-0", "system", "Be brief."),
        (f"{made.id}-1", "user", "Hi"),
    ]
    assert [each.role async for each in chats.messages.list(made.id, order="desc")] == ["user", "system"]


async def test_they_are_their_owners_alone(open_door: OpenDoor, tmp_path):
    door = await open_door(api_keys=keys_file(tmp_path, "alice", "bob"))
    alice, bob = chats_of(door, "alice"), chats_of(door, "bob")
    made = await alice.create(**asked("Hi", store=True))
    assert [each async for each in bob.list()] == []
    for call in (bob.update(made.id, metadata={}), bob.messages.list(made.id), bob.delete(made.id)):
        with pytest.raises(openai.NotFoundError):
            await call
    assert [each.id async for each in alice.list()] == [made.id]
