"""A worker's last steps are bounded, whatever its engine does."""

import asyncio
from types import SimpleNamespace

import pytest

from worker import goodbye
from worker.engine_process import process
from worker.engine_process.process import EngineProcess
from worker.engine_process.protocol import EngineConfig

from .engine_process.hearing import Undying

TIMEOUT_S = 100


@pytest.mark.parametrize("is_orderly", [True, False])
async def test_an_engine_that_does_not_end_is_left_behind(is_orderly, tmp_path, monkeypatch, caplog):
    """Its worker said nothing of it: it gave up at the moment at which it would have."""
    monkeypatch.setattr(process, "KILL_WAIT_S", 0.01 if is_orderly else 1000)
    monkeypatch.setattr(goodbye, "OVERDUE_CLOSE_S", 0.01)
    killed, done = [], []
    monkeypatch.setattr(process.os, "killpg", lambda pid, _number: killed.append(pid))
    engine = EngineProcess(EngineConfig(model_path=tmp_path, device="cpu"), start_s=1, stop_s=1)
    engine._process = Undying(12345)

    async def close() -> None:
        done.append("links")

    async def leave() -> None:
        done.append("ring")

    async with asyncio.timeout(TIMEOUT_S):
        await goodbye.leave(
            engine,
            SimpleNamespace(teardown=lambda: done.append("RQ")),
            SimpleNamespace(leave=leave),
            SimpleNamespace(close=lambda: done.append("metrics")),
            SimpleNamespace(close=close),
            is_orderly=is_orderly,
        )
    assert killed == [12345]
    assert done == (["ring", "RQ", "links", "metrics"] if is_orderly else ["links", "metrics"])
    assert ("process 12345) was killed and is still there" in caplog.text) == is_orderly
