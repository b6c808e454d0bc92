"""Rows that are read on a thread of their own."""

import asyncio
import itertools
import threading

from producer.batch.feed import AHEAD, Feed
from producer.batch.rows import Row


def thread() -> threading.Thread | None:
    return next((each for each in threading.enumerate() if each.name == "genqueue-batch-input"), None)


async def test_its_thread_ends_once_no_more_is_wanted():
    """In a process that lives on it would wait for room for ever."""
    rows = (Row(number, f"job-{number}", None) for number in itertools.count())
    feed = Feed(rows, lambda: None)
    reading = thread()
    assert reading is not None
    async with asyncio.timeout(60):
        while len(feed._ready) < AHEAD:
            await asyncio.sleep(0.01)
    assert reading.is_alive()
    feed.close()
    await asyncio.to_thread(reading.join, 60)
    assert not reading.is_alive()
    assert next(rows).line <= AHEAD + 3
