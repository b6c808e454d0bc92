"""An answer to a request that was not read to its end, after which the connection is closed.

Clients read no answer while they send. Of one that still sends, the system throws the answer away where it closes:
so what comes is read on for a while, behind the answer. Source: nginx' `lingering_close`.
"""

import asyncio
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

LINGER_S = 30.0
"""How long what comes is read on."""
SILENT_S = 2.0
"""How long nothing may come."""


class LastWords(Response):
    """A whole answer, whose end is put off until the client has sent all that it has."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send it."""
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await send(start)
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await _pass_over(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _pass_over(receive: Receive) -> None:
    """Raises TimeoutError after a silence."""
    has_more = True
    while has_more:
        async with asyncio.timeout(SILENT_S):
            has_more = bool((await receive()).get("more_body", False))
