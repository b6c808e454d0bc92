"""A client that comes back goes on after what it has seen, at any gateway; and jobs whose client does not."""

import asyncio
import math

import pytest

from producer import Producer
from producer.contract import Keys
from producer.ending import end
from producer.gateway.cursors import Cursor, Passing
from producer.gateway.errors import ApiError
from producer.testing import ScriptedWorker

from .conftest import LONG_S, Door, OpenDoor
from .events import Event, all_events, read_events, text_of

CHAT = "/v1/chat/completions"
BODY = Door.body("Hi", stream=True, stream_options={"include_usage": True})


async def begin(door: Door, events: int, **fields) -> list[Event]:
    """Ask, read so many events, and leave."""
    async with door.http.stream("POST", CHAT, json=BODY | fields) as answer:
        reading = read_events(answer)
        return [await anext(reading) for _ in range(events)]


async def until(is_so) -> None:
    async with asyncio.timeout(LONG_S):
        while not is_so():
            await asyncio.sleep(0.005)


def status_of(worker: ScriptedWorker, job_id: str) -> str:
    """Of the last event of a job."""
    entries = worker.client.xrevrange(Keys().events(job_id), count=1)
    return entries[0][1][b"type"].decode() if entries else ""


async def test_it_goes_on_at_another_gateway(open_live_door: OpenDoor, worker: ScriptedWorker):
    worker.answers("Hi", "One text, and all of it.")
    first, second = await open_live_door(), await open_live_door()
    whole = await begin(first, 10)
    public_id = whole[0].data["id"]
    for seen in range(len(whole)):
        headers = {"Last-Event-ID": whole[seen].id}
        async with second.http.stream("GET", f"{CHAT}/{public_id}", headers=headers) as answer:
            if seen == len(whole) - 1:
                assert answer.status_code == 204  # an EventSource does not come again
                continue
            rest = await all_events(answer)
        assert whole[: seen + 1] + rest == whole
        async with second.http.stream("GET", f"{CHAT}/{public_id}?starting_after={whole[seen].id}") as answer:
            assert await all_events(answer) == rest


async def test_it_goes_on_while_the_answer_is_made(open_live_door: OpenDoor, worker: ScriptedWorker):
    worker.answers("Hi", ["a", "b", "c", "d"])
    worker.delay_s = 0.05
    door = await open_live_door()
    seen = await begin(door, 2)
    async with door.http.stream("GET", f"{CHAT}/{seen[0].data['id']}?starting_after={seen[-1].id}") as answer:
        rest = await all_events(answer)
    assert text_of([*seen, *rest]) == "abcd"


async def test_of_several_answers_each_goes_on_from_its_own_place(door: Door, worker: ScriptedWorker):
    worker.answer_with(lambda asked: f"answer {asked.request.seed}")
    whole = await begin(door, 14, n=3, seed=1)
    assert whole[-1].data == "[DONE]"
    public_id = whole[0].data["id"]
    for seen in range(len(whole) - 1):
        async with door.http.stream("GET", f"{CHAT}/{public_id}?starting_after={whole[seen].id}") as answer:
            rest = await all_events(answer)
        parts = [*whole[: seen + 1], *rest]
        assert [text_of(parts, choice) for choice in range(3)] == ["answer 1", "answer 2", "answer 3"]
        assert len(parts) == len(whole)


async def test_who_asks_for_no_events_gets_the_whole_answer(door: Door, worker: ScriptedWorker):
    made = (await door.chat("Hi", logprobs=True)).json()
    assert (await door.http.get(f"{CHAT}/{made['id']}")).json() == made
    async with door.http.stream("GET", f"{CHAT}/{made['id']}", headers={"Accept": "text/event-stream"}) as answer:
        assert text_of(await all_events(answer)) == made["choices"][0]["message"]["content"]


async def test_a_deleted_answer_is_gone(door: Door, worker: ScriptedWorker):
    made = (await door.chat("Hi", n=2)).json()
    gone = (await door.http.delete(f"{CHAT}/{made['id']}")).json()
    assert gone == {"id": made["id"], "object": "chat.completion.deleted", "deleted": True}
    assert (await door.http.get(f"{CHAT}/{made['id']}")).status_code == 404
    assert worker.client.keys(f"*{made['id'].removeprefix('chatcmpl-')}*") == []


