"""The worker's end: a real engine process with a small random model."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.models import save_random_model
from worker.engine_process.client import EngineDied, EngineNotRunning
from worker.engine_process.process import EngineProcess
from worker.engine_process.protocol import (
    Accepted,
    Begun,
    Ended,
    EngineConfig,
    Generate,
    RunFailed,
    StepMessage,
    Stop,
)
from worker.errors import ConfigError

from .hearing import begin, hear, hear_steps, kill, pid_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


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


async def test_what_tells_the_worker_to_stop_does_not_end_the_engine(engine):
    """A supervisor may signal every process of the service: the running job is finished all the same."""
    run = begin(engine)
    await hear_steps(run)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        kill(engine, number)
    run.stop(flush=False)
    assert isinstance((await hear(run))[-1], Ended)
    assert len(await hear(begin(engine, {"prompt": "hi", "max_new_tokens": 3}))) == 6


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
import sys
import torch
from worker.engine import Engine

decode, calls = Engine.decode, []

def fail_later(self, token):
    calls.append(token)
    if len(calls) > 5:
        print("imported:", *sys.modules, file=sys.stderr)
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    return decode(self, token)

Engine.decode = fail_later
"""


async def test_after_a_fault_of_the_device_the_run_goes_on_in_another_engine(
    engine, model, tmp_path, monkeypatch, capfd
):
    """It was the end of the job, with the code of a fault of its own.

    And what the engine had imported by then is told: it waits for nothing that the worker alone needs.
    """
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
    told = capfd.readouterr().err
    assert "CUDA error: an illegal memory access" in told
    [imported] = [line.split()[1:] for line in told.splitlines() if line.startswith("imported: ")]
    assert "worker.engine_process.serving" in imported
    assert not {"redis", "rq", "pydantic_settings"} & {*imported}
    await failing.close()

    resumed = await hear(engine.generate(request, seed=0, resumed_ids=steps))
    assert steps + [step.token_id for step in resumed if isinstance(step, StepMessage)] == whole


async def test_the_engine_is_told_whose_cache_to_keep_until_they_go_on():
    engine, sent = EngineProcess(config(Path()), start_s=1, stop_s=1000), []
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
