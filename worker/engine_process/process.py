"""The worker's side of the engine process: starts it, hands it one job at a time, notices its death.

Everything here runs on the worker's event loop and none of it waits for torch.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

from producer.broker.child import module_command

from ..errors import ConfigError
from ..progress import ShownProgress
from .client import EngineDied, EngineNotRunning
from .lifeline import signals_blocked
from .protocol import (
    Answer,
    Begun,
    EngineConfig,
    EngineInfo,
    Generate,
    Loading,
    StepMessage,
    Stop,
    parse_answers,
)

logger = logging.getLogger(__name__)

KILL_WAIT_S = 5.0
"""A killed process is gone in less, unless a driver holds it. Nobody waits for that."""


class _Lines(asyncio.Protocol):
    """Collects lines, and wakes the reader once for all that have come.

    An asyncio.StreamReader would wake it for each line, which costs more than the line.
    """

    def __init__(self) -> None:
        self._partial = b""
        self._messages: list[Answer | StepMessage] = []
        self._arrived = asyncio.Event()
        self._closed = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether nothing more can come."""
        return self._closed.is_set()

    async def wait_closed(self) -> None:
        """Until nothing more can come."""
        await self._closed.wait()

    def data_received(self, data: bytes) -> None:
        """Parse the lines that have come, and wake the reader; the rest waits for the end of its line."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._messages += parse_answers(line)
        if lines:
            self._arrived.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The engine has closed its end, which it does by dying."""
        self._closed.set()
        self._arrived.set()

    async def take(self) -> list[Answer | StepMessage]:
        """All that has come and was not taken yet.  Raises EngineDied once nothing can come any more."""
        while not self._messages:
            if self.closed:
                raise EngineDied
            self._arrived.clear()
            await self._arrived.wait()
        messages, self._messages = self._messages, []
        return messages


