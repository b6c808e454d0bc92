"""What needs a GPU: left out by name where there is none. `make bench-gpu` runs it on one."""

import copy
from pathlib import Path

import pytest
import torch

from tests.models import save_tokenizer
from worker.engine import Tokenizer


def pytest_itemcollected(item: pytest.Item) -> None:
    """A warning fails no compilation: that machine's torch is not the one of constraints.txt."""
    if Path(__file__).parent in item.path.parents:
        item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    """The first one."""
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU on this machine")
    return torch.device("cuda", 0)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(save_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def on(gpu: torch.device):
    """A copy of a model there: an engine joins the matrices of its own."""
    return lambda model: copy.deepcopy(model).to(gpu)


@pytest.fixture(scope="session")
def model_paths() -> Path:
    """A model paths file whose `tiny` is trained."""
    from tests.models import tiny_model_paths  # noqa: PLC0415 - trains it, which takes half a minute

    return tiny_model_paths()
