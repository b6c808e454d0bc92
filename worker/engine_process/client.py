"""An engine, as the runner sees it. `process` has one; what is said on its wire is in `protocol`."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from .protocol import Answer, StepMessage


class EngineDied(Exception):
    """The engine has died, and with it the run: another one has to be started."""


class EngineNotRunning(EngineDied):
    """The engine died before it began the run: the job has no part in its death."""


class EngineRun(Protocol):
    """One job on an engine."""

    def batches(self) -> AsyncIterator[Sequence[Answer | StepMessage]]:
        """What the engine says, in batches of what has come by then; ends with Ended or RunFailed.

        Raises EngineDied; EngineNotRunning where that was before it had begun."""
        ...

    def stop(self, *, flush: bool, park: bool = False) -> None:
        """End the run at its next step. `Ended` follows. Harmless when it has ended.

        flush: have the text that is held back handed over.
        park: have what was read kept, until `let_go`, for a run that goes on from there."""
        ...

    def let_go(self) -> None:
        """Nobody will go on from here, or somebody has begun to. Harmless for a run that was not parked."""
        ...

    async def finish(self) -> None:
        """Stop the run if it goes on, and leave the engine ready for the next one."""
        ...


class EngineClient(Protocol):
    """An engine: it runs one job at a time."""

    def generate(self, request: dict[str, Any], *, seed: int, resumed_ids: Sequence[int]) -> EngineRun:
        """Begin a job.  request: the wire form of a valid GenerationRequest; resumed_ids: published already."""
        ...