class EngineProcess:
    """A running engine. `start` it before the first job, again after EngineDied, and `close` it at the end."""

    def __init__(self, config: EngineConfig, *, start_s: float, stop_s: float) -> None:
        """`start_s`: an engine that has not loaded its model within this time has failed to start.
        `stop_s`: an engine that has not stopped this long after it was told to is killed."""
        self._config = config
        self._start_s, self._stop_s = start_s, stop_s
        self._process: asyncio.subprocess.Process | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._lines = _Lines()
        self._runs = 0
        self.parked: set[int] = set()
        """Runs that another one is to go on from."""

    async def start(self) -> EngineInfo:
        """Start the process and wait until the model is loaded.

        Raises ConfigError when it does not come to that; the engine's stderr, which is ours, says why.
        """
        await self.close()
        self.parked.clear()  # what they had read was in the memory of the process before
        ours, theirs = socket.socketpair()
        with theirs, signals_blocked():
            self._process = await asyncio.create_subprocess_exec(
                *module_command("worker.engine_process.server", str(theirs.fileno()), str(os.getpid())),
                self._config.model_dump_json(),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                # A session of its own: a Ctrl-C in the terminal must not reach it before the worker decides.
                start_new_session=True,
            )
        self._transport, self._lines = await asyncio.get_running_loop().create_connection(_Lines, sock=ours)
        try:
            async with asyncio.timeout(self._start_s):
                return await self._ready()
        except EngineDied:
            code = await self._exit_code(self._process)
            raise ConfigError(f"the engine could not start: {_ending(code)}") from None
        except TimeoutError:
            await self.close()
            raise ConfigError(
                f"the engine has not loaded its model within {self._start_s:g} s: raise engine_start_s if the "
                "model takes longer"
            ) from None

    async def _ready(self) -> EngineInfo:
        with ShownProgress() as progress:
            progress("starting the engine", 0, 0)  # the import of torch alone can take ten seconds
            while True:
                for message in await self._lines.take():
                    if isinstance(message, EngineInfo):
                        return message
                    if isinstance(message, Loading):
                        progress(message.stage, message.done, message.total)

    @property
    def died(self) -> bool:
        """Whether the process that was started has gone, by itself or because it was closed."""
        return self._lines.closed

    async def wait_until_dead(self) -> None:
        """Until the process that was started last has gone, by itself or because it was closed.

        Where none was started yet, nobody can die: it waits for ever.
        """
        await self._lines.wait_closed()

    def generate(self, request: dict[str, Any], *, seed: int, resumed_ids: Sequence[int]) -> "ProcessRun":
        """Begin a job.  request: the wire form of a valid GenerationRequest."""
        self._runs += 1
        resumed, parked = tuple(resumed_ids), tuple(sorted(self.parked))
        self.send(Generate(run=self._runs, request=request, seed=seed, resumed_ids=resumed, parked=parked))
        return ProcessRun(self, self._runs)

    def send(self, command: Generate | Stop) -> None:
        """Put a command on the wire. Once the engine has died it goes nowhere, and `take` says so."""
        assert self._transport is not None, "the engine has not been started"
        if not self._lines.closed:
            self._transport.write(command.model_dump_json().encode() + b"\n")

    async def take(self) -> list[Answer | StepMessage]:
        """What the engine has said since the last call.  Raises EngineDied."""
        return await self._lines.take()

    def kill_if_silent(self) -> asyncio.TimerHandle:
        """Kill the engine after the bound for stopping, unless the handle is cancelled before."""
        return asyncio.get_running_loop().call_later(self._stop_s, self._kill_silent)

    def _kill_silent(self) -> None:
        logger.error("the engine has not stopped within %.0f s and is killed", self._stop_s)
        self.kill()
        # One that a driver holds cannot even die, nor close its end: then nobody listens to it any more.
        if self._transport is not None:
            asyncio.get_running_loop().call_later(KILL_WAIT_S, self._transport.abort)

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)

    async def close(self) -> None:
        """End the process. Harmless when there is none, and never waits longer than KILL_WAIT_S."""
        if self._transport is not None:
            self._transport.close()
        if self._process is not None:
            self.kill()
            if await self._exit_code(self._process) is None:
                logger.error(
                    "the engine (process %d) was killed and is still there after %g s, as when a driver holds it: "
                    "it may hold the device until the machine is restarted",
                    self._process.pid,
                    KILL_WAIT_S,
                )
        self._process = self._transport = None

    async def _exit_code(self, process: asyncio.subprocess.Process) -> int | None:
        """Of a process that is about to end; None if it does not."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_WAIT_S):
                return await process.wait()
        return None


class ProcessRun:
    """One job on the engine process."""

    def __init__(self, engine: EngineProcess, run: int) -> None:
        self._engine = engine
        self._run = run
        self._has_begun = False
        self._ended = False
        self._killer: asyncio.TimerHandle | None = None

    async def batches(self) -> AsyncIterator[Sequence[Answer | StepMessage]]:
        """What the engine says; the last message of the last batch is Ended or RunFailed."""
        while not self._ended:
            try:
                batch = await self._engine.take()
            except EngineDied:
                if not self._has_begun:
                    raise EngineNotRunning from None
                raise
            self._has_begun = self._has_begun or any(isinstance(message, Begun) for message in batch)
            self._note_end(batch[-1])
            yield batch

    def stop(self, *, flush: bool, park: bool = False) -> None:
        """End the run at its next step."""
        if not self._ended and self._killer is None:
            self._engine.send(Stop(run=self._run, flush=flush, park=park))
            self._killer = self._engine.kill_if_silent()
            if park:
                self._engine.parked.add(self._run)

    def let_go(self) -> None:
        """Nobody will go on from here any more."""
        self._engine.parked.discard(self._run)

    async def finish(self) -> None:
        """Leave the engine ready for the next run, whatever became of this one."""
        self.stop(flush=False)
        with contextlib.suppress(EngineDied):
            async for _ in self.batches():
                pass
        if self._killer:
            self._killer.cancel()

    def _note_end(self, message: Answer | StepMessage) -> None:
        if not isinstance(message, StepMessage) and message.op in ("ended", "failed"):
            self._ended = True
            if self._killer:
                self._killer.cancel()


def _ending(code: int | None) -> str:
    """How an engine has ended that did not come to run, and what to do.  code: as of asyncio's subprocesses."""
    if code == -signal.SIGKILL:  # it says nothing itself
        return (
            "it was killed by SIGKILL, as the system does where memory is short: free memory there, raise the "
            "container's bound, or use a smaller model, dtype or form of weights (engine.weights)"
        )
    how = "it does not end" if code is None else f"exit code {code}"
    if code is not None and code < 0:
        how = f"killed by {next((each.name for each in signal.Signals if each == -code), f'signal {-code}')}"
    return f"{how}; its messages stand above"
