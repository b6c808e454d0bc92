"""Clients of others against a gateway, as programs in an environment of theirs: `make test-clients`."""

import asyncio
import os
from pathlib import Path

import pytest

from producer.testing import ScriptedWorker
from tests.unit.producer.gateway.conftest import opened_live

from .programs import ASKED, PROGRAMS

pytestmark = pytest.mark.long

PYTHON = "GENQUEUE_CLIENTS_PYTHON"
"""Where the environment of the clients is."""
TIMEOUT_S = 300


@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_client_gets_its_answer(name: str, genqueue_worker: ScriptedWorker) -> None:
    python = os.environ.get(PYTHON)
    if python is None:
        pytest.skip(f"{PYTHON} is not set: make test-clients does it")
    genqueue_worker.serves("tiny")
    genqueue_worker.answers(ASKED, "Hello, you. 你好")
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "OPENAI_API_KEY")}
    async with opened_live() as door:
        program = str(Path(__file__).with_name("programs.py"))
        process = await asyncio.create_subprocess_exec(
            python,
            program,
            name,
            door.url,
            env=kept,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(TIMEOUT_S):
            said, complained = await process.communicate()
    assert process.returncode == 0, complained.decode()
    assert said.decode().splitlines()[-1] == "Hello, you. 你好"


def test_every_program_is_of_a_client_that_is_required() -> None:
    required = Path(__file__).with_name("requirements.txt").read_text()
    for name in PROGRAMS:
        package = name.removesuffix("_responses").removesuffix("_stream").replace("_", "-")
        assert package in required
