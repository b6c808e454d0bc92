"""What a client could try on the connection itself, which no library would send."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import httpx2
import pytest

from producer.gateway import last_words
from producer.testing import ScriptedWorker

from .conftest import LONG_S, Door, OpenDoor

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = json.dumps(Door.body("Hi")).encode()


class Wire:
    """A connection. What had come before it was reset is read all the same."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setblocking(False)
        self._come = b""

    async def send(self, raw: bytes) -> None:
        with suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(self.socket, raw)

    async def status(self) -> int:
        """Of the answer; 0 where the connection has ended without one."""
        while b"\r\n" not in self._come and await self._more():
            pass
        line = self._come.partition(b"\r\n")[0]
        return int(line.split()[1]) if line else 0

    async def rest(self) -> bytes:
        """All that comes, to the end of the connection."""
        while await self._more():
            pass
        return self._come

    async def _more(self) -> bool:
        try:
            come = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.socket, 65_536), LONG_S)
        except ConnectionError:
            return False
        self._come += come
        return bool(come)


@asynccontextmanager
async def connected(door: Door) -> AsyncIterator[Wire]:
    wire = Wire(httpx2.URL(door.url).port)
    try:
        yield wire
    finally:
        wire.socket.close()


# -- sizes


@pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "chunked"])
async def test_a_body_that_is_too_large_ends_the_connection(open_live_door: OpenDoor, is_declared: bool):
    """It is not read to its end: a client could send for ever."""
    door = await open_live_door(max_body_bytes=1_000)
    async with connected(door) as wire:
        if is_declared:
            await wire.send(HEAD + b"Content-Length: 1000000000000\r\n\r\n")
        else:
            await wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(30):
                await wire.send(b"40\r\n" + b" " * 64 + b"\r\n")
        assert await wire.status() == 413
        told = await wire.rest()
        assert b"connection: close" in told.lower()
        assert b'"body_too_large"' in told
    assert (await door.chat("Hi")).status_code == 200


async def test_who_still_sends_is_told_that_it_is_too_much(
    open_live_door: OpenDoor, monkeypatch: pytest.MonkeyPatch
):
    """The connection was closed on what he had not sent yet: he knew of no answer, and tried again."""
    monkeypatch.setattr(last_words, "SILENT_S", LONG_S)
    door = await open_live_door(max_body_bytes=1_000)
    for body in (Door.body("x" * 8_000_000), Door.body("x" * 2_000)):
        answer = await door.http.post("/v1/chat/completions", json=body)
        assert (answer.status_code, answer.headers["connection"]) == (413, "close")


async def test_many_small_pieces_are_one_body(open_live_door: OpenDoor):
    door = await open_live_door()
    async with connected(door) as wire:
        await wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for at in range(len(BODY)):
            await wire.send(b"1;ext=x\r\n" + BODY[at : at + 1] + b"\r\n")
        await wire.send(b"0\r\nX-Trailer: 1\r\n\r\n")
        assert await wire.status() == 200


LONG_HEADS = [
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X-Many: 1\r\n" * 20_000 + b"\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"A" * 100_000,
]


async def test_a_head_is_bounded(open_live_door: OpenDoor):
    door = await open_live_door()
    for head in LONG_HEADS:
        async with connected(door) as wire:
            await wire.send(head)
            assert await wire.status() in (400, 431)
            assert b"aaaa" not in await wire.rest()


# -- forms


NO_REQUESTS = [
    HEAD + b"Content-Length: -1\r\n\r\n",
    HEAD + b"Content-Length: 0x10\r\n\r\n",
    HEAD + b"Content-Length: 5, 6\r\n\r\n",
    HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
    HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFFFFFFFF\r\n",
    HEAD + b"X-A: 1\r\n X-Evil: 1\r\nX-B : 1\r\n\r\n",
    HEAD + b"X-\xff: 1\r\n\r\n",
    HEAD + b"X-A: a\x00b\r\n\r\n",
    HEAD + b"X-Request-Id: a\rX-Evil: 1\r\n\r\n",
    b"GET /health HTTP/1.1\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    b"G\x00T /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\r\n\r\n\r\n\r\n0\r\n\r\n",
]


