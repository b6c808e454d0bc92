"""Clients of others against a gateway, as programs in an environment of theirs: `make test-clients`."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from producer.testing import ScriptedWorker
from tests.outside import need
from tests.unit.producer.gateway.conftest import opened_live

from .programs import ADA, ASKED, PROGRAMS, SUMS, WEATHER, WHO

pytestmark = pytest.mark.long

PYTHON = "GENQUEUE_CLIENTS_PYTHON"
"""Where the environment of the clients is."""
TIMEOUT_S = 300
HERE = Path(__file__).parent
HELLO, SUNNY = "Hello, you. 你好", "It is sunny in Vienna."
IN_NODE = (
    "node_chat", "node_tools", "node_completions", "node_responses", "node_responses_tools", "node_models",
)  # fmt: skip


def answer_to(name: str) -> str:
    """What a program prints."""
    if name == "lm_eval":
        return "[1.0, 1.0]"
    if name in ("openai_parsed", "langchain_structured", "instructor"):
        return str(ADA["name"])
    return "tiny" if name == "node_models" else SUNNY if name.endswith("_tools") else HELLO


@pytest.fixture
def worker(genqueue_worker: ScriptedWorker) -> ScriptedWorker:
    """What it says is a model's: a text, a call, JSON."""

    def call(function: str, **arguments: object) -> str:
        return f"<tool_call>\n{json.dumps({'name': function, 'arguments': arguments})}\n</tool_call>"

    genqueue_worker.serves("tiny")
    genqueue_worker.answer_with(
        {
            ASKED: HELLO,
            WEATHER: call("weather", city="Vienna"),
            "sunny": SUNNY,
            WHO: json.dumps(ADA),
            f"{WHO} Call.": call("Person", **ADA),
            **{row["question"]: row["answer"] for row in SUMS},
        }
    )
    return genqueue_worker


@pytest.mark.parametrize("name", [*PROGRAMS, *IN_NODE])
async def test_a_client_gets_its_answer(name: str, worker: ScriptedWorker) -> None:
    python = python_of_clients()
    if name == "instructor":  # in an environment of its own
        python = str(Path(python).parents[1] / "instructor/bin/python")
    command = [python, str(HERE / "programs.py")]
    if name in IN_NODE:
        command = [need("node", install="apt-get install -y nodejs npm"), str(HERE / "node/programs.mjs")]
    async with opened_live() as door:
        said = await said_by(*command, name, door.url)
    assert said.splitlines()[-1] == answer_to(name)


def python_of_clients() -> str:
    """Its path from anywhere, or a skipped test."""
    if (python := os.environ.get(PYTHON)) is None:
        pytest.skip(f"{PYTHON} is not set: make test-clients does it")
    return str(Path(python).absolute())  # not resolved: it is a link


async def said_by(
    *command: str, folder: Path | None = None, timeout_s: float = TIMEOUT_S, **environment: str
) -> str:
    """What a program prints. It has nothing of this project, and no way to the clients' own services.

    folder: that it is run in.
    """
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "OPENAI_API_KEY")}
    process = await asyncio.create_subprocess_exec(
        *command,
        env=kept | OFFLINE | environment,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout_s):
            said, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, f"{said.decode()[-4000:]}\n{complained.decode()[-8000:]}"
    return said.decode()


OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def test_every_program_is_of_a_client_that_is_required() -> None:
    required = "".join(file.read_text() for file in HERE.glob("requirements*.txt")).replace("-", "_")
    for name in PROGRAMS:
        package = name.partition("_responses")[0]
        for end in ("_stream", "_tools", "_structured", "_chat", "_parsed"):
            package = package.removesuffix(end)
        assert f"\n{package}" in f"\n{required}"
