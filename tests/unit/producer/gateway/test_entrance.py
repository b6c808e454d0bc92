"""Who is let in, what a request may look like, and how what goes wrong is answered."""

import asyncio
import gzip
import hashlib
import json
import logging
import re
import socket
from pathlib import Path

import httpx2
import pytest
import yaml
from starlette.types import Message

from producer.commands.output import SaidAlready
from producer.contract import GenqueueError, InvalidRequest, Keys
from producer.gateway.api_keys import ApiKeys
from producer.gateway.chunks import Chunks
from producer.gateway.entrance import Entrance
from producer.gateway.serving import keep_log, serve
from producer.gateway.settings import GatewaySettings
from producer.settings import ProducerSettings
from producer.testing import ScriptedWorker

from .conftest import LONG_S, Door, OpenDoor
from .events import all_events

CHAT = "/v1/chat/completions"


def keys_file(folder: Path, *names: str, **fields) -> Path:
    """Each key is its owner's name."""
    keys = [{"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), **fields} for name in names]
    path = folder / "keys.yaml"
    path.write_text(yaml.safe_dump({"keys": keys}))
    return path


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


async def test_whoever_has_a_key_is_let_in(open_door: OpenDoor, tmp_path: Path):
    door = await open_door(api_keys=keys_file(tmp_path, "alice", "bob"))
    for headers in (
        {},
        bearer("eve"),
        {"Authorization": "Bearer"},
        {"Authorization": "Basic alice"},
        {"Authorization": "alice"},
    ):
        answer = await door.http.post(CHAT, json=Door.body("Hi"), headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "authentication_error"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "eve" not in answer.text
    for headers in (bearer("alice"), {"Authorization": "bearer  bob"}):
        assert (await door.http.post(CHAT, json=Door.body("Hi"), headers=headers)).status_code == 200
    assert (await door.http.get("/health")).status_code == 200
    assert (await door.http.get("/v1/models")).status_code == 401
    assert (
        await door.http.get("/v1/models", headers={**bearer("alice"), "Host": "gpu.example"})
    ).status_code == 200


async def test_what_one_key_has_made_is_not_there_for_another(open_door: OpenDoor, tmp_path: Path):
    door = await open_door(api_keys=keys_file(tmp_path, "alice", "bob"))
    post = {"json": Door.body("Hi"), "headers": {**bearer("alice"), "Idempotency-Key": "1"}}
    made = (await door.http.post(CHAT, **post)).json()
    one = f"{CHAT}/{made['id']}"
    for method in ("GET", "DELETE"):
        assert (await door.http.request(method, one, headers=bearer("bob"))).status_code == 404
    assert (await door.http.get(one, headers=bearer("alice"))).json() == made
    post["headers"] |= bearer("bob")
    assert (await door.http.post(CHAT, **post)).json()["id"] != made["id"]


async def test_what_was_read_of_a_prompt_is_not_shared(
    open_door: OpenDoor, worker: ScriptedWorker, tmp_path: Path
):
    keys = keys_file(tmp_path, "alice", "bob")
    for door in (await open_door(api_keys=keys), await open_door(api_keys=keys, share_prefixes=True)):
        for name in ("alice", "bob"):
            for more in ({}, {"cache_salt": "mine"}):
                await door.http.post(CHAT, json=Door.body("Hi", **more), headers=bearer(name))
    salts = [asked.request.cache_salt for asked in worker.requests]
    assert len(set(salts[:4])) == 4
    assert all(salts[:4])
    assert salts[4:] == [None, "mine"] * 2


async def test_owners_take_turns(open_door: OpenDoor, worker: ScriptedWorker, tmp_path: Path):
    keyed, unkeyed = await open_door(api_keys=keys_file(tmp_path, "alice")), await open_door()
    users = ("me", None, "x" * 500)
    for door, user in ((keyed, "me"), *((unkeyed, each) for each in users)):
        assert (
            await door.http.post(CHAT, json=Door.body("Hi", user=user), headers=bearer("alice"))
        ).status_code == 200
    body = {"model": "tiny", "input": "Hi", "user": "you"}
    assert (await unkeyed.http.post("/v1/responses", json=body)).status_code == 200
    jobs = [asked.job_id for asked in worker.requests]
    queues = [worker.client.hget(f"rq:job:{job_id}", "origin").decode() for job_id in jobs]
    groups = [Keys().group_of_queue(queue) for queue in queues]
    assert [*groups[:3], groups[4]] == ["alice", "me", None, "you"]
    assert len(groups[3]) == 32


async def test_a_key_has_a_highest_priority(open_door: OpenDoor, tmp_path: Path):
    door = await open_door(api_keys=keys_file(tmp_path, "alice", priority="normal"))
    for tier, status in (("flex", 200), ("auto", 200), ("priority", 403)):
        body = Door.body("Hi", service_tier=tier)
        assert (await door.http.post(CHAT, json=body, headers=bearer("alice"))).status_code == status


@pytest.mark.parametrize(
    "text",
    [
        "keys: []",
        "{}",
        "- a",
        "keys:\n- name: a\n  sha256: secret",
        "keys: [",
        "[" * 5_000,
        "keys: 2026-13-45",
        "keys:\n- {name: 'a b', sha256: '%s'}" % ("0" * 64),
        "keys:\n" + "- {name: a, sha256: '%s'}\n" % ("0" * 64) * 2,
        "keys:\n- {name: a, sha256: '%s', quota: 3}" % ("0" * 64),
    ],
)
def test_a_file_that_holds_no_keys_is_refused_and_not_quoted(tmp_path: Path, text: str):
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=r"keys\.yaml") as refused:
        ApiKeys.load(path)
    assert "secret" not in str(refused.value)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        ApiKeys.load(tmp_path / "none")


@pytest.mark.parametrize(
    "text", ["http://a, https://b:1", "http://A/,https://b:1/,", '["http://a", "https://b:1"]']
)
def test_origins_stand_in_the_environment_with_commas(monkeypatch: pytest.MonkeyPatch, text: str):
    monkeypatch.setenv("GENQUEUE_SERVE_CORS_ORIGINS", text)
    assert GatewaySettings.load().cors_origins == ("http://a", "https://b:1")


@pytest.mark.parametrize("text", ["chat.example", "https://chat.example/page", "https://", "null"])
def test_what_is_no_origin_is_refused(text: str):
    """It would fit none that a browser sends, and nobody would hear of that."""
    with pytest.raises(InvalidRequest, match="is no origin: give scheme and host"):
        GatewaySettings.load(cors_origins=(text,))


def test_beyond_loopback_it_wants_keys():
    with pytest.raises(InvalidRequest, match="give --api-keys"):
        serve(GatewaySettings(host="0.0.0.0"), ProducerSettings())


async def test_without_keys_it_answers_to_names_of_this_machine_alone(door: Door):
    """A page elsewhere can point its own name at 127.0.0.1, but the browser sends that name."""
    for host, status in (
        ("localhost:8000", 200),
        ("[::1]:8000", 200),
        ("127.0.0.1", 200),
        ("evil.example", 403),
        ("", 403),
    ):
        assert (await door.http.get("/v1/models", headers={"Host": host})).status_code == status


async def test_a_page_elsewhere_is_let_in_where_that_is_set(open_door: OpenDoor):
    asked = {"Origin": "https://chat.example", "Access-Control-Request-Method": "POST"}
    closed, opened = await open_door(), await open_door(cors_origins=("https://chat.example",))
    assert "access-control-allow-origin" not in (await closed.http.options(CHAT, headers=asked)).headers
    assert (await opened.http.options(CHAT, headers=asked)).headers[
        "access-control-allow-origin"
    ] == "https://chat.example"
    answer = await opened.http.get("/v1/models", headers={"Origin": "https://chat.example"})
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"location", "retry-after", "x-should-retry", "x-request-id"} <= set(exposed), "what clients go by"


async def test_request_ids_are_echoed_where_they_are_some(door: Door):
    assert (await door.http.get("/health", headers={"X-Request-Id": "my-1"})).headers["x-request-id"] == "my-1"
    for given in ("a b", "x" * 200, '"><script>'):
        made = (await door.http.get("/health", headers={"X-Request-Id": given})).headers["x-request-id"]
        assert made.startswith("req_")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'"a"', 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (b'{"a": NaN}', 400),
        (b'{"a": 1' + b"0" * 5000 + b"}", 400),
        (rb'{"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "user": "\ud800"}', 400),
        (b'{"a": "' + b"x" * 2000 + b'"}', 413),
    ],
)
async def test_a_body_that_is_none(open_door: OpenDoor, body: bytes, status: int):
    door = await open_door(max_body_bytes=200_000 if body.startswith(b"[[") else 6_000 if status == 400 else 1_000)
    for content in (body, _in_pieces(body)):
        answer = await door.http.post(CHAT, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"


async def _in_pieces(body: bytes):
    for at in range(0, len(body), 50_000):
        yield body[at : at + 50_000]


async def test_what_a_form_elsewhere_can_send_is_refused(door: Door):
    answer = await door.http.post(CHAT, content=b"{}", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415


async def test_a_body_that_does_not_come_is_given_up(open_live_door: OpenDoor):
    door = await open_live_door(body_s=0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx2.URL(door.url).port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100\r\n\r\n{"
    )
    assert b" 408 " in await reader.readline()
    writer.close()


@pytest.mark.parametrize("requests", [0, 1], ids=["the first", "a later one"])
async def test_a_head_that_does_not_come_is_given_up(open_live_door: OpenDoor, requests: int):
    door = await open_live_door(head_s=0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx2.URL(door.url).port)
    for _ in range(requests):
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b'{"status":"ok"}' in await reader.readuntil(b"}")
    writer.write(b"GET /health HTTP/1.1\r\nX-Slow: ")
    assert await asyncio.wait_for(reader.read(), LONG_S) == b""
    writer.close()


async def test_a_head_that_has_come_gives_nobody_up(open_live_door: OpenDoor, worker: ScriptedWorker):
    door = await open_live_door(head_s=0.05)
    with worker.paused():
        asking = asyncio.create_task(door.chat("Hi"))
        await asyncio.sleep(0.1)
        assert not asking.done()
    assert (await asking).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("POST", "/", 405),
        ("PUT", CHAT, 405),
        ("GET", "/v1/models/none", 404),
        ("GET", "/v1/models/%2e%2e%2fhealth", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", f"{CHAT}/chatcmpl-%F0%9F%98%80%00?starting_after=%00", 404),
        ("GET", f"{CHAT}/%2e%2e%2f%2e%2e%2fmodels", 404),
        ("DELETE", "/v1/responses/resp_%0d%0aX-Evil:1", 404),
        ("GET", "/v1/responses/resp_x/input_items?limit=%D9%A3", 404),
        ("HEAD", "/v1/nothing", 404),
    ],
)
async def test_what_is_not_there(door: Door, method: str, path: str, status: int):
    answer = await door.http.request(method, path)
    assert answer.status_code == status
    assert "x-evil" not in answer.headers
    assert method == "HEAD" or set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_slash_at_the_end_is_none(door: Door):
    """It was a redirect, which named http, also behind a proxy that speaks TLS."""
    assert (await door.http.get("/v1/models/")).json() == (await door.http.get("/v1/models")).json()
    assert (await door.http.post(f"{CHAT}/", json=Door.body("Hi"))).status_code == 200


@pytest.mark.parametrize(
    "path", ["/chat/completions", f"{CHAT}/chat/completions", "/v1/v1/models", "/models/tiny"]
)
async def test_a_wrong_base_url_is_told_from_a_path_that_is_not_there(door: Door, path: str):
    advice = "ends with /v1"
    assert advice in (await door.http.get(path)).json()["error"]["message"]
    assert advice not in (await door.http.get("/v1/embeddings")).json()["error"]["message"]


def test_a_line_of_the_log_has_its_time_and_a_traceback_stands_below_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The command's own handler showed messages alone: of a 500 the log did not say why."""
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.getLogger("producer"), "handlers", [SaidAlready()])
    keep_log()
    logging.captureWarnings(False)
    try:
        _ = 1 // 0
    except ZeroDivisionError:
        logging.getLogger("producer.gateway.entrance").exception("request %s failed", "mine")
    logging.getLogger("python_multipart").warning("odd")
    first, second, *_, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.+-]+ ERROR   request mine failed", first)
    assert second.startswith("Traceback")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.+-]+ WARNING odd", last)


