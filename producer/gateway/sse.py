"""Server-sent events over HTTP: how they are written, and a response that ends with its client.

Source: the HTML standard, Server-sent events. What proxies are told, so that they pass on each event as it
comes, is nginx's `X-Accel-Buffering` and `no-transform`.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..ending import end

HEARTBEAT = b": still here\n"
"""A comment, which readers pass over. openai-python takes a blank line for an event once one has had an id."""
DONE = "[DONE]"
HEADERS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}

_BREAKS = {ord(each): f"\\u{ord(each):04x}" for each in "\x85\u2028\u2029"}
"""Line breaks to Python's `str.splitlines`, by which some clients read. JSON leaves them as they are."""

Body = AsyncGenerator[bytes, None]

_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Made once: there are thousands of events a second."""


def sse(data: Any, event_id: str | None = None, name: str | None = None) -> bytes:
    """One event. JSON has no line break in it, so that no text can begin another event.

    data: an object, or `[DONE]`.
    """
    text = data if data is DONE else _json(data)
    if not text.isascii():
        text = text.translate(_BREAKS)
    head = f"id: {event_id}\n" if event_id is not None else ""
    head += f"event: {name}\n" if name is not None else ""
    return f"{head}data: {text}\n\n".encode(errors="replace")


class EventStream(Response):
    """A body of events. The client's going ends it, also while nothing is sent.

    first: what comes before the rest of `body`, which is closed in any case.  at_end: awaited then.
    """

    media_type = "text/event-stream"

    def __init__(self, first: bytes, body: Body, at_end: Callable[[], Awaitable[None]]) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._first = first
        self._body = body
        self._at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send it."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._at_end)
            await stack.enter_async_context(aclosing(self._body))
            writing = asyncio.ensure_future(self._write(send))
            going = asyncio.ensure_future(until_gone(receive))
            try:
                await asyncio.wait((writing, going), return_when=asyncio.FIRST_COMPLETED)
                if writing.done():
                    writing.result()
            finally:
                await end((writing, going))

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self._first, "more_body": True})
        async for piece in self._body:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def until_gone(receive: Receive) -> None:
    """Return once the client has closed its connection. Its request is to be read to the end before."""
    while (await receive())["type"] != "http.disconnect":
        pass
