"""Fixtures of the engine's suite: one tokenizer, which needs no training."""

from pathlib import Path

import pytest

from tests.models import save_tokenizer
from tests.pairwise import mark_beyond_pairs
from worker.engine import Tokenizer


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before `-m` chooses by markers. A combination that is named on the command line runs all the same."""
    here = Path(__file__).parent
    mark_beyond_pairs([item for item in items if item.path.is_relative_to(here)], "matrix")


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer(tokenizer_folder)
