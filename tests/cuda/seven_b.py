"""Qwen2-7B's shape on one card: what is compiled, captured and launched, and how much memory that takes.

`python -m tests.cuda.seven_b` prints a `Report` as JSON; with `masked`, of a card on which our kernels are not
exact; with `int8` or `int4`, of weights of that form; with `deterministic`, of an engine that is. It is a process
of its own, as a process has one card.
"""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch._dynamo.utils import counters
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from producer.contract import GenerationRequest
from tests.benchmarks.small_shapes import build_small
from tests.models import save_tokenizer
from worker.engine import Engine, EngineOptions, Tokenizer, chooser, resolve_device
from worker.engine.errors import NotSupported
from worker.engine.sampling.sampler import token_logprob

from . import card

LAYERS = 28
CONFIG = Qwen2Config(
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=LAYERS,
    num_attention_heads=28,
    num_key_value_heads=4,
    max_position_embeddings=131072,
    tie_word_embeddings=False,
    bos_token_id=None,
    eos_token_id=151643,
)
TOKENS = 40
ROUNDS = 2
JOBS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drafts": {"prompt_lookup": True},
    "sampled": {"temperature": 1.0},
    "top_p and top_k": {"temperature": 1.0, "top_p": 0.9, "top_k": 50},
    "penalties": {"repetition_penalty": 1.1, "presence_penalty": 0.1},
    "all of these": {
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "min_p": 0.02,
        "repetition_penalty": 1.05,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.1,
    },
    "logprobs": {"logprobs": 5},
    "in chunks": {"prompt_tokens": 9000},
    "whole context": {"prompt_tokens": None},
}
"""Kinds of jobs.  prompt_tokens: None for as many as fit."""


@dataclass
class Report:
    """What was seen.  Memory in MiB."""

    context: int
    compiled: bool
    captured: bool
    why: str
    graphs: int
    compilations: int
    graph_breaks: int
    violations: list[str]
    step: dict[str, int] = field(default_factory=dict)
    """Kernels in the graph of a decode step, by name."""
    beside: dict[str, float] = field(default_factory=dict)
    """Launches of a token beside that graph, by kind of job."""
    reserved: list[dict[str, float]] = field(default_factory=list)
    """By torch, after each kind of job, round by round."""
    free: float = 0.0
    """On the card, in the end: torch gives nothing back before memory runs out."""


def main(*, masked: bool, weights: str | None, deterministic: bool) -> Report:
    """On the card that this process has."""
    # Triton is in the stand-in's environment alone.
    from worker.engine.forward.gpu import (  # noqa: PLC0415
        attention,
        matrix_vector,
        small_matrix_rows,
        small_matrix_vector,
    )
    from worker.engine.sampling.gpu import draw  # noqa: PLC0415

    device = resolve_device("cuda:0")
    with TemporaryDirectory() as folder:
        tokenizer = Tokenizer(save_tokenizer(Path(folder)))
    attention.check = _refuse if masked else _accept  # they compare numbers, and here are none
    # What is chosen is whatever stood in memory, which need not be an id.
    chooser.token_logprob = lambda logits, chosen, top: token_logprob(logits, chosen % logits.shape[-1], top)
    matrix_vector.check = small_matrix_vector.check = small_matrix_rows.check = draw.check = _accept
    model = build_small(CONFIG, device, torch.bfloat16, weights) if weights else _model(device)
    options = EngineOptions(prefix_cache_bytes=2**28, deterministic=deterministic)
    engine = Engine(model, tokenizer, device, options)
    engine.warm_up()
    report = Report(
        context=engine.context_length,
        compiled=engine.path.compiled,
        captured=engine.path.captured,
        why=engine.why,
        graphs=len(card.seen().graphs),
        compilations=counters["stats"]["unique_graphs"],
        graph_breaks=counters["graph_break"].total(),
        violations=card.seen().violations,
    )
    for number in range(ROUNDS):
        report.reserved.append({})
        for kind, fields in JOBS.items():
            run(engine, 1 + number, **fields)
            report.reserved[-1][kind] = torch.cuda.memory_reserved() / 2**20
            launched = card.seen().launched
            steps = {name: count for name, count in launched.items() if name.startswith("graph")}
            report.beside[kind] = (launched.total() - sum(steps.values())) / (TOKENS - 1)
            if kind == "greedy":
                report.step = dict(card.seen().graphs[max(steps, key=steps.__getitem__)])
    report.free = torch.cuda.mem_get_info()[0] / 2**20
    return report


def run(engine: Engine, token: int, *, prompt_tokens: int | None = 10, **fields: Any) -> None:
    """One job, of whose decoding the launches are counted."""
    prompt = [token] * (prompt_tokens or engine.context_length - TOKENS)
    request = GenerationRequest(
        prompt_token_ids=prompt, max_new_tokens=TOKENS, **{"prompt_lookup": False, **fields}
    )
    steps = engine.start(request, engine.encode(request), seed=1)
    next(steps)
    card.forget()
    assert sum(1 for _ in steps) == TOKENS - 1


def _accept(*_: object) -> None:
    pass


def _refuse(*_: object) -> None:
    raise NotSupported("it is masked")


def _model(device: torch.device) -> Qwen2ForCausalLM:
    """With the memory of its weights and no numbers in them, which nothing would compute with."""
    with torch.device("meta"):
        model = Qwen2ForCausalLM(CONFIG).to(torch.bfloat16).eval()
    model.to_empty(device=device)
    model.model.rotary_emb = Qwen2RotaryEmbedding(CONFIG).to(device)
    return model


if __name__ == "__main__":
    form = next((word for word in sys.argv if word in {"int8", "int4"}), None)
    asked = {name: name in sys.argv for name in ("masked", "deterministic")}
    json.dump(asdict(main(weights=form, **asked)), sys.stdout)
