"""The worker's end: a real engine process with a small random model."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.models import save_random_model
from worker.engine_process import process
from worker.engine_process.client import EngineDied, EngineNotRunning
from worker.engine_process.process import EngineProcess, ProcessRun
from worker.engine_process.protocol import (
    Accepted,
    Begun,
    Ended,
    EngineConfig,
    Generate,
    Loading,
    RunFailed,
    StepMessage,
    Stop,
)
from worker.errors import ConfigError

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

TIMEOUT_S = 200
LONG = {"prompt": "hi", "max_new_tokens": 4000}
"""Long enough not to end by itself before a test has done something about it."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model"), context_length=8192)


def config(model: Path, **fields) -> EngineConfig:
    return EngineConfig(**{"model_path": model, "device": "cpu", "threads": 1, **fields})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_engine(model) -> AsyncIterator[EngineProcess]:
    """One for all tests: to import torch takes longer than all else here. Closing it ends its process."""
    engine = EngineProcess(config(model), start_s=60, stop_s=0.5)
    await engine.close()  # harmless
    info = await engine.start()
    assert info.context_length == 8192
    yield engine
    pid = pid_of(engine)
    await engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest_asyncio.fixture(loop_scope="module")
async def engine(one_engine) -> EngineProcess:
    """An engine that runs, whatever the test before has done to it."""
    if one_engine.died:
        await one_engine.start()
    return one_engine


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


async def test_one_run_after_another_and_a_stop_between(engine, model):
    short = {"prompt": "hi", "max_new_tokens": 5}

    begun, accepted, *steps, ended = await hear(begin(engine, short))
    assert isinstance(begun, Begun)
    assert isinstance(accepted, Accepted)
    assert isinstance(ended, Ended)
    assert [step.finish_reason for step in steps] == [None] * 4 + ["length"]

    stopped = begin(engine)
    await hear_steps(stopped)
    stopped.stop(flush=True)
    stopped.stop(flush=True)  # harmless
    assert isinstance((await hear(stopped))[-1], Ended)
    stopped.stop(flush=True)  # harmless, too

    left = begin(engine)
    await hear_steps(left)
    await left.finish()

    again = await hear(begin(engine, short))
    assert [step.token_id for step in again[2:-1]] == [step.token_id for step in steps]
    assert isinstance((await hear(begin(engine, {"prompt": ""})))[-1], RunFailed)
    await asyncio.sleep(0.6)  # longer than stop_s: a stop that was obeyed leaves no timer that kills
    assert not engine.died


async def test_a_killed_engine_is_noticed_at_once_and_another_is_started(engine):
    run = begin(engine)
    await hear_steps(run)
    kill(engine, signal.SIGKILL)
    with pytest.raises(EngineDied):
        await hear(run)
    await run.finish()  # harmless
    assert engine.died
    with pytest.raises(EngineNotRunning):  # what is asked of the dead is answered, too
        await hear(begin(engine))
    await engine.start()
    assert not engine.died
    assert len(await hear(begin(engine, {"prompt": "hi", "max_new_tokens": 3}))) == 6


async def test_the_death_of_an_idle_engine_is_noticed_at_once(engine):
    """It was noticed at the next job, which was blamed for it."""
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


async def test_what_tells_the_worker_to_stop_does_not_end_the_engine(engine):
    """A supervisor may signal every process of the service: the running job is finished all the same."""
    run = begin(engine)
    await hear_steps(run)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        kill(engine, number)
    run.stop(flush=False)
    assert isinstance((await hear(run))[-1], Ended)
    assert len(await hear(begin(engine, {"prompt": "hi", "max_new_tokens": 3}))) == 6


class Undying:
    """A process as one that sleeps in a driver: it can be killed, and is still there."""

    returncode = None

    def __init__(self, pid: int) -> None:
        self.pid = pid

    async def wait(self) -> int:
        await asyncio.Event().wait()
        raise AssertionError


class TestAnEngineThatCannotDie:
    """SIGKILL does not end what a driver holds; nobody waits for that."""

    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch):
        monkeypatch.setattr(process, "KILL_WAIT_S", 0.01)

    async def test_is_killed_and_left_behind_at_the_end(self, model, caplog):
        with subprocess.Popen(["sleep", "600"], start_new_session=True) as sleeper:
            engine = EngineProcess(config(model), start_s=60, stop_s=1)
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
        engine = EngineProcess(config(Path("/no")), start_s=60, stop_s=1)
        with pytest.raises(ConfigError, match=r"could not start \(it does not end\)"):
            await engine.start()
        await engine.close()


