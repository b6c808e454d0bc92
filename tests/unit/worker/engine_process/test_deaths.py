"""The worker's end, when an engine dies, or does not: a real process, with a script in place of the model.

An import of torch takes longer than all of these tests. What becomes of a real engine: test_process.py.
"""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from worker.engine_process import process
from worker.engine_process.client import EngineDied, EngineNotRunning
from worker.engine_process.process import EngineProcess, ProcessRun
from worker.engine_process.protocol import EngineConfig, Loading
from worker.errors import ConfigError

from .hearing import TIMEOUT_S, Undying, begin, hear, hear_steps, kill, pid_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

CONFIG = EngineConfig(model_path=Path("/no"), device="cpu")
PROGRAM = """
import select, sys, time
from worker.engine_process import server
from worker.engine_process.protocol import Accepted, Begun, COMMANDS, Ended, EngineInfo, StepMessage, steps_line

INFO = EngineInfo(
    device="cpu", dtype="float32", parameters=1, context_length=8192, kv_bytes=1, headroom_bytes=1,
    chat_template=False, path="static", compiled=False, captured=False, why="", load_s=0.0, warm_up_s=0.0,
)

def serve(connection, config):
    def say(*messages):
        for message in messages:
            connection.sendall(message.model_dump_json().encode() + b"\\n")

    say(INFO)
    with connection.makefile("rb", buffering=0) as lines:
        for line in lines:
            say(Begun(), Accepted(prompt_tokens=1))
            for token_id in range(COMMANDS.validate_json(line).request["max_new_tokens"]):
                if select.select([connection], [], [], 0.001)[0]:
                    lines.readline()  # the order to stop
                    break
                connection.sendall(steps_line([StepMessage(time.monotonic(), token_id, "x")]))
            say(Ended())

server._serve = serve
server.main(*sys.argv[1:])
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_engine() -> AsyncIterator[EngineProcess]:
    """Of the script: what starts it, and how it ends, is the real thing."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(process, "module_command", lambda _, *words: [sys.executable, "-c", PROGRAM, *words])
        engine = EngineProcess(CONFIG, start_s=60, stop_s=0.5)
        yield engine
        await engine.close()


@pytest_asyncio.fixture(loop_scope="module")
async def engine(one_engine: EngineProcess) -> EngineProcess:
    """An engine that runs, whatever the test before has done to it."""
    if one_engine._process is None or one_engine.died:
        await one_engine.start()
    return one_engine


async def test_the_death_of_an_idle_engine_is_noticed_at_once(engine):
    """It was noticed at the next job, which was blamed for it; without one, its worker said ready for ever."""
    death = asyncio.create_task(engine.wait_until_dead())
    await hear(begin(engine, {"prompt": "hi", "max_new_tokens": 3}))
    assert not death.done()
    kill(engine, signal.SIGKILL)
    await asyncio.wait_for(death, TIMEOUT_S)
    assert engine.died


async def test_a_run_has_no_part_in_a_death_that_came_before_it(engine):
    """Not even where the loop has not come to hear of it."""
    kill(engine, signal.SIGKILL)
    while Path(f"/proc/{pid_of(engine)}").exists():  # the loop's child watcher, which is a thread, reaps it
        time.sleep(0.001)
    assert not engine.died, "the loop has had no turn"
    run = begin(engine)
    run.stop(flush=True)  # harmless
    with pytest.raises(EngineNotRunning):
        await hear(run)
    await run.finish()  # harmless
    await asyncio.wait_for(engine.wait_until_dead(), TIMEOUT_S)


async def test_a_run_has_no_part_in_a_death_that_was_on_its_way(engine):
    """A killed process with much memory takes a while to go, and its socket takes what is sent to it meanwhile."""
    kill(engine, signal.SIGSTOP)
    run = begin(engine)
    assert not engine.died
    kill(engine, signal.SIGKILL)
    with pytest.raises(EngineNotRunning):
        await hear(run)


async def test_an_engine_that_does_not_stop_is_killed(engine):
    run = begin(engine)
    await hear_steps(run)
    kill(engine, signal.SIGSTOP)
    run.stop(flush=False)
    with pytest.raises(EngineDied):
        await hear(run)


async def test_an_engine_that_cannot_even_be_killed_is_waited_for_no_longer(engine, monkeypatch):
    """As one that a driver holds: its end of the socket stays open."""
    run = begin(engine)
    await hear_steps(run)
    kill(engine, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(process, "KILL_WAIT_S", 0.01)
        patch.setattr(engine, "kill", lambda: None)
        run.stop(flush=False)
        with pytest.raises(EngineDied):
            await hear(run)
        await asyncio.wait_for(run.finish(), TIMEOUT_S)


async def test_a_run_has_begun_once_the_engine_says_so_and_not_before():
    class Dying:
        """Says that it loads, and dies."""

        def __init__(self) -> None:
            self.said = [[Loading(stage="loading weights")]]

        async def take(self) -> list:
            if not self.said:
                raise EngineDied
            return self.said.pop()

    with pytest.raises(EngineNotRunning):
        await hear(ProcessRun(Dying(), 1))


@pytest.mark.parametrize(
    ("ended_by", "said"),
    [
        ("exit 2", "could not start: exit code 2; its messages stand above"),
        ("kill -BUS $$", "could not start: killed by SIGBUS; its messages stand above"),
        ("kill -KILL $$", "killed by SIGKILL, as the system does where memory is short: free memory there"),
    ],
)
async def test_how_one_has_ended_that_did_not_start_is_said(ended_by, said, monkeypatch):
    monkeypatch.setattr(process, "module_command", lambda *_: ("sh", "-c", ended_by))
    engine = EngineProcess(CONFIG, start_s=60, stop_s=1)
    with pytest.raises(ConfigError, match=said):
        await engine.start()
    await engine.close()


class TestAnEngineThatCannotDie:
    """SIGKILL does not end what a driver holds; nobody waits for that."""

    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch):
        monkeypatch.setattr(process, "KILL_WAIT_S", 0.01)

    async def test_is_killed_and_left_behind_at_the_end(self, caplog):
        with subprocess.Popen(["sleep", "600"], start_new_session=True) as sleeper:
            engine = EngineProcess(CONFIG, start_s=60, stop_s=1)
            engine._process = Undying(sleeper.pid)
            async with asyncio.timeout(TIMEOUT_S):
                await engine.close()
            assert sleeper.wait(TIMEOUT_S) == -signal.SIGKILL, "it has been killed"
        assert f"the engine (process {sleeper.pid}) was killed and is still there" in caplog.text

    async def test_makes_place_for_another_one(self, engine, caplog):
        run = begin(engine)
        await hear_steps(run)
        engine._process = Undying(pid_of(engine))
        await engine.start()
        assert "was killed and is still there" in caplog.text
        assert len(await hear(begin(engine, {"prompt": "hi", "max_new_tokens": 3}))) == 6

    async def test_at_its_start_is_no_engine(self, monkeypatch):
        start = asyncio.create_subprocess_exec

        async def start_undying(*_command: str, **options) -> Undying:
            return Undying((await start("true", **options)).pid)  # which ends, and closes its end of the socket

        monkeypatch.setattr(asyncio, "create_subprocess_exec", start_undying)
        engine = EngineProcess(CONFIG, start_s=60, stop_s=1)
        with pytest.raises(ConfigError, match="could not start: it does not end; its messages stand above"):
            await engine.start()
        await engine.close()
