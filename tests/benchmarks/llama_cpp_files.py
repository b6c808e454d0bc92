"""The files that llama.cpp reads, written with random weights or from a checkpoint of Qwen2 or Llama.

Knows llama.cpp's file format and numpy; refuses to know torch and transformers.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import gguf
import numpy as np
from gguf.utility import SafetensorsLocal
from numpy.typing import NDArray

Floats = NDArray[np.float32]
DType = Literal["float32", "float16", "bfloat16", "q8_0", "q4_0"]
"""The small ones as llama.cpp has them; embedding and head are never smaller than q8_0."""

GGML_TYPES = {
    "float32": gguf.GGMLQuantizationType.F32,
    "float16": gguf.GGMLQuantizationType.F16,
    "bfloat16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}
ARCHITECTURES = {"qwen2": gguf.MODEL_ARCH.QWEN2, "llama": gguf.MODEL_ARCH.LLAMA}
"""By transformers' name, which is llama.cpp's as well."""
ENDS = "token_embd.weight", "output.weight"
WEIGHT_STD = 0.02


@dataclass(frozen=True)
class Shape:
    """What llama.cpp is told of a model; names and defaults are those of transformers' Qwen2Config."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    tie_word_embeddings: bool = True
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 32_768
    rope_theta: float = 10_000.0
    architecture: str = "qwen2"

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Of a checkpoint.  Raises ValueError for one that is not written here."""
        config = json.loads((folder / "config.json").read_text())
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        values = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        values["architecture"] = config["model_type"]
        values["rope_theta"] = rope.get("rope_theta", config.get("rope_theta", cls.rope_theta))
        shape = cls(**values)
        scaled = rope.get("rope_type", "default") != "default"
        if (
            shape.architecture not in ARCHITECTURES
            or scaled
            or config.get("head_dim") not in (None, shape.head_dim)
        ):
            raise ValueError(
                f"{folder}: only Qwen2 and Llama are written for llama.cpp, without scaled positions and "
                "with heads that fill the hidden size"
            )
        return shape

    @property
    def head_dim(self) -> int:
        """Of the models that are written here."""
        return self.hidden_size // self.num_attention_heads


SHAPES = {
    "tiny": Shape(768, 128, 384, 2, 4, 2),
    "qwen2-0.5b": Shape(151_936, 896, 4864, 24, 14, 2),
}


class Tensor(NamedTuple):
    """One of a file's."""

    name: str
    """llama.cpp's."""
    size: tuple[int, ...]
    """(out, in), as in torch."""
    values: Callable[[], Floats]


def write_gguf(path: Path, shape: Shape, tensors: list[Tensor], dtype: DType) -> None:
    """Write one tensor after another: never more than one is in memory.

    Matrices are of `dtype`, vectors float32, as llama.cpp's convert_hf_to_gguf.py writes them. There is no
    tokenizer: ids go in and come out.
    """
    writer = gguf.GGUFWriter(path, arch=shape.architecture)
    _describe(writer, shape)
    types = [_ggml_type(tensor, dtype) for tensor in tensors]
    for (name, size, _), ggml_type in zip(tensors, types, strict=True):
        block, block_bytes = gguf.GGML_QUANT_SIZES[ggml_type]
        stored = (*size[:-1], size[-1] // block * block_bytes)
        as_bytes = block > 1  # gguf then takes the size of what is stored, and makes of it that of the tensor
        writer.add_tensor_info(
            name,
            stored if as_bytes else size,
            np.dtype(np.uint8 if as_bytes else np.float32),
            math.prod(stored),
            raw_dtype=ggml_type,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, ggml_type in zip(tensors, types, strict=True):
        writer.write_tensor_data(gguf.quantize(tensor.values(), ggml_type))
    writer.close()


def _describe(writer: Any, shape: Shape) -> None:
    """The metadata that llama.cpp asks for. Without a tokenizer, the vocabulary is a number."""
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_tokenizer_model("none")


def _ggml_type(tensor: Tensor, dtype: DType) -> Any:
    if tensor.name in ENDS and dtype == "q4_0":
        return GGML_TYPES["q8_0"]
    return GGML_TYPES[dtype] if len(tensor.size) > 1 else gguf.GGMLQuantizationType.F32


# -- random weights


def random_tensors(shape: Shape, seed: int, std: float = WEIGHT_STD) -> Iterator[Tensor]:
    """Weights and biases are normal with deviation `std`, the weights of norms 1."""
    generator = np.random.default_rng(seed)
    for name, size in _sizes(shape):
        yield Tensor(name, size, partial(_random, name, size, std, generator))


def _random(name: str, size: tuple[int, ...], std: float, generator: np.random.Generator) -> Floats:
    if name.endswith("norm.weight"):
        return np.ones(size, np.float32)
    values: Floats = generator.standard_normal(size, np.float32)
    values *= std
    return values


def _sizes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Of each tensor of a Qwen2.  Source: llama.cpp, src/models/qwen2.cpp."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    kv = shape.head_dim * shape.num_key_value_heads
    block: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (hidden,),
        "attn_q.weight": (hidden, hidden),
        "attn_q.bias": (hidden,),
        "attn_k.weight": (kv, hidden),
        "attn_k.bias": (kv,),
        "attn_v.weight": (kv, hidden),
        "attn_v.bias": (kv,),
        "attn_output.weight": (hidden, hidden),
        "ffn_norm.weight": (hidden,),
        "ffn_gate.weight": (inner, hidden),
        "ffn_up.weight": (inner, hidden),
        "ffn_down.weight": (hidden, inner),
    }
    yield "token_embd.weight", (shape.vocab_size, hidden)
    for layer in range(shape.num_hidden_layers):
        yield from ((f"blk.{layer}.{name}", size) for name, size in block.items())
    yield "output_norm.weight", (hidden,)
    if not shape.tie_word_embeddings:
        yield "output.weight", (shape.vocab_size, hidden)


# -- a checkpoint


def checkpoint_tensors(folder: Path, shape: Shape) -> Iterator[Tensor]:
    """Those of its safetensors files.  Raises ValueError for a tensor that llama.cpp has no name for."""
    names = gguf.get_tensor_name_map(ARCHITECTURES[shape.architecture], shape.num_hidden_layers)
    for file in sorted(folder.glob("*.safetensors")):
        for theirs, stored in SafetensorsLocal(file).tensors.items():
            name = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
            if name is None:
                raise ValueError(f"{file}: llama.cpp has no name for {theirs}")
            if name == "output.weight" and shape.tie_word_embeddings:
                continue
            yield Tensor(name, stored.shape, partial(_read, stored, _heads_to_permute(name, shape)))


def _heads_to_permute(name: str, shape: Shape) -> int | None:
    """llama.cpp rotates pairs of neighbours in a Llama, where transformers rotates the first with the second half
    of a head: the rows of queries and keys are sorted accordingly.  Source: convert_hf_to_gguf.py, permute.
    """
    if shape.architecture != "llama":
        return None
    heads = {"attn_q": shape.num_attention_heads, "attn_k": shape.num_key_value_heads}
    return heads.get(name.split(".")[-2])


def _read(stored: Any, heads: int | None) -> Floats:
    raw = stored.mmap_bytes()
    if stored.dtype == "BF16":
        values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = raw.view({"F32": np.float32, "F16": np.float16}[stored.dtype]).astype(np.float32)
    values = values.reshape(stored.shape)
    if heads is None:
        return values
    pairs = values.reshape(heads, 2, len(values) // heads // 2, *stored.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(stored.shape))
