"""To wait for something as long as the client does."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from ..ending import end
from .sse import until_gone

T = TypeVar("T")


async def while_client_waits(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What the work returns.  Raises ClientDisconnect once the client has gone; the work is cancelled then.

    Starlette runs a handler on to its end, whoever is left to hear of it.
    """
    working = asyncio.ensure_future(work)
    going = asyncio.ensure_future(until_gone(request.receive))
    try:
        await asyncio.wait((working, going), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        await end((working, going))
