"""What is measured against what: our engine, and the ways of running the same model that people use today.

Each takes a prompt and a number of new tokens, and tells when prefill was done and when each token was there.
"""

import argparse
import copy
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from producer.contract import GenerationRequest
from worker.engine import Engine, EngineOptions, Tokenizer
from worker.engine_options import Weights

SAMPLED = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
"""As Qwen2's own generation config has it, less its repetition penalty."""


class Run(NamedTuple):
    """One generation."""

    first_token_s: float
    """Time to first token."""
    tokens_per_second: float
    """Of the tokens after the first."""
    prefill_s: float | None = None
    """Where it is known apart from the first token."""
    peak_bytes: int | None = None
    """Where another process knows it."""
    tokens: Sequence[int] = ()
    """The text."""


def run_of(
    started_at: float, tokens: Sequence[int], tokens_at: Sequence[float], prefill_s: float | None = None
) -> Run:
    """From moments in `time.perf_counter()` seconds."""
    speed = (len(tokens_at) - 1) / (tokens_at[-1] - tokens_at[0])
    return Run(tokens_at[0] - started_at, speed, prefill_s, tokens=tokens)


class Peer:
    """A way of running the model."""

    note = ""
    """How it runs, where that is not the same everywhere; known once it is warm."""
    made_for_length = False
    """Whether what is made once is made for a number of new tokens."""
    weights: Weights = "auto"
    """The form of its weights, where it has others than the rest."""
    dtype: torch.dtype | None = None
    """Of its rows and weights, where it has another than the rest."""
    read_as: tuple[str | None, torch.dtype] | None = None
    """Weights, and dtype of keys and values, by which `shapes.bytes_per_token` counts, where they are its own."""

    def __init__(self, model: PreTrainedModel, tokenizer: Callable[[], Tokenizer], device: torch.device) -> None:
        self.model, self.device = model, device

    @property
    def form(self) -> str | None:
        """Of weights that are smaller than the rows."""
        return None if self.weights == "auto" else self.weights

    def run(self, prompt: Sequence[int], new_tokens: int, *, sampled: bool) -> Run:
        """Generate exactly that many tokens."""
        raise NotImplementedError

    def warm_up(self) -> None:
        """Do what is done once."""

    def close(self) -> None:
        """Give back what is held."""


class OurEngine(Peer):
    """The engine with what a worker gives it. Nothing is taken from an earlier prompt, and drafts are off."""

    options = EngineOptions(prompt_lookup=False, prefix_cache_bytes=0)

    def __init__(self, model: PreTrainedModel, tokenizer: Callable[[], Tokenizer], device: torch.device) -> None:
        super().__init__(model, tokenizer, device)
        self.engine = Engine(model, tokenizer(), device, self.options)

    def warm_up(self) -> None:
        """As a worker does at its start."""
        self.engine.warm_up()
        path = self.engine.path
        step = "compiled" if path.compiled else "not compiled"
        step += " and captured" if path.captured else ""
        self.note = "; ".join(filter(None, [f"{path.name} path, {step}", self.engine.why]))

    def run(self, prompt: Sequence[int], new_tokens: int, *, sampled: bool) -> Run:
        """As the engine's server runs a job."""
        request = GenerationRequest(
            prompt_token_ids=tuple(prompt),
            max_new_tokens=new_tokens,
            ignore_eos=True,
            **(SAMPLED if sampled else {}),
        )
        prompt_ids = self.engine.encode(request)
        started_at = time.perf_counter()
        with closing(self.engine.start(request, prompt_ids, seed=0)) as generation:
            steps = [(step.token_id, time.perf_counter()) for step in generation]
        assert generation.prefill_ms is not None, "there was a first token"
        tokens, tokens_at = zip(*steps, strict=True)
        return run_of(started_at, tokens, tokens_at, generation.prefill_ms / 1000)


class OurEngineInt8(OurEngine):
    """The same with weights of its own, in int8."""

    weights = "int8"


class OurEngineInt4(OurEngine):
    """The same with weights of its own, in int4 by groups of 32."""

    weights = "int4"


class OurEngineBfloat16(OurEngine):
    """The same with weights of its own, in bfloat16."""

    dtype = torch.bfloat16


class OurEngineWithDrafts(OurEngine):
    """The same with drafts from prompt and output."""

    options = EngineOptions(prompt_lookup=True, prefix_cache_bytes=0)


class OurReference(OurEngine):
    """The same loop over transformers' model and growing cache."""

    options = EngineOptions(path="dynamic", prompt_lookup=False)


