"""What lasts as long as a gateway."""

import asyncio

import pytest

from producer.gateway import lasting

from .conftest import LONG_S


async def test_it_goes_on_whatever_goes_wrong(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(lasting, "AGAIN_S", 0)
    began, is_well = [], asyncio.Event()

    async def work() -> None:
        began.append(1)
        if len(began) < 3:
            raise ZeroDivisionError("a bug")
        is_well.set()
        await asyncio.Event().wait()

    going_on = asyncio.create_task(lasting.lasting(work, "telling"))
    await asyncio.wait_for(is_well.wait(), LONG_S)
    assert caplog.text.count("telling failed, and goes on") == 2
    going_on.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going_on
