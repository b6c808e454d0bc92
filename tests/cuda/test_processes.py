"""Processes on the stand-in: a fault of the device, an engine whose worker dies, a card that is not the first."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from producer import Producer
from producer.broker.embedded import EmbeddedBroker
from tests.integration.conftest import joined
from tests.integration.test_worker import wait_for, wait_for_tokens
from tests.integration.worker_process import WorkerProcess, engine_of
from tests.models import CPU, save_random_model
from tests.unit.worker.engine.asking import answer, ids_of, request
from worker.engine import Engine

from . import card

pytestmark = pytest.mark.slow
card.need()

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model whose answers have no end."""
    return save_random_model(tmp_path_factory.mktemp("model"), context_length=600)


@pytest.fixture
def worker(broker: EmbeddedBroker, folder: Path, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts one on cuda:0, with more variables of its environment."""
    models = tmp_path / "model_paths.yaml"
    models.write_text(f"toy: {folder}\n")
    started: list[WorkerProcess] = []

    def start(**environment: str) -> WorkerProcess:
        options = "--model-name", "toy", "--device", "cuda:0"
        started.append(WorkerProcess(broker.url, models, tmp_path / "log", *options, **environment))
        return started[-1]

    yield start
    for process in started:
        process.stop()


def test_a_job_goes_on_in_another_engine_after_a_fault_of_the_device(
    broker: EmbeddedBroker,
    folder: Path,
    worker: Callable[..., WorkerProcess],
    tmp_path: Path,
    figure: Callable[[str], None],
) -> None:
    """With numbers: the tokens of both engines together are the CPU's."""
    fault = tmp_path / "fault"
    process = worker(
        PYTHONPATH=f"{ROOT}:{ROOT / 'tests/cuda/with_numbers'}",
        STANDIN_FAULT=str(fault),
        GENQUEUE_DTYPE="float32",
        GENQUEUE_ENGINE__COMPILE="never",
    ).wait_until_ready()
    first = process.engine_pid()
    asked = request(range(10), max_new_tokens=300, temperature=1.0, seed=3)
    with Producer(broker.url) as producer:
        job = producer.submit(**asked.model_dump(exclude_defaults=True), model="toy")
        with redis.Redis(port=broker.port) as client:
            wait_for_tokens(client, job.job_id)
        fault.touch()
        _, ids = joined([*job.stream(timeout_s=300)])
        result = job.result(timeout_s=300)
    assert not fault.exists(), "no launch has met it"
    assert (result.status, result.attempts) == ("finished", 2)
    assert ids == ids_of(answer(Engine.load(folder, CPU), asked, seed=3))
    assert process.engine_pid() != first
    figure(f"a fault of the device: the job went on in another engine, its {len(ids)} tokens are the CPU's")


def test_an_engine_that_compiles_is_gone_at_once_when_its_worker_dies(
    worker: Callable[..., WorkerProcess], tmp_path: Path, figure: Callable[[str], None]
) -> None:
    kernels = tmp_path / "kernels"
    folders = {"TORCHINDUCTOR_CACHE_DIR": str(kernels), "TRITON_CACHE_DIR": str(kernels / "triton")}
    process = worker(**folders)
    wait_for(lambda: process.process.poll() is not None or [*kernels.rglob("*.ptx")], "kernels", timeout_s=300)
    engine = engine_of(process.process.pid)
    assert is_running(engine)
    killed_at = time.monotonic()
    process.send(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not is_running(engine), "the end of the engine")
    took_s = time.monotonic() - killed_at
    figure(f"an orphaned engine, compiling, was gone after {took_s:.2f} s")
    assert took_s < 1


def is_running(pid: int) -> bool:
    """Whether it may still hold a card. What is dead and unburied does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_the_second_card_leaves_the_first_alone(folder: Path, figure: Callable[[str], None]) -> None:
    command = [sys.executable, "-m", "tests.cuda.second_card", str(folder)]
    environment = {**os.environ, "STANDIN_CARDS": "2"}
    process = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, timeout=600)
    assert json.loads(process.stdout) == [1]
    figure("cuda:1: loaded, compiled, captured and served without a context on cuda:0")
