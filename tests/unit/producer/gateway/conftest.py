"""A gateway in the test's own event loop, in front of a Redis in memory and a scripted worker."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import pytest_asyncio
import uvicorn

from producer.gateway import last_words
from producer.gateway.app import make_app
from producer.gateway.gateway import Gateway
from producer.gateway.serving import server_config
from producer.gateway.settings import GatewaySettings
from producer.settings import ProducerSettings
from producer.testing import ScriptedWorker

LONG_S = 60


@dataclass
class Door:
    """A gateway that runs, and a client of it."""

    http: httpx2.AsyncClient
    gateway: Gateway
    url: str

    async def chat(self, text: str, **fields: Any) -> httpx2.Response:
        """Ask one thing, in one piece."""
        return await self.http.post("/v1/chat/completions", json=self.body(text, **fields))

    @staticmethod
    def body(text: str, **fields: Any) -> dict[str, Any]:
        """Of a chat."""
        return {"model": "tiny", "messages": [{"role": "user", "content": text}], **fields}


OpenDoor = Callable[..., Any]


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[Door]:
    """A gateway with these settings, without a socket: a response is there once it is whole."""
    app = make_app(GatewaySettings(**settings), ProducerSettings.load())
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    url = "http://localhost"
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url=url, timeout=LONG_S) as http,
    ):
        yield Door(http, app.state.gateway, f"{url}/v1")


@asynccontextmanager
async def opened_live(**settings: Any) -> AsyncIterator[Door]:
    """As `opened`, on a socket, for clients that leave before the end."""
    chosen = GatewaySettings(**settings)
    app = make_app(chosen, ProducerSettings.load())
    server = uvicorn.Server(server_config(app, chosen))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.001)
            assert not serving.done(), serving.exception()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with httpx2.AsyncClient(base_url=url, timeout=LONG_S) as http:
                yield Door(http, app.state.gateway, f"{url}/v1")
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, LONG_S)


@pytest.fixture(autouse=True)
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends nothing more behind a refusal is not waited for."""
    monkeypatch.setattr(last_words, "SILENT_S", 0.05)


@pytest.fixture
def worker(genqueue_worker: ScriptedWorker) -> ScriptedWorker:
    """It serves `tiny` from the start."""
    genqueue_worker.serves("tiny")
    return genqueue_worker


@pytest_asyncio.fixture
async def door(worker: ScriptedWorker) -> AsyncIterator[Door]:
    """A gateway without API keys."""
    async with opened() as door:
        yield door


def opener(open_one: Callable[..., Any]) -> Any:
    """A fixture that opens gateways, which are closed with the test."""

    async def fixture(worker: ScriptedWorker) -> AsyncIterator[OpenDoor]:
        async with AsyncExitStack() as stack:

            async def open_door(**settings: Any) -> Door:
                return await stack.enter_async_context(open_one(**settings))

            yield open_door

    return pytest_asyncio.fixture(fixture)


open_door = opener(opened)
open_live_door = opener(opened_live)
