"""Tokens of a captured step, on streams as late as any GPU's, are those of the CPU; planted mistakes are found."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import Qwen2ForCausalLM

from producer.contract import GenerationRequest, JobError
from tests.models import CPU, VOCAB_SIZE, random_model, save_tokenizer
from tests.small import small_and_plain
from tests.unit.worker.engine.asking import REFERENCE, answer, random_ids, request, start
from worker.engine import Engine, EngineOptions, Step, Tokenizer
from worker.engine.forward.matrices import linear
from worker.engine.reuse.prompt_lookup import LONG_DRAFT, SHORT_DRAFT, PromptLookup

from . import card
from .mistakes import MASK, MISTAKES
from .numbers import Numbers

pytestmark = pytest.mark.slow
card.need()

GPU = torch.device("cuda", 0)
LONG = random_ids(100)
JOBS = {
    "greedy, in chunks": request(LONG, max_new_tokens=20),
    "sampled": request(random_ids(8), max_new_tokens=20, temperature=1.0),
    "begins like one that was parked": request([*LONG, *random_ids(150)], max_new_tokens=20, temperature=0.3),
    "top_p and top_k": request(random_ids(20), max_new_tokens=12, temperature=0.8, top_p=0.9, top_k=40),
    "penalties": request(random_ids(30), max_new_tokens=12, repetition_penalty=1.3, presence_penalty=0.5),
    "over a range's end": request(random_ids(250), max_new_tokens=12),
    "logprobs": request(random_ids(40), max_new_tokens=12, logprobs=3),
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "is_born": {"type": "boolean"}},
    "required": ["name", "is_born"],
    "additionalProperties": False,
}
AS_PERSON = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
ONE_OF = {"type": "choice", "choice": ["a queue of jobs, and one of workers", "a queue of jobs, and no more"]}
HELD = {
    "schema": request(random_ids(30), max_new_tokens=40, response_format=AS_PERSON),
    "schema, sampled": request(random_ids(9), max_new_tokens=40, response_format=AS_PERSON, temperature=1.0),
    "forced": request(random_ids(40), max_new_tokens=40, grammar=ONE_OF),
    "logprobs": request(random_ids(40), max_new_tokens=40, grammar=ONE_OF, logprobs=2),
}
FEW = [JOBS["greedy, in chunks"], JOBS["logprobs"], JOBS["begins like one that was parked"], HELD["forced"]]

Answers = list[list[Step]]


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    return random_model(context_length=600)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(save_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def on_cpu(model: Qwen2ForCausalLM, tokenizer: Tokenizer) -> Callable[..., Answers]:
    def answers(jobs: Sequence[GenerationRequest], model: Qwen2ForCausalLM = model) -> Answers:
        engine = Engine(model, tokenizer, CPU, REFERENCE)
        return [answer(engine, job, seed=3) for job in jobs]

    return answers


@pytest.fixture
def on_gpu(
    model: Qwen2ForCausalLM, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Answers]:
    """Fails where nothing is captured, a capture is violated, or an operation has no twin on the CPU."""
    # Triton is in the stand-in's environment alone.
    from worker.engine.forward.gpu import (  # noqa: PLC0415
        attention,
        matrix_vector,
        small_matrix_vector,
        written_out,
    )

    def answers(
        jobs: Sequence[GenerationRequest],
        *,
        kernels: bool,
        drafts: bool,
        reads: list[int] | None = None,
        model: Qwen2ForCausalLM = model,
    ) -> Answers:
        options = EngineOptions(compile="never", path="static", prefill_chunk=64, prompt_lookup=drafts)
        card.forget()
        card.be_lazy(True)
        with Numbers() as numbers, monkeypatch.context() as patched:
            patched.setattr(attention, "attend", numbers.with_twin(attention.attend, attend_to_all))
            for products in (matrix_vector, small_matrix_vector):
                patched.setattr(products, "matrix_vector", numbers.with_twin(products.matrix_vector, linear))
            of_many = numbers.with_twin(written_out.Linear.__call__, lambda _, *args: linear(*args))
            patched.setattr(written_out.Linear, "__call__", of_many)
            engine = Engine(copy.deepcopy(model).to(GPU), tokenizer, GPU, options)
            if kernels:
                engine.path.use_kernels()
            engine.warm_up()
            given = []
            for job in jobs:
                steps = start(engine, job, seed=3)
                given.append([next(steps)])
                before = numbers.reads  # what was parked for the prompt before is read, too
                given[-1] += steps
                if reads is not None:
                    reads.append(numbers.reads - before)
        assert engine.path.captured, engine.why
        assert (numbers.failures, card.seen().violations) == ([], [])
        return given

    return answers


def attend_to_all(query: Tensor, keys: Tensor, values: Tensor, used: Tensor, scale: float) -> Tensor:
    """As `attention.attend`."""
    attended = []
    for row, end in zip(query, used.tolist(), strict=True):
        grouped = row.view(1, len(keys), -1, keys.shape[-1])
        seen = keys[None, :, :end], values[None, :, :end]
        attended.append(functional.scaled_dot_product_attention(grouped, *seen, scale=scale))
    return torch.stack(attended).flatten(1)


def are_alike(some: Answers, others: Answers) -> bool:
    """Tokens are the same, and logprobs nearly."""
    return [[(step.token_id, _logprob(step)) for step in steps] for steps in some] == [
        [(step.token_id, pytest.approx(_logprob(step), abs=1e-3)) for step in steps] for steps in others
    ]


def _logprob(step: Step) -> float:
    return step.logprob.logprob if step.logprob else 0.0


@pytest.mark.parametrize("weights", ["float32", "int8", "int4"])
@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "mask"])
def test_tokens_are_those_of_the_cpu(
    kernels: bool,
    weights: str,
    on_cpu: Callable[..., Answers],
    on_gpu: Callable[..., Answers],
    figure: Callable[[str], None],
) -> None:
    jobs = [*JOBS.values()]
    count = sum(job.max_new_tokens or 0 for job in jobs)
    asked = {} if weights == "float32" else {"model": small_and_plain(weights, context_length=600)[0]}
    assert are_alike(on_gpu(jobs, kernels=kernels, drafts=False, **asked), on_cpu(jobs, **asked))
    kind = f"{weights}, {'kernels' if kernels else 'mask'}"
    figure(f"lazy streams, {kind}: the {count} tokens of {len(jobs)} jobs are the CPU's")


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "mask"])
def test_tokens_with_drafts_are_those_of_the_cpu(
    kernels: bool,
    on_cpu: Callable[..., Answers],
    on_gpu: Callable[..., Answers],
    figure: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Drafts out of the right answer: some wholly right, some wrong in their midst, short and long."""
    jobs = [request(LONG, max_new_tokens=100)]
    right = on_cpu(jobs)
    whole = [*LONG, *(step.token_id for step in right[0])]
    kinds = [(SHORT_DRAFT, True), (LONG_DRAFT, True), (LONG_DRAFT, False), (SHORT_DRAFT, False)]
    checked: list[tuple[int, int]] = []

    def draft(self: PromptLookup, room: int) -> list[int]:
        known = len(self._ids)
        length, correct = kinds[len(checked) % len(kinds)]
        if length > room or self._cost.step_s is None:
            return []
        guess = whole[known : known + length]
        if not correct:
            guess[3] = (guess[3] + 1) % VOCAB_SIZE
        return guess

    note = PromptLookup.note_check
    monkeypatch.setattr(PromptLookup, "draft", draft)
    monkeypatch.setattr(
        PromptLookup, "note_check", lambda self, *counts: checked.append(counts[:2]) or note(self, *counts)
    )
    assert are_alike(on_gpu(jobs, kernels=kernels, drafts=True), right)
    assert {drafted for drafted, _ in checked} == {SHORT_DRAFT, LONG_DRAFT}
    assert {drafted == accepted for drafted, accepted in checked} == {True, False}
    accepted = sum(count for _, count in checked)
    figure(
        f"lazy streams, {'kernels' if kernels else 'mask'}: {len(checked)} drafts, {accepted} tokens of them right"
    )


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "mask"])
def test_answers_that_are_held_to_a_structure_are_those_of_the_cpu(
    kernels: bool, on_cpu: Callable[..., Answers], on_gpu: Callable[..., Answers], figure: Callable[[str], None]
) -> None:
    """Each token that the model chose behind the first is read, once, and none of those that were forced."""
    jobs, reads = [*HELD.values()], []
    right = on_cpu(jobs)
    found = on_gpu(jobs, kernels=kernels, drafts=False, reads=reads)
    assert are_alike(found, right)
    assert [step.text for steps in found for step in steps] == [step.text for steps in right for step in steps]
    tokens = dict(zip(HELD, map(len, found), strict=True))
    counts = dict(zip(HELD, reads, strict=True))
    assert counts["forced"] == 0, "behind its one choice all is forced"
    assert all(0 < counts[name] < tokens[name] for name in ("schema", "schema, sampled"))
    figure(f"lazy streams, held to a structure: {tokens} tokens are the CPU's, {counts} reads")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_found(
    mistake: str,
    on_cpu: Callable[..., Answers],
    on_gpu: Callable[..., Answers],
    figure: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = on_cpu(FEW)
    monkeypatch.setattr(*MISTAKES[mistake])
    try:
        answers = on_gpu(FEW, kernels=mistake != MASK, drafts=False)
        found = "" if are_alike(answers, right) else "wrong tokens or logprobs"
    except (AssertionError, RuntimeError, JobError) as error:
        found = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:70]}"
    assert found
    assert torch.cuda.current_stream() == torch.cuda.default_stream(), "what comes after it runs on another stream"
    figure(f"planted: {mistake}: {found}")