@pytest.mark.parametrize(
    "public_id", ["chatcmpl-none", "chatcmpl-", "cmpl-x", "none", "chatcmpl-{x}:result", "chatcmpl-%0a"]
)
async def test_what_was_never_asked_for_is_not_there(door: Door, public_id: str):
    for method in ("GET", "DELETE"):
        answer = await door.http.request(method, f"{CHAT}/{public_id}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_a_job_of_nobodys_call_is_not_there(door: Door, worker: ScriptedWorker):
    with Producer() as producer:
        producer.submit("Hi", model="tiny", job_id="plain").result()
    assert (await door.http.get(f"{CHAT}/chatcmpl-plain")).status_code == 404
    made = (await door.chat("Hi")).json()
    assert (await door.http.get(f"/v1/completions/{made['id'].replace('chatcmpl', 'cmpl')}")).status_code == 404


async def test_asked_for_again_it_goes_on_from_there(door: Door, worker: ScriptedWorker):
    headers = {"Idempotency-Key": "mine"}
    async with door.http.stream("POST", CHAT, json=BODY, headers=headers) as answer:
        whole = await all_events(answer)
    for seen in range(len(whole) - 1):
        async with door.http.stream("POST", f"{CHAT}?starting_after={seen}", json=BODY, headers=headers) as answer:
            assert await all_events(answer) == whole[seen + 1 :]
    assert len(worker.requests) == 1
    refused = await door.http.post(f"{CHAT}?starting_after=1", json=BODY)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "starting_after")


async def test_begun_by_post_and_read_by_get(open_live_door: OpenDoor, worker: ScriptedWorker):
    door = await open_live_door()
    worker.answers("Hi", ["a", "b"])
    headers = {"Prefer": "wait=5, Respond-Async", "Idempotency-Key": "mine"}
    with worker.paused():  # nobody has to have begun it
        begun = [await door.http.post(CHAT, json=BODY, headers=headers) for _ in range(2)]
    assert begun[0].json() == begun[1].json()
    assert [each.status_code for each in begun] == [202, 202]
    url = begun[0].headers["location"]
    assert url == f"{CHAT}/{begun[0].json()['id']}"
    async with door.http.stream("GET", url, headers={"Accept": "text/event-stream"}) as answer:
        events = await all_events(answer)
    assert text_of(events) == "ab"
    # An EventSource comes again to the address that it was opened with, and says what it has seen since.
    headers = {"Last-Event-ID": events[2].id}
    async with door.http.stream("GET", f"{url}?starting_after=0", headers=headers) as answer:
        assert await all_events(answer) == events[3:]


async def test_what_cannot_be_served_is_not_taken_in(door: Door, worker: ScriptedWorker):
    for fields, status in (({"temperature": "hot"}, 400), ({"model": "none"}, 404)):
        answer = await door.http.post(CHAT, json=BODY | fields, headers={"Prefer": "respond-async"})
        assert answer.status_code == status, answer.text


@pytest.mark.parametrize("after", ["x", "-1", "1.2", "1,2", "9" * 30])
async def test_what_is_no_cursor_is_refused(door: Door, worker: ScriptedWorker, after: str):
    made = (await door.chat("Hi")).json()
    answer = await door.http.get(f"{CHAT}/{made['id']}", headers={"Last-Event-ID": after})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "starting_after")


def test_parts_of_one_choice_are_counted_through():
    passing = Passing(Cursor.parse("1", 1))
    assert [passing.next(lane) for lane in (0, 0, 0, -1, -1)] == [None, None, "2", "3", "4"]


def test_parts_of_several_are_counted_each():
    passing = Passing(Cursor.parse("1.2.0", 2))
    made = [(lane, passing.next(lane)) for lane in (1, 0, 0, 1, 1, -1)]
    assert [event_id for _, event_id in made] == [None, None, "2.2.0", None, "2.3.0", "2.3.1"]


def test_a_cursor_of_another_shape_is_refused():
    for text, choices in (("1.2", 1), ("1", 2), ("1.2.3.4", 2), ("1..2", 2)):
        with pytest.raises(ApiError):
            Cursor.parse(text, choices)


# -- jobs whose client has gone


async def test_a_job_is_cancelled_whose_client_stays_away(open_live_door: OpenDoor, worker: ScriptedWorker):
    door = await open_live_door(grace_s=0.1)
    worker.answers("Hi", ["a", "b"])
    worker.delay_s = math.inf
    job_id = await begin_waiting(door, worker)
    await until(lambda: status_of(worker, job_id) == "cancelled")


