"""What a gateway does for as long as it lives: nothing that goes wrong in it may end it in silence."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

AGAIN_S = 1.0


async def lasting(work: Callable[[], Awaitable[None]], what: str) -> None:
    """Do it, and again whatever it raises: a stream whose lease nobody prolongs any more would be cancelled."""
    while True:
        try:
            await work()
        except Exception:
            logger.exception("%s failed, and goes on", what)
            await asyncio.sleep(AGAIN_S)
