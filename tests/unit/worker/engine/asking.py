"""How the engine's tests ask: requests of random ids, answers as steps, a reference, and a clock of their own."""

import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen2ForCausalLM

from producer.contract import GenerationRequest
from tests.models import CPU, VOCAB_SIZE
from worker.engine import Engine, EngineOptions, Generation, Step, Tokenizer, generation
from worker.engine.token_ring import TokenRing

REFERENCE = EngineOptions(path="dynamic", prompt_lookup=False)


def random_ids(length: int, *, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> list[int]:
    return random.Random(f"{length} {seed}").choices(range(vocab_size), k=length)


def request(ids: Sequence[int], **fields) -> GenerationRequest:
    return GenerationRequest(prompt_token_ids=tuple(ids), **fields)


def start(engine: Engine, asked: GenerationRequest, *, seed: int = 0, resumed_ids=()) -> Generation:
    return engine.start(asked, engine.encode(asked), seed=seed, resumed_ids=resumed_ids)


def answer(engine: Engine, asked: GenerationRequest, *, seed: int = 0, resumed_ids=()) -> list[Step]:
    return list(start(engine, asked, seed=seed, resumed_ids=resumed_ids))


def ids_of(steps: Sequence[Step]) -> list[int]:
    return [step.token_id for step in steps]


def text_of(steps: Sequence[Step]) -> str:
    return "".join(step.text for step in steps)


class Reference:
    """What a fresh engine answers on the dynamic path, without drafts."""

    def __init__(self, model: Qwen2ForCausalLM, tokenizer: Tokenizer) -> None:
        self._make: Callable[[], Engine] = lambda: Engine(model, tokenizer, CPU, REFERENCE)
        self._known: dict[tuple[GenerationRequest, int], list[Step]] = {}

    def __call__(self, asked: GenerationRequest, *, seed: int = 0) -> list[Step]:
        if (asked, seed) not in self._known:
            self._known[asked, seed] = answer(self._make(), asked, seed=seed)
        return self._known[asked, seed]


class ForwardClock:
    """Time that passes in forward passes alone, so that drafts do not hang on how busy the machine is.

    As on a GPU, passes are launched in no time and run one after the other, and a token is there when the pass
    before it is done. A step takes a second, and a pass over several tokens `check_s`.
    """

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch, check_s: float = 1.1) -> None:
        self.now_s = 0.0
        self.done_s = 0.0
        """When the last pass that was launched is done."""
        self.steps = 0
        self.drafts: list[int] = []
        """The length of each draft that was checked."""
        self._check_s = check_s
        self._read, self._decode = engine.path.read, engine.path.decode
        monkeypatch.setattr(engine.path, "read", self._timed_read)
        monkeypatch.setattr(engine.path, "decode", self._timed_decode)
        monkeypatch.setattr(generation, "TokenRing", partial(TimedRing, self))
        monkeypatch.setattr(generation, "time", SimpleNamespace(perf_counter=lambda: self.now_s))

    def _timed_read(self, ids, *, rows=1):
        if rows > 1:
            self.drafts.append(rows - 1)
        self._launch(self._check_s)
        return self._read(ids, rows=rows)

    def _timed_decode(self, token):
        self.steps += 1
        self._launch(1.0)
        return self._decode(token)

    def _launch(self, seconds: float) -> None:
        self.done_s = max(self.done_s, self.now_s) + seconds


class TimedRing(TokenRing):
    """Tokens that are there when the clock says so."""

    def __init__(self, clock: ForwardClock, device: torch.device) -> None:
        super().__init__(device)
        self._clock = clock
        self._there_s: deque[float] = deque()

    def push(self, token):
        super().push(token)
        self._there_s.append(self._clock.done_s)

    def pop(self):
        self._clock.now_s = max(self._clock.now_s, self._there_s.popleft())
        return super().pop()