async def test_what_is_no_request_is_refused_and_the_connection_ended(open_live_door: OpenDoor):
    door = await open_live_door()
    for raw in NO_REQUESTS:
        async with connected(door) as wire:
            await wire.send(raw)
            assert 400 <= await wire.status() < 500
            told = (await wire.rest()).lower()
            assert b"x-evil" not in told
            assert b"traceback" not in told
        assert (await door.http.get("/health")).status_code == 200


async def test_an_upgrade_is_passed_over_without_a_word(
    open_live_door: OpenDoor, caplog: pytest.LogCaptureFixture
):
    """The log advised to install a library for WebSockets, of which there are none here."""
    door = await open_live_door()
    async with connected(door) as wire:
        upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        await wire.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + upgrade)
        assert await wire.status() == 200
    assert not caplog.messages


async def test_no_request_hides_in_the_body_of_another(open_live_door: OpenDoor, worker: ScriptedWorker):
    """With two lengths, a proxy before it and the gateway could part them in two places."""
    door = await open_live_door()
    hidden = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with connected(door) as wire:
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
        await wire.send(HEAD + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked + hidden)
        assert await wire.status() == 400
        assert (await wire.rest()).count(b"HTTP/1.1 ") == 1
    assert worker.requests == []


PATHS = [b"/v1/models/%ff", b"/v1/models/\xff", b"/v1/models?a=%ff", b"/v1/models/%", b"/v1/models/%zz", b"*"]


async def test_a_path_may_be_any_bytes(open_live_door: OpenDoor):
    door = await open_live_door()
    for path in PATHS:
        async with connected(door) as wire:
            await wire.send(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert await wire.status() in (200, 400, 404)
            assert b"Traceback" not in await wire.rest()


async def test_a_path_elsewhere_is_none(open_live_door: OpenDoor):
    """No proxy: the whole address of another server is a path that is not there."""
    door = await open_live_door()
    for line in (b"GET http://evil.example/v1/models HTTP/1.1", b"CONNECT evil.example:443 HTTP/1.1"):
        async with connected(door) as wire:
            await wire.send(line + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert await wire.status() in (400, 404, 405)


# -- time


async def test_a_connection_on_which_nothing_comes_is_closed(open_live_door: OpenDoor):
    door = await open_live_door(head_s=0.05)
    async with connected(door) as wire:
        assert await wire.rest() == b""


async def test_a_connection_that_is_done_with_is_closed(open_live_door: OpenDoor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("producer.gateway.serving.KEEP_ALIVE_S", 0.05)
    door = await open_live_door(head_s=600)
    async with connected(door) as wire:
        await wire.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b'{"status":"ok"}' in await wire.rest()


@pytest.mark.parametrize("form", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
async def test_a_body_that_drips_is_given_up(open_live_door: OpenDoor, form: bytes):
    """However often something of it comes."""
    door = await open_live_door(body_s=0.1)
    async with connected(door) as wire:
        await wire.send(HEAD + form + b"\r\n\r\n")
        answer = asyncio.ensure_future(wire.status())
        while not answer.done():
            await wire.send(b"1\r\n{\r\n" if b"chunked" in form else b" ")
            await asyncio.wait([answer], timeout=0.01)
        assert answer.result() == 408
        assert b"connection: close" in (await wire.rest()).lower()


async def test_a_head_that_drips_is_given_up(open_live_door: OpenDoor):
    door = await open_live_door(head_s=0.1)
    async with connected(door) as wire:
        ended = asyncio.ensure_future(wire.rest())
        await wire.send(b"GET /health HTTP/1.1\r\n")
        while not ended.done():
            await wire.send(b"X-A: 1\r\n")
            await asyncio.wait([ended], timeout=0.01)
        assert ended.result() == b""


async def test_many_that_drip_keep_nobody_out(open_live_door: OpenDoor):
    door = await open_live_door(head_s=600, body_s=600)
    async with AsyncExitStack() as stack:
        for number in range(100):
            wire = await stack.enter_async_context(connected(door))
            await wire.send(HEAD + b"Content-Length: 100\r\n\r\n{" if number % 2 else b"GET /health HT")
        assert (await door.chat("Hi")).status_code == 200
