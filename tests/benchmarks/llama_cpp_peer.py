"""llama.cpp as a peer of the engine's benchmark: the same shape in the same precision, on the CPU.

    pip install llama-cpp-python gguf numpy        # compiles llama.cpp for this machine's own processor
    python -m tests.benchmarks.llama_cpp_peer --shape qwen2-0.5b --dtype float32 --prompt-tokens 32 512

Knows llama.cpp, its file format and numpy. Refuses to know torch, transformers and our own engine: it runs in a
process of its own, under whatever Python has llama_cpp, and nothing but its JSON reaches the benchmark. The
weights are random; they are written to a temporary GGUF file that is gone once it is loaded.

Diagnostics go to stderr; the last line of stdout is one JSON object: `{engine, version, system, threads, rows}`.
Exit code 3 means that llama_cpp, gguf or numpy is missing.
"""

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

EXIT_MISSING = 3

try:
    import gguf
    import llama_cpp
    import numpy as np
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    print(
        f"llama.cpp is not measured: {missing.name} is not installed here ({sys.executable}).\n"
        "Install it with a C++ compiler at hand:  pip install llama-cpp-python gguf numpy",
        file=sys.stderr,
    )
    sys.exit(EXIT_MISSING)

DType = Literal["float32", "float16", "bfloat16", "q8_0", "q4_0"]
"""The small ones as llama.cpp has them; the embedding, which is the head as well, is never smaller than q8_0."""

