"""To end tasks and have them ended, whatever happens to whoever waits for it."""

import asyncio

import pytest

from producer.ending import end


async def slow(log: list[str], *, hears_at: int = 1) -> None:
    """Ends a while after it was cancelled so many times."""
    for _ in range(hears_at):
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            log.append("cancelled")
    await asyncio.sleep(0)
    log.append("over")
    raise ValueError("nobody's")


@pytest.mark.parametrize("hears_at", [1, 2])
async def test_a_task_is_cancelled_until_it_is_over(hears_at: int):
    log: list[str] = []
    task = asyncio.create_task(slow(log, hears_at=hears_at))
    await asyncio.sleep(0)
    await end([task])
    assert task.done()
    assert log[:hears_at] == ["cancelled"] * hears_at


async def test_who_is_cancelled_meanwhile_still_has_them_ended():
    log: list[str] = []
    inner = asyncio.create_task(slow(log, hears_at=2))

    async def outer() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await end([inner])

    task = asyncio.create_task(outer())
    await asyncio.sleep(0)
    task.cancel()
    while not log:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert inner.done()
    assert task.cancelled()