async def test_an_engine_without_the_packages_of_the_worker_names_the_extra(model, tmp_path, monkeypatch, capfd):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    engine = EngineProcess(config(model), start_s=60, stop_s=1)
    with pytest.raises(ConfigError, match="exit code 2"):
        await engine.start()
    await engine.close()
    said = capfd.readouterr().err
    assert "torch is not installed" in said
    assert "pip install 'genqueue[worker]'" in said
    assert "Traceback" not in said


FAULT = """
import torch
from worker.engine import Engine

decode, calls = Engine.decode, []

def fail_later(self, token):
    calls.append(token)
    if len(calls) > 5:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    return decode(self, token)

Engine.decode = fail_later
"""


async def test_after_a_fault_of_the_device_the_run_goes_on_in_another_engine(
    engine, model, tmp_path, monkeypatch, capfd
):
    """It was the end of the job, with the code of a fault of its own."""
    request = {"prompt": "hi", "max_new_tokens": 20, "prompt_lookup": False}
    whole = [step.token_id for step in await hear(begin(engine, request)) if isinstance(step, StepMessage)]
    (tmp_path / "sitecustomize.py").write_text(FAULT)
    with monkeypatch.context() as faulty:
        faulty.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
        failing = EngineProcess(config(model), start_s=60, stop_s=1)
        await failing.start()
    said: list = []

    async def hear_failing() -> None:
        async for batch in begin(failing, request).batches():
            said.extend(batch)

    with pytest.raises(EngineDied):
        await hear_failing()
    assert not any(isinstance(message, Ended | RunFailed) for message in said)
    steps = [message.token_id for message in said if isinstance(message, StepMessage)]
    assert steps == whole[: len(steps)]
    assert await failing._exit_code(failing._process) == 1
    assert "CUDA error: an illegal memory access" in capfd.readouterr().err
    await failing.close()

    resumed = await hear(engine.generate(request, seed=0, resumed_ids=steps))
    assert steps + [step.token_id for step in resumed if isinstance(step, StepMessage)] == whole


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


async def test_the_engine_is_told_whose_cache_to_keep_until_they_go_on():
    engine, sent = EngineProcess(config(Path()), start_s=1, stop_s=TIMEOUT_S), []
    engine.send = sent.append
    first, second = begin(engine), begin(engine)
    first.stop(flush=True, park=True)
    second.stop(flush=True)
    begin(engine)
    first.let_go()
    second.let_go()  # harmless
    begin(engine)
    assert [command.parked for command in sent if isinstance(command, Generate)] == [(), (), (1,), ()]
    assert [command.park for command in sent if isinstance(command, Stop)] == [True, False]
    for run in (first, second):
        run._killer.cancel()


async def test_an_engine_that_is_slow_to_load_is_given_up(model):
    engine = EngineProcess(config(model), start_s=0.05, stop_s=1)
    with pytest.raises(ConfigError, match=r"within 0\.05 s: raise engine_start_s"):
        await engine.start()
    assert engine._process is None, "it has been killed"


async def test_an_engine_that_cannot_load_says_why_on_stderr(model, capfd):
    mistakes = [
        EngineProcess(config(model, **fields), start_s=60, stop_s=1)
        for fields in ({"device": "cuda:99"}, {"model_path": Path("/no")})
    ]
    for error in await asyncio.gather(*(engine.start() for engine in mistakes), return_exceptions=True):
        assert isinstance(error, ConfigError)
        assert "exit code 2" in str(error)
    said = capfd.readouterr().err
    assert "cuda:99" in said
    assert "/no" in said
    for engine in mistakes:
        await engine.close()


async def test_the_death_of_an_idle_engine_is_noticed(engine):
    """Nobody reads from an engine that has nothing to do: its worker said ready for ever."""
    waiting = asyncio.create_task(engine.wait_until_dead())
    kill(engine, signal.SIGKILL)
    async with asyncio.timeout(TIMEOUT_S):
        await waiting
    assert engine.died
