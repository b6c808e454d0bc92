"""What a client could try: keys, bodies, ids, paths, and text that could be taken for something else.

What is tried on the connection itself is in test_wire.py; limits are in test_limits.py.
"""

import hmac
import json
import logging
from pathlib import Path
from typing import Any

import httpx2
import pytest

from producer.contract import GenerationRequest, GenerationResult
from producer.gateway.calls import Call
from producer.gateway.openapi import document
from producer.gateway.sse import sse
from producer.testing import ScriptedWorker

from .conftest import Door, OpenDoor, opened
from .events import all_events, text_of
from .test_entrance import CHAT, bearer, keys_file

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": Door.body("Hi"),
    "/v1/completions": {"model": "tiny", "prompt": "Hi"},
    "/v1/responses": {"model": "tiny", "input": "Hi"},
}
"""By the path that makes what has an id."""


# -- keys


async def test_what_another_has_made_is_404_on_every_path(open_door: OpenDoor, tmp_path: Path):
    door = await open_door(api_keys=keys_file(tmp_path, "alice", "bob"))
    tried = 0
    for path, body in BODIES.items():
        made = (await door.http.post(path, json=body, headers=bearer("alice"))).json()
        of_it = [(url, method) for url, item in document()["paths"].items() for method in item]
        of_it = [each for each in of_it if each[0].startswith(f"{path}/")]
        last_first = sorted(of_it, key=lambda each: each == (f"{path}/{{id}}", "delete"))
        for url, method in last_first:
            change = {"json": {"metadata": {}}} if (url, method) == (f"{CHAT}/{{id}}", "post") else {}
            for query in ("", "?stream=true", "?starting_after=0"):
                at = url.replace("{id}", made["id"]) + query
                answers = [
                    await door.http.request(method, at, headers=bearer(name), **change)
                    for name in ("bob", "no" + "body")
                ]
                assert [answer.status_code for answer in answers] == [404, 401], at
                unknown = await door.http.request(method, at.replace(made["id"], "none"), headers=bearer("bob"))
                assert answers[0].json()["error"] | {"message": ""} == unknown.json()["error"] | {"message": ""}
            mine = await door.http.request(
                method, url.replace("{id}", made["id"]), headers=bearer("alice"), **change
            )
            assert mine.status_code == 200, (url, method, mine.text)
            tried += 1
    assert tried == 10


NO_KEYS = [
    b"", b"Bearer", b"Bearer ", b"Bearer  ", b"Basic YWxpY2U6", b"alice", b"Bearer alice bob", b"Bearer Alice",
    b"Bearer alice\xff", b"Bearer \xe4\xbd\xa0", b"Bearer " + b"a" * 20_000, b"Token alice", b"Bearer,alice",
    b"Bearer alic", b"Bearer alice,Bearer bob",
]  # fmt: skip


async def test_what_is_no_key_lets_nobody_in(open_door: OpenDoor, tmp_path: Path):
    door = await open_door(api_keys=keys_file(tmp_path, "alice", "bob"))
    for authorization in NO_KEYS:
        for path in ("/v1/models", f"{CHAT}/chatcmpl-x", "/metrics", "/v1/models?api_key=alice&token=alice"):
            answer = await door.http.get(path, headers={"Authorization": authorization, "X-Api-Key": "alice"})
            assert answer.status_code == 401
            assert "alic" not in answer.text


