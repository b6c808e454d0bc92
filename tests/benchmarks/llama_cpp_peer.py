"""llama.cpp as a peer of the engine's benchmark: the same model in the same precision, on the CPU.

    pip install llama-cpp-python gguf numpy        # compiles llama.cpp for this machine's own processor
    python -m tests.benchmarks.llama_cpp_peer --shape qwen2-0.5b --dtype float32 --threads 2
    python -m tests.benchmarks.llama_cpp_peer --model-path FOLDER --dtype q4_0 --files FOLDER

Knows llama.cpp; refuses to know torch, transformers and our own engine: it runs in a process of its own, under
whatever Python has llama_cpp, and nothing but its JSON reaches the benchmark. Each line of stdin is a question,
`{"prompt": ids, "new_tokens": n}`, and each line of stdout an answer, but for the first, which says that the model
is loaded.

The model's file is written for the purpose, in a format of llama.cpp's own. It is gone once it is loaded, unless
`--files` names a folder for it, where the next process finds it. Diagnostics go to stderr. Exit code 3 means that
llama_cpp, gguf or numpy is missing.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

EXIT_MISSING = 3

try:
    import llama_cpp

    from .llama_cpp_files import (
        GGML_TYPES,
        SHAPES,
        DType,
        Shape,
        checkpoint_tensors,
        random_tensors,
        write_gguf,
    )
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    print(
        f"llama.cpp is not measured: {missing.name} is not installed here ({sys.executable}).\n"
        "Install it with a C++ compiler at hand:  pip install llama-cpp-python gguf numpy",
        file=sys.stderr,
    )
    sys.exit(EXIT_MISSING)

WARM_UP_TOKENS = 8
SEED = 0
GGML_LOG_LEVEL_ERROR = 4


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
    tokens: list[int]


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
    tokens = [token[0]]
    for _ in range(new_tokens - 1):
        forward(context, token)
        token[0] = llama_cpp.llama_sampler_sample(sampler, context, -1)
        tokens.append(token[0])
    last = time.perf_counter()
    return Run(prefilled - start, first - start, (new_tokens - 1) / (last - first), tokens)


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
def prepared_model(options: argparse.Namespace) -> Iterator[Any]:
    """llama.cpp's model of what the options name. Where its file is gone, what is mapped of it stays."""
    with contextlib.ExitStack() as stack:
        with contextlib.ExitStack() as until_loaded:
            folder = options.files or until_loaded.enter_context(tempfile.TemporaryDirectory(prefix="llama-cpp-"))
            path = (
                Path(folder)
                / f"{options.model_path.name if options.model_path else options.shape}-{options.dtype}.gguf"
            )
            if not path.exists():
                write(path, options)
            _reset_peak_rss()
            model = stack.enter_context(load_model(path))
        yield model


def write(path: Path, options: argparse.Namespace) -> None:
    """The model's file, whole and on the disk: the kernel would else write it there during the measurement."""
    if options.model_path:
        shape = Shape.of(options.model_path)
        tensors = checkpoint_tensors(options.model_path, shape)
    else:
        shape = SHAPES[options.shape]
        tensors = random_tensors(shape, SEED)
    unfinished = path.with_suffix(".unfinished")
    write_gguf(unfinished, shape, list(tensors), options.dtype)
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.rename(path)


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
    parser.add_argument("--shape", choices=SHAPES, default="qwen2-0.5b", help="of random weights")
    parser.add_argument("--model-path", type=Path, help="a checkpoint, in place of random weights")
    parser.add_argument("--files", type=Path, metavar="FOLDER", help="where the model's file stays")
    parser.add_argument("--dtype", choices=get_args(DType), default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N")
    return parser.parse_args()


def main() -> None:
    """Load the model, say so, and answer one question a line until stdin ends."""
    options = _parse_options()
    llama_cpp.llama_log_set(_log_errors, None)
    llama_cpp.llama_backend_init()
    with prepared_model(options) as model:
        print(json.dumps({"version": llama_cpp.__version__}), flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(model, json.loads(line), options.dtype, options.threads)), flush=True)


if __name__ == "__main__":
    main()
