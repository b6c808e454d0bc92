"""A worker on a GPU: the tiny model served, its engine killed half-way through a stream, the card left clean."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from producer import GenerationRequest, Producer
from producer.broker.embedded import EmbeddedBroker
from producer.contract import Tokens
from tests.integration.worker_process import WorkerProcess
from worker.engine import Engine
from worker.models.config_loader import locate_model

LONG = {"prompt": "Once upon a time", "max_new_tokens": 1000, "ignore_eos": True, "temperature": 0.9, "seed": 4}
MIB = 2**20


@pytest.fixture(scope="module")
def undisturbed(model_paths: Path) -> list[int]:
    engine = Engine.load(locate_model("tiny", model_paths), torch.device("cpu"))
    request = GenerationRequest.parse(LONG)
    return [step.token_id for step in engine.start(request, engine.encode(request), seed=4)]


def test_a_killed_engine_leaves_no_gap_and_no_memory(gpu, model_paths: Path, tmp_path: Path, undisturbed):
    free_before, _ = torch.cuda.mem_get_info(gpu)
    options = ["--device", "cuda:0", "--dtype", "float32"]
    with EmbeddedBroker() as broker, Producer(broker.url) as producer:
        worker = WorkerProcess(broker.url, model_paths, tmp_path / "log", *options).wait_until_ready()
        try:
            ids: list[int] = []
            attempts: set[int] = set()
            killed = False
            for cursor, event in producer.submit(model="tiny", **LONG).stream(timeout_s=300):
                if isinstance(event, Tokens):
                    ids += event.data.ids
                    attempts.add(cursor.attempt)
                if len(ids) > 100 and not killed:
                    os.kill(worker.engine_pid(), signal.SIGKILL)
                    killed = True
        finally:
            worker.stop()
    assert ids == undisturbed
    assert len(attempts) > 1, "the engine was not killed in time, so that this says nothing"
    deadline = time.monotonic() + 60
    while (free_now := torch.cuda.mem_get_info(gpu)[0]) < free_before - 64 * MIB:
        assert time.monotonic() < deadline, f"{(free_before - free_now) // MIB} MiB are still held"
        time.sleep(0.2)
