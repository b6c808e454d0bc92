"""What is measured against what: our engine, and the ways of running the same model that people use today.

Each takes a prompt and a number of new tokens, and tells when prefill was done and when each token was there.
"""

import copy
import json
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache, Qwen2ForCausalLM
from transformers.generation.streamers import BaseStreamer

from producer.contract import GenerationRequest
from tests.models import save_tokenizer
from worker.engine import Engine, EngineOptions, Tokenizer

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


def run_of(started_at: float, tokens_at: Sequence[float], prefill_s: float | None = None) -> Run:
    """From moments in `time.perf_counter()` seconds."""
    speed = (len(tokens_at) - 1) / (tokens_at[-1] - tokens_at[0])
    return Run(tokens_at[0] - started_at, speed, prefill_s)


class Peer:
    """A way of running the model."""

    note = ""
    """How it runs, where that is not the same everywhere; known once it is warm."""
    made_for_length = False
    """Whether what is made once is made for a number of new tokens."""

    def __init__(self, model: Qwen2ForCausalLM, device: torch.device) -> None:
        self.model, self.device = model, device

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

    def __init__(self, model: Qwen2ForCausalLM, device: torch.device) -> None:
        super().__init__(model, device)
        with TemporaryDirectory() as folder:
            tokenizer = Tokenizer(save_tokenizer(Path(folder)))
        self.engine = Engine(model, tokenizer, device, self.options)

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
            prompt_token_ids=tuple(prompt), max_new_tokens=new_tokens, **(SAMPLED if sampled else {})
        )
        prompt_ids = self.engine.encode(request)
        started_at = time.perf_counter()
        with closing(self.engine.start(request, prompt_ids, seed=0)) as generation:
            tokens_at = [time.perf_counter() for _ in generation]
        assert generation.prefill_ms is not None, "there was a first token"
        return run_of(started_at, tokens_at, generation.prefill_ms / 1000)


class OurReference(OurEngine):
    """The same loop over transformers' model and growing cache."""

    options = EngineOptions(path="dynamic", prompt_lookup=False)


class _Moments(BaseStreamer):
    """Notes when a token is there. `generate` hands it the prompt first."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """Called for the prompt and for each token, which it has waited for."""
        self.moments.append(time.perf_counter())

    def end(self) -> None:
        """Called once."""


class HFGenerate(Peer):
    """transformers' generate with its default, growing cache."""

    cache_implementation: str | None = None

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
            **sampling,
        )
        return run_of(streamer.moments[0], streamer.moments[1:])


class HFGenerateStatic(HFGenerate):
    """transformers' generate with a static cache and a compiled model, on a CPU as on a GPU."""

    cache_implementation = "static"
    made_for_length = True

    def __init__(self, model: Qwen2ForCausalLM, device: torch.device) -> None:
        if device.type == "cpu":  # on a GPU, transformers compiles by itself
            model = copy.copy(model)  # the compiled forward must not become that of the others
            model.forward = torch.compile(model.forward)
        super().__init__(model, device)


class BareLoop(Peer):
    """`model(...)` in a loop, greedy: what a tutorial shows."""

    @torch.inference_mode()
    def run(self, prompt: Sequence[int], new_tokens: int, *, sampled: bool) -> Run:
        """Generate; `sampled` draws from the softmax without more ado."""
        cache = DynamicCache(config=self.model.config)
        ids = torch.tensor([prompt], device=self.device)
        started_at = time.perf_counter()
        tokens_at: list[float] = []
        while len(tokens_at) < new_tokens:
            logits = self.model(ids, past_key_values=cache, logits_to_keep=1).logits[:, -1]
            ids = logits.float().softmax(-1).multinomial(1) if sampled else logits.argmax(-1, keepdim=True)
            int(ids)
            tokens_at.append(time.perf_counter())
        return run_of(started_at, tokens_at)


class LlamaCpp(Peer):
    """llama.cpp in a process of its own, on a random model of the same shape; greedy, on a CPU."""

    def __init__(self, shape: str, dtype: str, threads: int, python: str) -> None:
        arguments = ["--shape", shape, "--dtype", dtype, "--threads", str(threads)]
        self._process = subprocess.Popen(
            [python, "-m", "tests.benchmarks.llama_cpp_peer", *arguments],
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
    "genqueue-dynamic": OurReference,
    "generate": HFGenerate,
    "generate-static": HFGenerateStatic,
    "model-loop": BareLoop,
}