async def test_what_nobody_has_foreseen_is_said_to_the_log_alone(door: Door, monkeypatch: pytest.MonkeyPatch):
    async def fail() -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(door.gateway.producer, "models", fail)
    answer = await door.http.get("/v1/models", headers={"X-Request-Id": "mine"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["error"]["type"] == "server_error"
    assert answer.headers["x-request-id"] == "mine"
    assert 'path="/v1/models",status="500"} 1.0' in (await door.http.get("/metrics")).text


async def test_a_stream_that_fails_as_nobody_has_foreseen_says_so(door: Door, monkeypatch: pytest.MonkeyPatch):
    of = Chunks.of
    monkeypatch.setattr(Chunks, "of", lambda *of_it: of(*of_it) if of_it[2].id.seq == 0 else 1 // 0)
    events = await all_events(await door.chat("Hi", stream=True))
    assert events[-1].data["error"]["code"] == "internal"
    assert len(events) == 2


async def test_who_waits_while_the_process_ends_is_told_to_come_again():
    """It was uvicorn's 500, without a body in OpenAI's form."""
    told: list[Message] = []

    async def wait(*_: object) -> None:
        await asyncio.Event().wait()

    async def send(message: Message) -> None:
        told.append(message)

    scope = {"type": "http", "path": "/v1/models", "query_string": b"", "headers": [(b"host", b"localhost")]}
    asking = asyncio.ensure_future(Entrance(wait, None)(scope, wait, send))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert told[0]["status"] == 503
    assert {b"retry-after", b"x-request-id"} <= dict(told[0]["headers"]).keys()
    assert json.loads(told[1]["body"])["error"]["code"] == "gateway_ending"


@pytest.mark.parametrize("path", [CHAT, "/v1/files"])
async def test_a_body_that_is_compressed_is_refused(door: Door, path: str):
    kind = "application/json" if path == CHAT else "multipart/form-data; boundary=x"
    headers = {"Content-Type": kind, "Content-Encoding": "gzip"}
    answer = await door.http.post(path, content=gzip.compress(b"{}"), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "content_encoding")


async def test_an_origin_that_is_none_is_one_elsewhere(door: Door):
    answer = await door.http.post("/v1/files", headers={"Origin": "http://["})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_origin")


def test_an_address_that_is_taken_is_said(genqueue_worker: ScriptedWorker):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(GenqueueError, match="give another --port"),
    ):
        serve(GatewaySettings(port=taken.getsockname()[1]), ProducerSettings())
