"""Files over HTTP, with openai's client where it can ask so."""

import asyncio
import json
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from openai.types import FileDeleted, FileObject

from producer.contract import Keys
from producer.gateway import stored_files, uploads
from producer.gateway.forms import Form
from producer.testing import ScriptedWorker

from .conftest import LONG_S, Door, OpenDoor
from .test_entrance import keys_file

KEYS = Keys()


def client_of(door: Door, key: str = "none") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=door.url, api_key=key, max_retries=0, http_client=door.http)


def form(name: str, content: bytes, **fields: str) -> dict:
    return {"files": {"file": (name, content)}, "data": {"purpose": "batch", **fields}}


async def test_a_file_is_kept_shown_and_deleted(door: Door, worker: ScriptedWorker):
    files, content = client_of(door).files, b'{"custom_id": "a"}\n' * 3
    made = await files.create(file=("rows.jsonl", content), purpose="batch")
    assert (made.bytes, made.filename, made.purpose, made.status) == (57, "rows.jsonl", "batch", "processed")
    assert made.expires_at - made.created_at == door.gateway.settings.files_ttl_s
    raw = (await door.http.get(f"/v1/files/{made.id}")).json()
    assert FileObject.model_validate(raw) == await files.retrieve(made.id) == made
    assert (await files.content(made.id)).content == content
    deleted = await files.delete(made.id)
    assert FileDeleted.model_validate(deleted.model_dump()).deleted
    assert [name for name in worker.client.keys("*files*") if name != KEYS.file_sizes("").encode()] == []
    assert worker.client.hgetall(KEYS.file_sizes("")) == {b"": b"0"}
    for gone in (files.retrieve(made.id), files.content(made.id), files.delete(made.id)):
        with pytest.raises(openai.NotFoundError):
            await gone


@pytest.mark.parametrize("size", [0, 8, 41])
async def test_a_file_of_any_size_comes_back_as_it_was(door: Door, worker: ScriptedWorker, monkeypatch, size: int):
    monkeypatch.setattr(uploads, "PART_BYTES", 8)
    monkeypatch.setattr(stored_files, "PARTS_AT_ONCE", 2)
    content = bytes(range(size))
    made = await client_of(door).files.create(file=("bytes", content), purpose="batch")
    shown = await door.http.get(f"/v1/files/{made.id}/content")
    assert (shown.content, made.bytes) == (content, size)
    assert shown.headers["content-length"] == str(size)
    assert worker.client.hlen(KEYS.file_parts("", made.id)) == size // 8 + 1


async def test_an_upload_is_never_whole_in_memory(door: Door, worker: ScriptedWorker, monkeypatch):
    monkeypatch.setattr(uploads, "PART_BYTES", 1000)
    held = []

    class Watched(Form):
        def feed(self, data: bytes) -> None:
            super().feed(data)
            held.append(len(self.pending))

    monkeypatch.setattr(uploads, "form_of", lambda request: Watched(boundary_of(request)))

    async def body():
        yield b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        for _ in range(100):
            yield b"y" * 900
        yield b"\r\n--x--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=x"}
    made = (await door.http.post("/v1/files", content=body(), headers=headers)).json()
    assert made["bytes"] == 90_000
    assert max(held) < 2000


def boundary_of(request) -> bytes:
    return request.headers["content-type"].partition("boundary=")[2].encode()


async def test_files_are_listed_page_by_page(door: Door):
    files = client_of(door).files
    made = [(await files.create(file=(f"f{n}", b"x"), purpose="batch")).id for n in range(5)]
    assert [each.id async for each in files.list(limit=2)] == sorted(made, reverse=True)
    assert [each.id async for each in files.list(limit=2, order="asc")] == sorted(made)
    page = (await door.http.get(f"/v1/files?limit=2&order=asc&after={min(made)}")).json()
    assert (page["first_id"], page["last_id"], page["has_more"]) == (*sorted(made)[1:3], True)
    assert [each async for each in files.list(purpose="batch_output")] == []
    for query in ("after=none", "limit=0", "limit=x", "limit=10001", "order=up"):
        refused = await door.http.get(f"/v1/files?{query}")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, query.partition("=")[0])


async def test_files_are_deleted_while_they_are_listed(door: Door):
    files = client_of(door).files
    for n in range(5):
        await files.create(file=(f"f{n}", b"x"), purpose="batch")
    deleted = [(await files.delete(each.id)).id async for each in files.list(limit=2)]
    assert len(set(deleted)) == 5
    assert [each async for each in files.list()] == []


