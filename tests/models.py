"""Small models for the tests: random Qwen2s, made in milliseconds, and the trained tiny model, kept in .cache.

Random weights have initializer_range=0.2: with transformers' 0.02, logits are nearly uniform, and the argmax
hangs on rounding.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from worker.engine import Engine, EngineOptions, Tokenizer
from worker.models import tiny_corpus, tiny_model
from worker.models.config_loader import locate_model

CPU = torch.device("cpu")
VOCAB_SIZE = 800
"""Above the tokenizer's 768, as Qwen2-7B's is above its tokenizer's."""

HEADS = {"gqa 7:1": (7, 1), "gqa 4:2": (4, 2), "mha": (4, 4)}
"""Attention heads and key-value heads."""


def random_model(
    heads: str = "gqa 4:2",
    *,
    tied: bool = False,
    seed: int = 0,
    context_length: int = 128,
    vocab_size: int = VOCAB_SIZE,
    eos_token_id: int | list[int] | None = None,
) -> Qwen2ForCausalLM:
    """A float32 Qwen2 with random weights. Unless told its eos ids, it goes on for as long as it may."""
    query_heads, kv_heads = HEADS[heads]
    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=16 * query_heads,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=query_heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context_length,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=vocab_size if eos_token_id is None else eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config).eval()


def save_tokenizer(folder: Path, *, chat_template: bool = True) -> Path:
    """The tiny model's tokenizer, which takes milliseconds to train; its own eos id is 0."""
    tokenizer = tiny_model.train_tokenizer()
    if not chat_template:
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return folder


def save_random_model(folder: Path, **options: object) -> Path:
    """A whole model folder, with the options of `random_model`."""
    random_model(**options).save_pretrained(folder)  # type: ignore[arg-type]
    return save_tokenizer(folder)


ENGINES: dict[str, dict[str, Any]] = {
    "dynamic": {"options": EngineOptions(path="dynamic", prompt_lookup=False)},
    "static": {"options": EngineOptions(path="static", prompt_lookup=False, prefix_cache_bytes=0)},
    "static with reuse": {"options": EngineOptions(path="static")},
    "static as on a GPU": {
        "options": EngineOptions(path="static", prompt_lookup=False),
        "ranges": True,
        "lookahead": 1,
    },
    "static in chunks, deep lookahead": {
        "options": EngineOptions(path="static", prefill_chunk=3),
        "lookahead": 2,
    },
    "dynamic in chunks": {"options": EngineOptions(path="dynamic", prefill_chunk=5), "lookahead": 1},
}
"""Every way of running a model; the results must be the same. All that a GPU does is here, but
for its kernels and the capture."""


def engine_for(model: Qwen2ForCausalLM, tokenizer: Tokenizer, kind: str = "static with reuse") -> Engine:
    """An engine on the CPU."""
    return Engine(model, tokenizer, CPU, **ENGINES[kind])


def tiny_model_paths() -> Path:
    """A model paths file whose `tiny` is trained. It is kept until the code that trains it changes."""
    code = b"".join(Path(module.__file__).read_bytes() for module in (tiny_model, tiny_corpus))
    kept = Path(__file__).parent.parent / ".cache" / "tests" / hashlib.sha256(code).hexdigest()[:16]
    kept.mkdir(parents=True, exist_ok=True)
    paths_file = kept / "model_paths.yaml"
    if not paths_file.is_file():  # whole or not at all: other processes of the tests read it
        own = kept / f"model_paths-{os.getpid()}.yaml"
        own.write_text("tiny: tiny\n")
        own.replace(paths_file)
    locate_model("tiny", paths_file, progress=False)
    return paths_file
