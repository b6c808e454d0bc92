"""The packages are typed, and type checkers know the options of a request: what is wrong is refused."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from producer import AsyncProducer, Producer
from producer.contract import GenerationRequest
from producer.sampling import SamplingOptions, SubmitArguments

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "tests" / "typing"
ARGUMENTS = {"prompt", "messages", "prompt_token_ids"}
"""Of a request, those that `submit` has arguments of its own for."""


def test_the_options_are_the_fields_of_a_request() -> None:
    assert get_type_hints(SamplingOptions).keys() == GenerationRequest.model_fields.keys() - ARGUMENTS


@pytest.mark.parametrize("producer", [Producer, AsyncProducer])
def test_the_overloads_of_submit_take_what_it_takes(producer: type) -> None:
    parameters = inspect.signature(producer.submit).parameters.keys() - {
        "self",
        "prompt",
        "model",
        "n",
        "sampling",
    }
    assert parameters == get_type_hints(SubmitArguments).keys() - get_type_hints(SamplingOptions).keys()


def mypy(*arguments: str) -> subprocess.CompletedProcess[str]:
    """With the settings and the cache of this checkout.

    In a process of its own: what it leaves in memory would be searched for garbage in every test after it.
    """
    command = [sys.executable, "-m", "mypy", "--no-pretty", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_mypy_finds_nothing_in_the_packages() -> None:
    """`make lint` asks the same; here others run meanwhile, as a first time takes 20 s."""
    checked = mypy()
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow
def test_mypy_accepts_the_right_examples_and_refuses_the_marked_lines_of_the_wrong_ones() -> None:
    wrong = EXAMPLES / "wrong.py"
    marked = {
        number for number, line in enumerate(wrong.read_text().splitlines(), 1) if line.endswith("# refused")
    }

    checked = mypy("--strict", str(EXAMPLES / "right.py"), str(wrong))

    said = checked.stdout
    refused = re.findall(r"^tests/typing/(\w+\.py):(\d+): error: ", said, re.MULTILINE)
    assert checked.stderr == ""
    assert marked
    assert {(name, int(line)) for name, line in refused} == {("wrong.py", line) for line in marked}, said
