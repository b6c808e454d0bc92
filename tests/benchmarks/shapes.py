"""The shapes that are measured: Qwen2's configurations, with random weights made on the device. No download.

    python -m tests.benchmarks.shapes qwen2-7b FOLDER [--device cuda:0] [--dtype bfloat16]

saves one with a tokenizer, for a worker to serve.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, Qwen2Config, Qwen2ForCausalLM

from tests.models import save_tokenizer

MAX_POSITIONS = 8192


def _qwen2(**fields: Any) -> Qwen2Config:
    ends = {"bos_token_id": None, "eos_token_id": None}  # no random answer is to end early
    return Qwen2Config(max_position_embeddings=MAX_POSITIONS, **ends, **fields)


SHAPES = {
    "tiny": _qwen2(
        vocab_size=768,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "qwen2-0.5b": _qwen2(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "qwen2-7b": _qwen2(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    ),
}


def build(
    shape: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    tied: bool | None = None,
    positions: int = MAX_POSITIONS,
) -> Qwen2ForCausalLM:
    """A model of that shape with random weights, for a context of so many positions.

    `tied`: whether input and output share an embedding, if not as in the shape; a step reads as much either way.
    """
    config = copy.deepcopy(SHAPES[shape])
    config.max_position_embeddings = positions
    if tied is not None:
        config.tie_word_embeddings = tied
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return Qwen2ForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(default)


def save(
    shape: str, folder: Path, device: torch.device, dtype: torch.dtype, positions: int = MAX_POSITIONS
) -> None:
    """One of those as a folder that a worker can load."""
    build(shape, device, dtype, positions=positions).save_pretrained(folder)
    save_tokenizer(folder)


BITS = {"int8": 8, "int4": 4 + 24 / 32, "q8_0": 8 + 16 / 32, "q4_0": 4 + 16 / 32}
"""Of a weight; int4 in groups of 32, each with a scale of 16 bits and a zero of 8, as llama.cpp's have a scale."""
HEAD_BITS = BITS | {"int4": BITS["int8"], "q4_0": BITS["q8_0"]}


def bytes_per_token(config: PreTrainedConfig, dtype: torch.dtype, context: int, weights: str | None = None) -> int:
    """What a decode step has to read: every weight but the input embedding, and the keys and values so far.

    dtype: of keys and values.  weights: their form where they are not of `dtype`.
    """
    head_dim = config.hidden_size // config.num_attention_heads
    kv_width = config.num_key_value_heads * head_dim
    layer = config.hidden_size * (2 * config.hidden_size + 2 * kv_width + 3 * config.intermediate_size)
    layers, head = config.num_hidden_layers * layer, config.vocab_size * config.hidden_size
    cache = dtype.itemsize * 2 * config.num_hidden_layers * kv_width * context
    if weights is None:
        return dtype.itemsize * (layers + head) + cache
    return int((layers * BITS[weights] + head * HEAD_BITS[weights]) / 8) + cache


def main() -> None:
    """Save one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    options = parser.parse_args()
    save(options.shape, options.folder, options.device, getattr(torch, options.dtype))


if __name__ == "__main__":
    main()
