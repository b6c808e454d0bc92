"""An engine that says what a test tells it to: the runner's other end, without torch."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from worker.engine_process.client import EngineDied, EngineNotRunning
from worker.engine_process.protocol import Accepted, Answer, Ended, RunFailed, StepMessage


def step(token_id: int, text: str, finish: str | None = None, stop: str | None = None) -> StepMessage:
    return StepMessage(time.monotonic(), token_id, text, finish, stop)


class ScriptedRun:
    """Feeds batches by hand; remembers how it was stopped."""

    def __init__(self, request: dict, seed: int, resumed_ids: Sequence[int]) -> None:
        self.request, self.seed, self.resumed_ids = request, seed, list(resumed_ids)
        self.inbox: asyncio.Queue[Sequence[Answer | StepMessage] | EngineDied] = asyncio.Queue()
        self.stopped: bool | None = None
        self.parked = False
        """Whether what it has read is kept for another run."""
        self.tail = ""
        self.finished = False

    def say(self, *messages: Answer | StepMessage) -> None:
        self.inbox.put_nowait(messages)

    def accept(self, prompt_tokens: int = 3, **fields) -> None:
        self.say(Accepted(prompt_tokens=prompt_tokens, **fields))

    def steps(self, *texts: str, finish: str | None = None) -> None:
        """One token a text; the ids count on from those before."""
        first = len(self.resumed_ids)
        last = len(texts) - 1
        self.say(*(step(first + i, text, finish if i == last else None) for i, text in enumerate(texts)))

    def end(self, tail: str = "", **fields) -> None:
        self.say(Ended(prefill_ms=1.5, tail=tail, **fields))

    def die(self, *, begun: bool = True) -> None:
        """begun: whether it had read that it is to run the job."""
        self.inbox.put_nowait(EngineDied() if begun else EngineNotRunning())

    async def batches(self) -> AsyncIterator[Sequence[Answer | StepMessage]]:
        while not self.finished:
            batch = await self.inbox.get()
            if isinstance(batch, EngineDied):
                self.finished = True
                raise batch
            self.finished = isinstance(batch[-1], Ended | RunFailed)
            yield batch

    def stop(self, *, flush: bool, park: bool = False) -> None:
        if self.stopped is None and not self.finished:
            self.stopped, self.parked = flush, park
            self.end(self.tail if flush else "")

    def let_go(self) -> None:
        self.parked = False

    async def finish(self) -> None:
        self.stop(flush=False)
        async for _ in self.batches():
            pass


class ScriptedEngine:
    """Hands each run to the test as it begins."""

    def __init__(self) -> None:
        self.runs: asyncio.Queue[ScriptedRun] = asyncio.Queue()

    def generate(self, request: dict, *, seed: int, resumed_ids: Sequence[int]) -> ScriptedRun:
        run = ScriptedRun(request, seed, resumed_ids)
        self.runs.put_nowait(run)
        return run
