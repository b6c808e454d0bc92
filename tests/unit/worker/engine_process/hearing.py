"""How tests speak with an engine process, and hear what it says."""

import asyncio
import os

from worker.engine_process.process import EngineProcess, ProcessRun
from worker.engine_process.protocol import StepMessage

TIMEOUT_S = 200
LONG = {"prompt": "hi", "max_new_tokens": 4000}
"""Long enough not to end by itself before a test has done something about it."""


async def hear(run: ProcessRun) -> list:
    async with asyncio.timeout(TIMEOUT_S):
        return [message async for batch in run.batches() for message in batch]


async def hear_steps(run: ProcessRun) -> None:
    """Until the first token."""
    async with asyncio.timeout(TIMEOUT_S):
        async for batch in run.batches():
            if any(isinstance(message, StepMessage) for message in batch):
                return


def begin(engine: EngineProcess, request: dict = LONG) -> ProcessRun:
    return engine.generate(request, seed=0, resumed_ids=[])


def pid_of(engine: EngineProcess) -> int:
    assert engine._process is not None
    return engine._process.pid


def kill(engine: EngineProcess, number: int) -> None:
    os.kill(pid_of(engine), number)


class Undying:
    """A process as one that sleeps in a driver: it can be killed, and is still there."""

    returncode = None

    def __init__(self, pid: int) -> None:
        self.pid = pid

    async def wait(self) -> int:
        await asyncio.Event().wait()
        raise AssertionError
