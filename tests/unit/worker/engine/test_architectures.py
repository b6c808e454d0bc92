"""The architectures that people use: each is answered as generate does, or refused in words."""

import shutil
from pathlib import Path

import pytest

import worker.engine
from tests.architectures import ARCHITECTURES, outcome_of, row

STATIC = {
    "Qwen2, Qwen2.5", "Qwen3", "Llama 2, SmolLM2, Yi, Vicuna", "Llama 3.1, 3.2, 3.3", "SmolLM3",
    "Mistral v0.2 and later", "Phi-4", "OLMo2", "Granite 3", "Gemma",
}  # fmt: skip
REFUSED = {"MiniMax-Text-01", "RWKV", "GPT"}
SHORT = {
    "GPT-2", "GPT-NeoX, Pythia", "Falcon", "BLOOM", "Gemma 2", "Llama 4", "Phi-3 128k, Phi-4-mini", "Mamba",
    "Bamba", "Qwen3-Next", "RecurrentGemma", "RWKV",
}  # fmt: skip
"""One of each kind of position, window, state and refusal; all others are in the whole matrix."""


README = (Path(worker.engine.__file__).parent / "README.md").read_text()


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.matrix) for name in ARCHITECTURES]
)
def test_is_answered_as_generate_does_or_refused(name, tokenizer_folder: Path, tmp_path: Path):
    shutil.copytree(tokenizer_folder, tmp_path, dirs_exist_ok=True)
    outcome = outcome_of(name, tmp_path)
    assert outcome.path == ("static" if name in STATIC else "refused" if name in REFUSED else "dynamic")
    assert outcome.why or name in STATIC
    assert (outcome.as_generate, outcome.resumed) == ((None, None) if name in REFUSED else (True, True))
    assert row(name, outcome) in README, "the table is old: python -m tests.architectures"
