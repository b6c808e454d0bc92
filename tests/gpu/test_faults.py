"""A card that runs out of memory, and one that fails: what torch raises is known, and what follows is right."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.models import save_random_model
from worker.engine.faults import device_answers, is_device_fault, is_out_of_memory
from worker.engine.loading.device import card_of
from worker.engine_process.client import EngineDied
from worker.engine_process.process import EngineProcess
from worker.engine_process.protocol import Ended, EngineConfig, RunFailed, StepMessage

TIMEOUT_S = 300
REQUEST = {"prompt": "hi", "max_new_tokens": 40, "prompt_lookup": False}

ASSERT = """
import os, torch
from worker.engine.faults import device_answers, is_device_fault, is_out_of_memory

gpu = torch.device("cuda", 0)
try:
    torch.zeros(1, device=gpu)[torch.tensor([10**6], device=gpu)].cpu()
except RuntimeError as error:
    print(is_device_fault(error), is_out_of_memory(error), device_answers(gpu), flush=True)
os._exit(0)
"""

FAULT = """
import torch
from worker.engine import Engine

decode, calls = Engine.decode, []

def fail_later(self, token):
    calls.append(token)
    if len(calls) == 6:
        torch.zeros(1, device=token.device)[torch.tensor([10**6], device=token.device)]
    return decode(self, token)

Engine.decode = fail_later
"""
"""A kernel of another's that reads beyond the end, in the middle of a job."""


def test_a_lack_of_memory_is_known_and_the_card_is_as_good_as_it_was(gpu: torch.device):
    with pytest.raises(RuntimeError) as too_much:
        torch.empty(2**60, dtype=torch.int8, device=gpu)
    assert is_out_of_memory(too_much.value)
    assert not is_device_fault(too_much.value)
    assert device_answers(gpu)


def test_a_fault_is_known_and_stays_with_its_process(gpu: torch.device):
    done = subprocess.run(
        [sys.executable, "-c", ASSERT], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.stdout == "True False False\n", done.stderr
    assert device_answers(gpu), "this one goes on"


def test_a_card_has_a_name_of_its_own(gpu: torch.device):
    assert len(card_of(gpu) or "") == 36


def token_ids(said: list) -> list[int]:
    return [message.token_id for message in said if isinstance(message, StepMessage)]


async def hear(engine: EngineProcess, said: list, resumed_ids: list[int]) -> None:
    async for batch in engine.generate(REQUEST, seed=0, resumed_ids=resumed_ids).batches():
        said.extend(batch)


async def test_a_job_goes_on_after_a_fault(gpu: torch.device, tmp_path: Path, monkeypatch, capfd):
    (tmp_path / "model").mkdir()
    model = save_random_model(tmp_path / "model")
    config = EngineConfig(model_path=model, device="cuda:0", dtype="float32", options={"compile": "never"})
    engine = EngineProcess(config, start_s=TIMEOUT_S, stop_s=10)
    (tmp_path / "sitecustomize.py").write_text(FAULT)
    with monkeypatch.context() as faulty:
        faulty.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
        await engine.start()
    before: list = []
    with pytest.raises(EngineDied):
        await hear(engine, before, [])
    assert not any(isinstance(message, Ended | RunFailed) for message in before)
    assert "device-side assert" in capfd.readouterr().err

    await engine.start()
    after, whole = [], []
    await hear(engine, after, token_ids(before))
    await hear(engine, whole, [])
    await engine.close()
    assert 0 < len(token_ids(before)) < 40
    assert token_ids(before) + token_ids(after) == token_ids(whole)
