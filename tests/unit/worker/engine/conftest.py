"""Fixtures of the engine's suite: one tokenizer, which needs no training."""

from pathlib import Path

import pytest

from tests.models import save_tokenizer
from worker.engine import Tokenizer


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer(tokenizer_folder)
