"""To end tasks and have them ended."""

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_S = 0.1


async def end(tasks: Iterable["asyncio.Future[Any]"]) -> None:
    """Cancel them, and return once they are over. What they raise is nobody's.

    Up to Python 3.11 `asyncio.wait_for`, by which redis-py sends, loses a cancel that comes with its result. So it
    is said again until it is heard. Whoever is cancelled while he waits here is so once they are over.
    """
    left, cancelled = set(tasks), None
    for task in left:
        task.cancel()
    while left:
        try:
            await asyncio.wait(left, timeout=AGAIN_S)
        except asyncio.CancelledError as error:
            cancelled = error
        for task in [each for each in left if each.done()]:
            left.discard(task)
            if not task.cancelled():
                task.exception()
        for task in left:
            task.cancel()
    if cancelled is not None:
        raise cancelled