class _Moments(BaseStreamer):
    """Notes when a token is there. `generate` hands it the prompt first."""

    def __init__(self) -> None:
        self.started_at: float | None = None
        self.tokens: list[int] = []
        self.tokens_at: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """Called for the prompt and for each token, or all that a draft has made sure, which it has waited for."""
        now = time.perf_counter()
        if self.started_at is None:
            self.started_at = now
            return
        tokens = value.flatten().tolist()
        self.tokens += tokens
        self.tokens_at += [now] * len(tokens)

    def end(self) -> None:
        """Called once."""


class HFGenerate(Peer):
    """transformers' generate with its default, growing cache."""

    cache_implementation: str | None = None
    prompt_lookup_num_tokens: int | None = None

    def run(self, prompt: Sequence[int], new_tokens: int, *, sampled: bool) -> Run:
        """Generate exactly that many tokens."""
        ids = torch.tensor([prompt], device=self.device)
        streamer = _Moments()
        sampling = {"do_sample": True, **SAMPLED} if sampled else {"do_sample": False}
        self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            pad_token_id=0,
            streamer=streamer,
            cache_implementation=self.cache_implementation,
            prompt_lookup_num_tokens=self.prompt_lookup_num_tokens,
            **sampling,
        )
        assert streamer.started_at is not None, "generate hands over the prompt"
        return run_of(streamer.started_at, streamer.tokens, streamer.tokens_at)


class HFGenerateWithDrafts(HFGenerate):
    """transformers' own drafts from the prompt."""

    prompt_lookup_num_tokens = 10


class HFGenerateStatic(HFGenerate):
    """transformers' generate with a static cache and a compiled model, on a CPU as on a GPU."""

    cache_implementation = "static"
    made_for_length = True

    def __init__(self, model: PreTrainedModel, tokenizer: Callable[[], Tokenizer], device: torch.device) -> None:
        if device.type == "cpu":  # on a GPU, transformers compiles by itself
            model = copy.copy(model)  # the compiled forward must not become that of the others
            model.forward = torch.compile(model.forward)
        super().__init__(model, tokenizer, device)


class BareLoop(Peer):
    """`model(...)` in a loop, greedy: what a tutorial shows."""

    @torch.inference_mode()
    def run(self, prompt: Sequence[int], new_tokens: int, *, sampled: bool) -> Run:
        """Generate; `sampled` draws from the softmax without more ado."""
        cache = DynamicCache(config=self.model.config)
        ids = torch.tensor([prompt], device=self.device)
        started_at = time.perf_counter()
        tokens: list[int] = []
        tokens_at: list[float] = []
        while len(tokens) < new_tokens:
            logits = self.model(ids, past_key_values=cache, logits_to_keep=1).logits[:, -1]
            ids = logits.float().softmax(-1).multinomial(1) if sampled else logits.argmax(-1, keepdim=True)
            tokens.append(int(ids))
            tokens_at.append(time.perf_counter())
        return run_of(started_at, tokens, tokens_at)


class LlamaCpp(Peer):
    """llama.cpp in a process of its own, on the same model or on random weights of its shape; greedy, on a CPU."""

    def __init__(self, subject: Sequence[str], form: str, dtype: torch.dtype, options: argparse.Namespace) -> None:
        """subject: what to tell llama_cpp_peer of the model.  form: bfloat16, q8_0 or q4_0; empty for `dtype`.

        options: the benchmark's.
        """
        small: dict[str, Weights] = {"q8_0": "int8", "q4_0": "int4"}
        if form in small:
            self.weights, self.read_as = small[form], (form, torch.float16)
        elif form:
            self.dtype = getattr(torch, form)
        told = form or str(dtype).removeprefix("torch.")
        arguments = [*subject, "--dtype", told, "--threads", str(torch.get_num_threads())]
        if options.llama_files:
            options.llama_files.mkdir(parents=True, exist_ok=True)
            arguments += ["--files", str(options.llama_files)]
        self._process = subprocess.Popen(
            [options.llama_python, "-m", "tests.benchmarks.llama_cpp_peer", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.available = bool(self._hear())

    def run(self, prompt: Sequence[int], new_tokens: int, *, sampled: bool) -> Run:
        """Have it generate."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompt": list(prompt), "new_tokens": new_tokens}) + "\n")
        self._process.stdin.flush()
        return Run(**self._hear())

    def _hear(self) -> dict[str, Any]:
        """Its next answer; nothing when it has gone, and its stderr says why."""
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or "{}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


PEERS: dict[str, type[Peer]] = {
    "genqueue": OurEngine,
    "genqueue-drafts": OurEngineWithDrafts,
    "genqueue-dynamic": OurReference,
    "genqueue-bfloat16": OurEngineBfloat16,
    "genqueue-int8": OurEngineInt8,
    "genqueue-int4": OurEngineInt4,
    "generate": HFGenerate,
    "generate-drafts": HFGenerateWithDrafts,
    "generate-static": HFGenerateStatic,
    "model-loop": BareLoop,
}