async def test_a_file_is_its_owners_alone(open_door: OpenDoor, tmp_path):
    door = await open_door(api_keys=keys_file(tmp_path, "alice", "bob"), max_files_bytes=20)
    alice, bob = (client_of(door, name).files for name in ("alice", "bob"))
    made = await alice.create(file=("f", b"x" * 20), purpose="batch")
    for asked in (bob.retrieve(made.id), bob.content(made.id), bob.delete(made.id)):
        with pytest.raises(openai.NotFoundError):
            await asked
    assert [each async for each in bob.list()] == []
    assert [each.id async for each in alice.list()] == [made.id]
    await bob.create(file=("f", b"x" * 20), purpose="batch")
    with pytest.raises(openai.APIStatusError) as refused:
        await alice.create(file=("f", b"x"), purpose="batch")
    assert (refused.value.status_code, refused.value.code) == (413, "no_room")


@pytest.mark.parametrize("sized", [True, False])
async def test_a_file_that_is_too_large_is_refused_and_leaves_nothing(
    open_door: OpenDoor, worker: ScriptedWorker, monkeypatch, sized: bool
):
    monkeypatch.setattr(uploads, "PART_BYTES", 1000)
    monkeypatch.setattr(uploads, "FRAME_BYTES", 500)
    door = await open_door(max_file_bytes=5000)
    request = door.http.build_request("POST", "/v1/files", **form("f", b"x" * (5001 if not sized else 6000)))
    if not sized:
        whole = request.read()
        headers = {"content-type": request.headers["content-type"]}
        request = door.http.build_request("POST", "/v1/files", content=pieces(whole), headers=headers)
    refused = await door.http.send(request)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (413, "file_too_large", "file")
    assert worker.client.hget(KEYS.file_sizes(""), "") in (None, b"0")
    assert worker.client.keys("*:parts") == []


async def test_a_client_is_told_of_a_file_that_is_too_large(open_live_door: OpenDoor):
    """While it sends on."""
    door = await open_live_door(max_file_bytes=100_000)
    async with AsyncOpenAI(base_url=door.url, api_key="none", max_retries=0) as client:
        for size in (5 * 2**20, 100_001):
            with pytest.raises(openai.APIStatusError) as refused:
                await client.files.create(file=("f", b"x" * size), purpose="batch")
            assert (refused.value.status_code, refused.value.code) == (413, "file_too_large")


async def test_a_form_that_has_no_end_is_given_up(open_live_door: OpenDoor, monkeypatch):
    """Of fields and what follows the form nothing is kept, so that it could go on for ever."""
    monkeypatch.setattr(uploads, "FRAME_BYTES", 1_000)
    door = await open_live_door(max_file_bytes=1_000)
    gone_on = 0

    async def body():
        nonlocal gone_on
        yield b"--x--\r\n"
        while gone_on < 1_000:
            gone_on += 1
            yield b"y" * 1_000

    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = await door.http.post("/v1/files", content=body(), headers=headers)
    assert answer.status_code == 413


async def pieces(whole: bytes):
    for at in range(0, len(whole), 700):
        yield whole[at : at + 700]


async def test_what_was_cut_off_leaves_nothing(open_live_door: OpenDoor, worker: ScriptedWorker, monkeypatch):
    monkeypatch.setattr(uploads, "PART_BYTES", 1000)
    door = await open_live_door()
    came = asyncio.Event()

    async def body():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + b"y" * 5000
        while not worker.client.keys("*:parts"):
            await asyncio.sleep(0.01)
        came.set()
        await asyncio.sleep(LONG_S)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    async with httpx2.AsyncClient(base_url=door.url) as http:
        sending = asyncio.create_task(http.post("files", content=body(), headers=headers))
        await asyncio.wait_for(came.wait(), LONG_S)
        assert all(0 < worker.client.ttl(name) <= stored_files.UPLOAD_S for name in worker.client.keys("*files*"))
        sending.cancel()
        await asyncio.wait([sending])
    async with asyncio.timeout(LONG_S):
        while worker.client.keys("*:parts"):
            await asyncio.sleep(0.01)
    assert worker.client.hget(KEYS.file_sizes(""), "") == b"0"


async def test_a_file_that_trickles_is_given_up(open_live_door: OpenDoor, worker: ScriptedWorker):
    door = await open_live_door(body_s=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(door.url.split(":")[2].removesuffix("/v1")))
    writer.write(
        b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    )
    answered = asyncio.create_task(reader.readuntil(b'"code": "timeout"'))
    async with asyncio.timeout(LONG_S):
        while not (await asyncio.wait([answered], timeout=0.05))[0]:
            writer.write(b"y")
    assert answered.result().startswith(b"HTTP/1.1 408 ")
    writer.close()
    assert worker.client.keys("*:parts") == []