async def begin_waiting(door: Door, worker: ScriptedWorker) -> str:
    """Ask, and leave once the job runs."""
    asking = asyncio.create_task(door.chat("Hi"))
    await until(lambda: worker.requests and status_of(worker, worker.requests[0].job_id) == "started")
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    return worker.requests[0].job_id


async def test_a_job_that_waits_is_cancelled_too(open_live_door: OpenDoor, worker: ScriptedWorker):
    door = await open_live_door(grace_s=0.1, heartbeat_s=0.01)
    with worker.paused():
        async with door.http.stream("POST", CHAT, json=BODY) as answer:
            await anext(answer.aiter_lines())
        (job_key,) = worker.client.keys("rq:job:*")
        job_id = job_key.decode().removeprefix("rq:job:")
        await until(lambda: status_of(worker, job_id) == "cancelled")


async def test_whoever_comes_back_within_the_grace_keeps_the_job(open_live_door: OpenDoor, worker: ScriptedWorker):
    first, second = await open_live_door(grace_s=0.3), await open_live_door(grace_s=0.3)
    worker.answers("Hi", ["a", "b", "c"])
    worker.delay_s = math.inf
    job_id = await begin_waiting(first, worker)
    async with second.http.stream("GET", f"{CHAT}/chatcmpl-{job_id}?stream=true") as answer:
        events = read_events(answer)
        await anext(events)
        await until(lambda: not first.gateway.presence.leaving)  # its grace is over: it has looked
        assert status_of(worker, job_id) == "started"
        worker.delay_s = 0
        rest = [event async for event in events]
    assert text_of(rest) == "abc"


async def test_a_job_is_wanted_as_soon_as_its_client_is_back(open_live_door: OpenDoor, worker: ScriptedWorker):
    door = await open_live_door(grace_s=600)
    worker.answers("Hi", ["a", "b"])
    worker.delay_s = math.inf
    job_id = await begin_waiting(door, worker)
    worker.client.hset(f"rq:job:{job_id}", "wanted_until_ms", 1)
    async with door.http.stream("GET", f"{CHAT}/chatcmpl-{job_id}?stream=true") as answer:
        await anext(read_events(answer))
        assert int(worker.client.hget(f"rq:job:{job_id}", "wanted_until_ms")) > 1


async def test_a_job_ends_whose_gateway_was_killed(open_live_door: OpenDoor, worker: ScriptedWorker):
    """Nobody cancels it: the worker's append finds that nobody waits for it."""
    door = await open_live_door(grace_s=0.2)
    worker.answers("Hi", ["."] * 10_000)
    worker.delay_s = 0.02
    telling = door.gateway.presence
    telling._waited_for.clear()
    telling._start = lambda call: None
    job_id = (await begin(door, 3))[0].data["id"].removeprefix("chatcmpl-")
    await until(lambda: status_of(worker, job_id) == "cancelled")
    assert worker.client.get(Keys().cancel(job_id)) is None


@pytest.mark.parametrize(
    ("settings", "fields"), [({"grace_s": math.inf}, {}), ({"grace_s": 0.01}, {"store": True})]
)
async def test_jobs_that_outlive_their_clients(open_live_door: OpenDoor, worker: ScriptedWorker, settings, fields):
    door = await open_live_door(**settings)
    worker.answers("Hi", ["a", "b", "c"])
    worker.delay_s = 0.05
    job_id = (await begin(door, 2, **fields))[0].data["id"].removeprefix("chatcmpl-")
    assert worker.client.hget(f"rq:job:{job_id}", "lease_ms") is None
    await until(lambda: status_of(worker, job_id) == "finished")


async def test_what_is_stored_is_kept_for_longer(open_door: OpenDoor, worker: ScriptedWorker):
    door = await open_door(store_ttl_s=7_777)
    for store, kept in ((False, b"3600"), (True, b"7777")):
        job_id = (await door.chat("Hi", store=store)).json()["id"].removeprefix("chatcmpl-")
        assert worker.client.hget(f"rq:job:{job_id}", "result_ttl") == kept


async def test_a_task_that_does_not_hear_the_first_cancel_is_told_again():
    """`asyncio.wait_for` of Python 3.11 loses one that comes with its result: a wait then went on for ever."""
    heard = []

    async def deaf() -> None:
        for _ in range(3):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                heard.append(1)
        raise ZeroDivisionError

    task = asyncio.ensure_future(deaf())
    await asyncio.sleep(0)
    await asyncio.wait_for(end([task]), LONG_S)
    assert (len(heard), task.done()) == (3, True)
