"""An attempt's runs of the engine: one; and another for each time that the engine was taken away and given back.

Keeps the job's time, which passes while it has the engine. Knows the engine by its `Protocol`, and nothing of what
is said.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from ..engine_process.client import EngineClient, EngineRun
from ..engine_process.protocol import Answer, StepMessage
from ..job import Order
from .turn import Turn


class EngineRuns:
    """One attempt's.  on_timeout: is called when the job has had the engine for as long as it may."""

    def __init__(self, engine: EngineClient, order: Order, turn: Turn, on_timeout: Callable[[], None]) -> None:
        self._engine, self._order, self._turn, self._on_timeout = engine, order, turn, on_timeout
        self._run: EngineRun | None = None
        self._left_s = order.timeout_s
        self._deadline: asyncio.TimerHandle | None = None
        self.is_parking = False
        """Whether the run was stopped to go on later."""

    def begin(self, seed: int, resumed_ids: Sequence[int]) -> AsyncIterator[Sequence[Answer | StepMessage]]:
        """Begin a run, or go on with another one.  Returns what the engine says; raises EngineDied within that."""
        self._turn.begin(self._park)
        self.is_parking = False
        before, request = self._run, self._order.request.to_wire()
        self._run = self._engine.generate(request, seed=seed, resumed_ids=resumed_ids)
        if before is not None:
            before.let_go()
        self._deadline = asyncio.get_running_loop().call_later(self._left_s, self._on_timeout)
        return self._run.batches()

    def stop(self, *, flush: bool) -> None:
        """End the run at its next step, if there is one.  flush: have the text that is held back handed over."""
        if self._run is not None:
            self._run.stop(flush=flush)

    def end(self) -> None:
        """The run is over, and the engine free."""
        if self._deadline is not None:
            self._left_s = max(0.0, self._deadline.when() - asyncio.get_running_loop().time())
            self._deadline.cancel()
            self._deadline = None
        self._turn.end()

    async def finish(self) -> None:
        """There is to be no other run, whatever becomes of this one."""
        if self._run is not None:
            await self._run.finish()
            self._run.let_go()
        self.end()

    def _park(self) -> None:
        """Let go of the engine at the next step. What is held back is wanted, should there be no other run."""
        self.is_parking = True
        if self._run is not None:
            self._run.stop(flush=True, park=True)