BODIES: list[tuple[dict[str, Any], int, str | None]] = [
    ({"json": {"purpose": "batch"}}, 415, None),
    ({"data": {"purpose": "batch"}}, 415, None),
    ({"files": {"file": ("f", b"x")}}, 400, "purpose"),
    ({"files": {"other": ("f", b"x")}, "data": {"purpose": "batch"}}, 400, "file"),
    (form("f", b"x", purpose="vision"), 400, "purpose"),
    (form("f", b"x", colour="red"), 400, "colour"),
    (form("f" * 513, b"x"), 400, "file"),
    (form("f", b"x", long="x" * 1001), 400, "long"),
    (form("f", b"x", **{f"a{n}": "" for n in range(9)}), 400, None),
    (form("f", b"x", **{"expires_after[anchor]": "created_at"}), 400, "expires_after"),
    (
        form("f", b"x", **{"expires_after[anchor]": "now", "expires_after[seconds]": "4000"}),
        400,
        "expires_after",
    ),
    (
        form("f", b"x", **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "9"}),
        400,
        "expires_after.seconds",
    ),
    ({"files": [("file", ("f", b"x")), ("file", ("g", b"y"))], "data": {"purpose": "batch"}}, 400, "file"),
    ({"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, None),
    ({"content": b"nothing", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, None),
    ({"content": b"", "headers": {"content-type": "multipart/form-data; boundary=" + "x" * 300}}, 400, None),
    ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, 415, None),
]


async def test_a_body_that_is_none_is_refused(door: Door, worker: ScriptedWorker):
    for asked, status, param in BODIES:
        refused = await door.http.post("/v1/files", **asked)
        assert (refused.status_code, refused.json()["error"]["param"]) == (status, param), asked
        assert worker.client.keys("*:parts") == []


async def test_a_file_is_kept_for_as_long_as_is_asked(door: Door, worker: ScriptedWorker):
    expiry = {"anchor": "created_at", "seconds": 4000}
    made = await client_of(door).files.create(file=("f", b"x"), purpose="batch", expires_after=expiry)
    assert made.expires_at - made.created_at == 4000
    assert 3900 < worker.client.ttl(KEYS.file_parts("", made.id)) <= 4000


async def test_a_page_elsewhere_uploads_nothing(open_door: OpenDoor, worker: ScriptedWorker):
    """A form can be sent from anywhere, and without asking first."""
    door = await open_door(cors_origins=["https://chat.example"])
    for origin, status in {
        "https://evil.example": 403,
        "null": 403,
        "https://chat.example": 200,
        "http://localhost:3000": 200,
        "http://127.0.0.1": 200,
    }.items():
        answered = await door.http.post("/v1/files", **form("f", b"x"), headers={"origin": origin})
        assert answered.status_code == status, origin
    assert len(worker.client.keys("*:parts")) == 3


NAMES = ["../../etc/passwd", 'a"; x=y', "a\r\nset-cookie: b=c", "名前.jsonl", "<script>", "\x00", "a" * 512]


async def test_a_name_is_text_and_nothing_else(door: Door):
    """Written by hand: clients escape some of it."""
    for name in NAMES:
        await _check_name(door, name)


async def _check_name(door: Door, name: str) -> None:
    quoted = json.dumps(name)[1:-1].replace('\\"', "%22") if "\r" in name or "\x00" in name else name
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="'
        + quoted.replace('"', '\\"').encode()
        + b'"\r\n\r\nx\r\n--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n'
    )
    made = await door.http.post(
        "/v1/files", content=body, headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert made.status_code == 200, made.text
    shown = await door.http.get(f"/v1/files/{made.json()['id']}/content")
    said = shown.headers["content-disposition"]
    assert shown.headers.keys() == {
        *("content-length", "content-disposition", "x-content-type-options", "content-type", "x-request-id")
    }
    assert said.startswith("attachment; filename*=utf-8''")
    assert said.partition("''")[2].replace("%", "").replace(".", "").replace("-", "").replace("_", "").isalnum()


async def test_an_id_leads_nowhere_else(door: Door, worker: ScriptedWorker):
    worker.client.hset(KEYS.file("", "sizes"), "record", "{}")
    ids = "file-", "..%2f..%2fx", "file-..%2fx", "file-*", "sizes", "file-" + "0" * 32 + ":parts", "%00", "a b"
    for file_id in ids:
        for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
            assert (await door.http.get(path)).status_code == 404, path
        assert (await door.http.delete(f"/v1/files/{file_id}")).status_code == 404


async def test_what_is_no_record_is_no_file(door: Door, worker: ScriptedWorker):
    made = await client_of(door).files.create(file=("f", b"x"), purpose="batch")
    worker.client.hset(KEYS.file("", made.id), "record", "{}")
    assert (await door.http.get(f"/v1/files/{made.id}")).status_code == 404
    assert (await door.http.get("/v1/files")).json()["data"] == []