GGML_TYPES = {
    "float32": gguf.GGMLQuantizationType.F32,
    "float16": gguf.GGMLQuantizationType.F16,
    "bfloat16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}
WEIGHT_STD = 0.02
WARM_UP_TOKENS = 8
SEED = 0
GGML_LOG_LEVEL_ERROR = 4


class Shape(Protocol):
    """What is read of a transformers Qwen2Config, or of anything like it.

    Rotary embeddings have the base that Qwen2Config and llama.cpp both default to, 10,000.
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def num_key_value_heads(self) -> int: ...
    @property
    def tie_word_embeddings(self) -> bool: ...
    @property
    def rms_norm_eps(self) -> float: ...
    @property
    def max_position_embeddings(self) -> int: ...


@dataclass(frozen=True)
class Qwen2Shape:
    """A Shape without transformers; names and defaults are those of Qwen2Config."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    tie_word_embeddings: bool = True
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 32_768


SHAPES = {
    "tiny": Qwen2Shape(768, 128, 384, 2, 4, 2),
    "qwen2-0.5b": Qwen2Shape(151_936, 896, 4864, 24, 14, 2),
}


def write_gguf(path: Path, shape: Shape, dtype: DType, seed: int, std: float = WEIGHT_STD) -> None:
    """Write a Qwen2 with random weights, one tensor after another: never more than one is in memory.

    Weights and biases are normal with deviation `std`, the weights of norms 1. Matrices are of `dtype`, vectors
    float32, as llama.cpp's convert_hf_to_gguf.py writes them. There is no tokenizer: ids go in and come out.
    """
    writer = gguf.GGUFWriter(path, arch="qwen2")
    _describe(writer, shape)
    sizes = dict(_tensor_sizes(shape))
    types = {name: _ggml_type(name, size, dtype) for name, size in sizes.items()}
    for name, size in sizes.items():
        block, block_bytes = gguf.GGML_QUANT_SIZES[types[name]]
        stored = (*size[:-1], size[-1] // block * block_bytes)
        as_bytes = block > 1  # gguf then takes the size of what is stored, and makes of it that of the tensor
        writer.add_tensor_info(
            name,
            stored if as_bytes else size,
            np.dtype(np.uint8 if as_bytes else np.float32),
            math.prod(stored),
            raw_dtype=types[name],
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    generator = np.random.default_rng(seed)
    for name, size in sizes.items():
        writer.write_tensor_data(gguf.quantize(_values(name, size, std, generator), types[name]))
    writer.close()


def _describe(writer: Any, shape: Shape) -> None:
    """The metadata that llama.cpp asks of a qwen2. Without a tokenizer, the vocabulary is a number."""
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_tokenizer_model("none")


def _tensor_sizes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each tensor's name and its size, (out, in) as in torch.  Source: llama.cpp, src/models/qwen2.cpp."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    kv = hidden // shape.num_attention_heads * shape.num_key_value_heads
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


def _ggml_type(name: str, size: tuple[int, ...], dtype: DType) -> Any:
    if name == "token_embd.weight" and dtype == "q4_0":
        return GGML_TYPES["q8_0"]
    return GGML_TYPES[dtype] if len(size) > 1 else gguf.GGMLQuantizationType.F32


def _values(name: str, size: tuple[int, ...], std: float, generator: np.random.Generator) -> np.ndarray:
    """A tensor's values: float32, (out, in)."""
    if name.endswith("norm.weight"):
        return np.ones(size, np.float32)
    values = generator.standard_normal(size, np.float32)
    values *= std
    return values


@llama_cpp.llama_log_callback
def _log_errors(level: int, text: bytes, user_data: Any) -> None:
    """Of llama.cpp's log, what went wrong. llama_cpp's own callback (0.3.36) takes errors for debug messages."""
    if level == GGML_LOG_LEVEL_ERROR:
        print(text.decode(errors="replace"), end="", file=sys.stderr)


@contextlib.contextmanager
def load_model(path: Path) -> Iterator[Any]:
    """llama.cpp's model of that file, on the CPU.  Raises RuntimeError when llama.cpp refuses the file."""
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {path}: its reasons stand above")
    try:
        yield model
    finally:
        llama_cpp.llama_model_free(model)


@contextlib.contextmanager
def open_context(model: Any, dtype: DType, tokens: int, threads: int) -> Iterator[Any]:
    """Room for so many tokens, prompt included, with a KV cache in the weights' own precision, or float16.

    All else is as llama.cpp has it, but for flash attention in float32: there it casts all keys and values to
    float16 in every step (src/llama-graph.cpp, build_attn_mha), and logits are off by a thousandth.
    """
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = tokens
    params.n_threads = params.n_threads_batch = threads
    cache_dtype = "float16" if dtype in ("q8_0", "q4_0") else dtype  # llama.cpp's own default
    params.type_k = params.type_v = GGML_TYPES[cache_dtype].value
    if dtype == "float32":
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.offload_kqv = params.op_offload = False  # a build with CUDA would use the GPU unasked
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError(f"llama.cpp cannot hold {tokens} tokens: its reasons stand above")
    try:
        yield context
    finally:
        llama_cpp.llama_free(context)


@contextlib.contextmanager
def greedy_sampler() -> Iterator[Any]:
    """llama.cpp's own, so that no logits cross into Python."""
    sampler = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    llama_cpp.llama_sampler_chain_add(sampler, llama_cpp.llama_sampler_init_greedy())
    try:
        yield sampler
    finally:
        llama_cpp.llama_sampler_free(sampler)


def forward(context: Any, tokens: Any) -> None:
    """Append tokens, a ctypes array of ids, to the context and wait for the logits of the last."""
    code = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, len(tokens)))
    if code != 0:
        raise RuntimeError(f"llama_decode returned {code} for {len(tokens)} tokens; llama.h has its meaning")
    llama_cpp.llama_synchronize(context)


@dataclass(frozen=True)
class Run:
    """The times of one generation."""

    prefill_s: float
    first_token_s: float  # prefill, and the first token sampled
    tokens_per_second: float  # all tokens but the first, over the time from the first to the last


def generate(context: Any, sampler: Any, prompt: Sequence[int], new_tokens: int) -> Run:
    """One greedy generation from an empty context. new_tokens: at least 2."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
    prompt_ids = (llama_cpp.llama_token * len(prompt))(*prompt)
    token = (llama_cpp.llama_token * 1)()
    start = time.perf_counter()
    forward(context, prompt_ids)
    prefilled = time.perf_counter()
    token[0] = llama_cpp.llama_sampler_sample(sampler, context, -1)
    first = time.perf_counter()
    for _ in range(new_tokens - 1):
        forward(context, token)
        token[0] = llama_cpp.llama_sampler_sample(sampler, context, -1)
    last = time.perf_counter()
    return Run(prefilled - start, first - start, (new_tokens - 1) / (last - first))


def answer(model: Any, question: dict[str, Any], dtype: DType, threads: int) -> dict[str, Any]:
    """One generation, after a short one that warms the weights, the caches and the threads.

    question: {"prompt": ids, "new_tokens": at least 2}.
    """
    prompt, new_tokens = question["prompt"], question["new_tokens"]
    with open_context(model, dtype, len(prompt) + new_tokens, threads) as context, greedy_sampler() as sampler:
        generate(context, sampler, prompt, WARM_UP_TOKENS)
        run = generate(context, sampler, prompt, new_tokens)
    return {**asdict(run), "peak_bytes": _peak_rss_bytes()}


@contextlib.contextmanager
def random_model(shape: Shape, dtype: DType) -> Iterator[Any]:
    """llama.cpp's model of random weights. Their file is gone once it is loaded: what is mapped of it stays."""
    with contextlib.ExitStack() as stack:
        with tempfile.TemporaryDirectory(prefix="llama-cpp-peer-") as folder:
            path = Path(folder) / "model.gguf"
            write_gguf(path, shape, dtype, SEED)
            with path.open("rb") as file:
                os.fsync(file.fileno())  # or the kernel writes it to the disk during the measurement
            _reset_peak_rss()
            model = stack.enter_context(load_model(path))
        yield model


def _reset_peak_rss() -> None:
    """Forget the peak so far: that of writing the file. Source: proc(5), /proc/PID/clear_refs."""
    with contextlib.suppress(FileNotFoundError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_rss_bytes() -> int | None:
    """The peak of resident memory, mapped weights included; None where there is no /proc.

    Not getrusage: its ru_maxrss survives exec, and so begins at the size of the process that started this one.
    """
    with contextlib.suppress(FileNotFoundError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2-0.5b")
    parser.add_argument("--dtype", choices=get_args(DType), default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N")
    return parser.parse_args()


def main() -> None:
    """Build the model, say so, and answer one question a line until stdin ends."""
    options = _parse_options()
    llama_cpp.llama_log_set(_log_errors, None)
    llama_cpp.llama_backend_init()
    with random_model(SHAPES[options.shape], options.dtype) as model:
        print(json.dumps({"version": llama_cpp.__version__}), flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(model, json.loads(line), options.dtype, options.threads)), flush=True)


if __name__ == "__main__":
    main()