async def test_all_keys_are_compared_in_a_time_that_tells_nothing(
    open_door: OpenDoor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    door = await open_door(api_keys=keys_file(tmp_path, "alice", "bob", "carol"))
    compared: list[tuple[str, str]] = []

    def compare(first: str, second: str) -> bool:
        compared.append((first, second))
        return real(first, second)

    real = hmac.compare_digest
    monkeypatch.setattr("producer.gateway.api_keys.hmac.compare_digest", compare)
    counts = []
    for name in ("alice", "carol", "eve"):
        compared.clear()
        await door.http.get("/v1/models", headers=bearer(name))
        counts.append(len(compared))
        assert {len(each) for pair in compared for each in pair} == {64}  # hashes, and no key
    assert counts == [3, 3, 3]


AROUND = [
    "/health/../v1/models", "/health/%2e%2e/v1/models", "/health%2f..%2fv1%2fmodels", "//v1/models",
    "/v1//models", "/v1/models/", "/V1/MODELS", "/health/v1/models", "/openapi.json/../v1/models",
    "/ready;/v1/models", "/v1/models%00/health", "/v1/models?/health", "/%2e/v1/models",
    "/v1/models/..%2f..%2fhealth", "/health%00", "/health%0a", "/v1/models/%2fhealth", "/ready%20",
]  # fmt: skip


async def test_no_path_leads_around_the_keys(open_door: OpenDoor, tmp_path: Path):
    """As they are on the wire: a client of httpx would tidy them."""
    door = await open_door(api_keys=keys_file(tmp_path, "alice"))
    for path in AROUND:
        url = httpx2.URL("http://localhost").copy_with(raw_path=path.encode())
        answer = await door.http.send(httpx2.Request("GET", url))
        assert answer.status_code == 401 or (answer.status_code == 404 and "tiny" not in answer.text), answer.text


# -- bodies


def nested(depth: int, kind: str) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


@pytest.mark.parametrize("depth", [200, 985, 100_000])
@pytest.mark.parametrize("kind", ["list", "object"])
async def test_deep_values_are_served_or_refused(door: Door, depth: int, kind: str):
    opening, closing = ("[", "]") if kind == "list" else ('{"a":', "}")
    deep = opening * depth + "1" + closing * depth
    schema = '{"type": "object", "default": DEEP}'
    function = f'{{"name": "f", "parameters": {schema}}}'
    form = f'{{"name": "a", "schema": {schema}}}'
    for path, field, value in (
        (CHAT, "metadata", "DEEP"),
        (CHAT, "unknown", "DEEP"),
        (CHAT, "stop", "DEEP"),
        (CHAT, "chat_template_kwargs", '{"a": DEEP}'),
        (CHAT, "tools", f'[{{"type": "function", "function": {function}}}]'),
        (CHAT, "response_format", f'{{"type": "json_schema", "json_schema": {form}}}'),
        ("/v1/responses", "input", "DEEP"),
        ("/v1/responses", "tools", f'[{{"type": "function", {function[1:]}]'),
        ("/v1/responses", "text", f'{{"format": {{"type": "json_schema", {form[1:]}}}'),
        ("/v1/completions", "prompt", "DEEP"),
    ):
        plain = json.dumps({name: value for name, value in BODIES[path].items() if name != field})
        body = f'{plain[:-1]}, "{field}": {value.replace("DEEP", deep)}}}'
        answer = await door.http.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in ((200, 400) if depth < 1_000 else (400,)), (field, answer.text[:300])


KINDS = [
    ("", 415), ("text/plain", 415), ("application/x-www-form-urlencoded", 415), ("multipart/form-data", 415),
    ("application/xml", 415), ("text/json", 415), ("application/json-seq", 415), ("APPLICATION/JSON", 200),
    ("application/json; charset=utf-8", 200), ("application/json;charset=utf-16", 200), ("*/*", 415),
]  # fmt: skip


async def test_a_body_is_json_by_its_name(door: Door):
    """Its charset says nothing: JSON is UTF-8."""
    for kind, status in KINDS:
        for path, body in BODIES.items():
            answer = await door.http.post(path, content=json.dumps(body), headers={"Content-Type": kind})
            assert answer.status_code == status


WHOLE = json.dumps(Door.body("Hi"))


NO_UTF8 = [
    b'{"model": "tiny\xff"}', b'{"model": "\xc3\x28"}', b'{"model": "\xed\xa0\x80"}', b'{"model": "\xf8\x88"}',
    b"\xef\xbb\xbf{}", WHOLE.encode("utf-16"), WHOLE.encode("utf-16-le"), WHOLE.encode("utf-32"),
    b'{"model": "\\ud83d"}', b'{"model": "tiny", "\\udc00": 1}', b'{"model": "tiny"} {}', b"\x00",
]  # fmt: skip


async def test_what_is_no_utf8_is_refused(door: Door):
    for raw in NO_UTF8:
        for path in BODIES:
            answer = await door.http.post(path, content=raw, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400, answer.text


async def test_a_number_that_could_not_be_written_again_is_refused(door: Door):
    """An infinite one stood in a response's tools, and the object could not be sent."""
    for path, body in BODIES.items():
        tool = {"name": "f", "parameters": {"minimum": 1}}
        of_it = tool if path == "/v1/responses" else {"function": tool}
        text = json.dumps({**body, "tools": [{"type": "function", **of_it}]}).replace(": 1}", ": -1e999}")
        answer = await door.http.post(path, content=text, headers={"Content-Type": "application/json"})
        assert (answer.status_code, "beyond every number" in answer.text) == (400, True)


async def test_a_field_that_is_there_twice_counts_once(door: Door, worker: ScriptedWorker):
    """The last, as everywhere: who checks a body before the gateway sees what the gateway sees."""
    body = '{"model": "none", "model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}'
    answer = await door.http.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200


# -- ids and headers


HOSTILE = [
    b"a\tb", b'"><script>alert(1)</script>', b"\xff\xfe", "你好".encode(), b"{x}:result", b"*", b"../../etc",
    b"a" * 255, b"%0d%0aX-Evil: 1", b"' OR 1=1", b"\x7f",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
async def test_an_idempotency_key_is_a_name_and_nothing_else(door: Door, worker: ScriptedWorker, value: bytes):
    headers = {"Idempotency-Key": value}
    made = [await door.http.post(CHAT, json=Door.body("Hi"), headers=headers) for _ in range(2)]
    assert made[0].status_code == 200
    assert made[0].json() == made[1].json()
    assert made[0].json()["id"].removeprefix("chatcmpl-key-").isalnum()
    assert len(worker.requests) == 1
    assert "x-evil" not in made[0].headers


async def test_no_header_comes_back_but_a_request_id_that_is_one(door: Door):
    for value in HOSTILE:
        names = ("X-Request-Id", "X-Priority", "Last-Event-ID", "Origin", "X-Forwarded-Host", "Traceparent")
        answer = await door.http.post(CHAT, json=Door.body("Hi"), headers=dict.fromkeys(names[:1], value))
        assert answer.status_code == 200
        told = await door.http.post(CHAT, json=Door.body("Hi"), headers=dict.fromkeys(names, value))
        for each in (answer, told):
            sent = {name.lower(): values for name, values in each.headers.raw}
            if value != b"a" * 255:
                assert not any(value in name or value in said for name, said in each.headers.raw), sent
            assert each.headers["x-request-id"].startswith("req_")
            assert "x-evil" not in each.headers
            assert each.headers["content-type"] == "application/json"


NO_MODELS = ["tiny\n", "tiny\r\nX-Evil: 1", "../tiny", "*", "tiny\x00", "t" * 5000, "<b>", " "]


async def test_a_models_name_is_a_name_and_nothing_else(door: Door):
    for model in NO_MODELS:
        for path, body in BODIES.items():
            answer = await door.http.post(path, json=body | {"model": model})
            assert answer.status_code in (400, 404)
            assert answer.json()["error"]["param"] == "model"
            assert len(answer.text) < 1_000


# -- text that could be taken for something else


BREAKS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\u2029", "\x00", "\ufeff"]
EVIL = [f"a{each * 2}data: [DONE]{each * 2}id: 99{each}event: error{each}{each}b" for each in BREAKS]


async def test_no_text_begins_an_event(door: Door, worker: ScriptedWorker):
    for text in EVIL:
        worker.answers("Hi", [text, text])
        for path, body in BODIES.items():
            async with door.http.stream("POST", path, json=body | {"stream": True}) as answer:
                raw = (await answer.aread()).decode()
            for lines in (raw.split("\n"), raw.splitlines()):  # the latter as clients do that know Python's lines
                fields = {line.partition(":")[0] for line in lines if line}
                assert fields <= {"id", "event", "data"}
                assert lines.count("data: [DONE]") == (path != "/v1/responses")
        async with door.http.stream("POST", CHAT, json=BODIES[CHAT] | {"stream": True}) as answer:
            assert text_of(await all_events(answer)) == 2 * text


async def test_no_error_begins_an_event(door: Door, worker: ScriptedWorker):
    for text in EVIL:
        worker.fails("Hi", "engine_error", text, after="so far")
        for path, body in BODIES.items():
            async with door.http.stream("POST", path, json=body | {"stream": True}) as answer:
                raw = (await answer.aread()).decode()
            lines = raw.splitlines()
            assert {line.partition(":")[0] for line in lines if line} <= {"id", "event", "data"}
            assert "data: [DONE]" not in lines


def test_an_event_is_json_whatever_is_in_it():
    for text in EVIL:
        [data] = [line for line in sse({"a": text}).decode().splitlines() if line]
        assert json.loads(data.removeprefix("data: ")) == {"a": text}


# -- secrets


SECRET = "correct-horse-battery"


async def test_no_secret_is_in_a_log(
    open_door: OpenDoor, worker: ScriptedWorker, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
):  # fmt: skip
    """Neither a key, nor a prompt or an answer, nor a password of Redis; nor is the last of these in an answer."""
    caplog.set_level(logging.DEBUG)
    door = await open_door(api_keys=keys_file(tmp_path, f"{SECRET}-key"))
    worker.answers(f"{SECRET}-prompt", f"{SECRET}-answer")
    worker.fails(f"{SECRET}-broken", "engine_error", "it broke", after=f"{SECRET}-so-far")
    headers = bearer(f"{SECRET}-key") | {"Idempotency-Key": f"{SECRET}-idempotency"}
    asked = [Door.body(f"{SECRET}-prompt"), Door.body(f"{SECRET}-broken"), {"model": f"{SECRET}-model"}]
    for body in asked:
        for more in ({}, {"stream": True}):
            await door.http.post(CHAT, json=body | more, headers=headers)
            await door.http.post(CHAT, content=json.dumps(body)[:-1], headers=headers)
    await door.http.get("/v1/models", headers=bearer(f"{SECRET}-wrong"))

    said = capfd.readouterr()
    for text in (caplog.text, said.out, said.err):
        assert SECRET not in text


async def test_a_password_of_redis_is_told_to_nobody_and_its_address_to_the_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    caplog.set_level(logging.DEBUG)
    for name in ("REDIS_URL", "GENQUEUE_REDIS_URL"):
        monkeypatch.setenv(name, f"redis://user:{SECRET}@127.0.0.1:1/0")
    monkeypatch.setenv("GENQUEUE_WAIT_S", "0.1")
    async with opened() as door:
        for path, body in BODIES.items():
            told = await door.http.post(path, json=body)
            assert told.status_code == 503
            assert not any(each in told.text for each in (SECRET, "127.0.0.1", "Redis")), told.text
        assert (await door.http.get("/ready")).status_code == 503
    told_to_the_log = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert sum("Redis at 127.0.0.1:1 cannot be used" in each for each in told_to_the_log) == 1
    said = capfd.readouterr()
    for text in (caplog.text, said.out, said.err):
        assert SECRET not in text


def test_a_fault_of_ours_tells_the_log_no_prompt():
    """The log has a traceback then, and pydantic would quote in it what it was given."""
    for model in (GenerationRequest, GenerationResult, Call):
        with pytest.raises(ValueError, match="validation error") as raised:
            model.model_validate({"prompt": SECRET, "text": SECRET, "id": 3, "max_new_tokens": SECRET})
        assert SECRET not in str(raised.value)
