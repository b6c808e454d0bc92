"""The kernels of a draw: on a GPU, or on a CPU by Triton's interpreter, where TRITON_INTERPRET=1 is set.

`make test-cuda` does that. They draw what the CPU's way draws, also where scores are equal or no numbers.
"""

import importlib
import math
import os

import pytest
import torch

from producer.contract import SamplingParams
from tests.models import CPU
from worker.engine.errors import NotSupported
from worker.engine.sampling.processors import apply, build_cutoffs
from worker.engine.sampling.sampler import NOT_A_TOKEN, Sampler

NEEDED = "neither a GPU with Triton nor its interpreter (make test-cuda)"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason=NEEDED)
pytest.importorskip("triton", reason=NEEDED)
draws = importlib.import_module("worker.engine.sampling.gpu.draw")

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
FIELDS = {
    "greedy": {"temperature": 0.0},
    "noise alone": {},
    "top_k": {"top_k": 20},
    "top_k beyond the vocabulary": {"top_k": 10**6},
    "top_p": {"top_p": 0.8},
    "top_p of one": {"top_p": 1e-6},
    "min_p": {"min_p": 0.05},
    "min_p of all": {"min_p": 1.0},
    "top_k and top_p": {"top_k": 50, "top_p": 0.7},
    "all": {"top_k": 50, "top_p": 0.9, "min_p": 0.02},
}
REAL = [49_152, 151_936, 152_064]
"""Vocabularies of SmolLM2 and of two kinds of Qwen2."""
VOCAB_SIZES = [259, 1100] if INTERPRETED else [259, 2100, *REAL]
NONE = torch.empty((1, 0), dtype=torch.int64)


def scores_of(kind: str, vocab_size: int) -> torch.Tensor:
    noise = torch.randn(1, vocab_size, generator=torch.Generator().manual_seed(vocab_size))
    match kind:
        case "peaked":
            return noise * 6
        case "flat":
            return noise / 10
        case "tied":
            return noise.round()
        case "masked":
            return noise.masked_fill(noise > 1, -math.inf)
    raise AssertionError(kind)


def sampler(fields: dict[str, float], *, by_kernels: bool) -> Sampler:
    return Sampler(
        SamplingParams(**{"temperature": 1.0, **fields}),
        seed=2**40 + 7,
        prompt_length=0,
        eos_token_ids=frozenset(),
        device=DEVICE if by_kernels else CPU,
        may_wait=not by_kernels,
        by_kernels=by_kernels,
    )


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("kind", ["peaked", "flat", "tied", "masked"])
@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_what_the_cpu_draws(fields, kind, vocab_size):
    ours, theirs = sampler(fields, by_kernels=True), sampler(fields, by_kernels=False)
    scores = scores_of(kind, vocab_size)
    for position in (0, 1, 1000):
        found = ours.choose(scores.to(DEVICE), NONE.to(DEVICE), position)
        assert (found.shape, found.dtype) == ((1, 1), torch.int64)
        assert found.item() == theirs.choose(scores, NONE, position).item()


def what_stays(fields: dict[str, float], scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each token whether it stays in the draw: by the kernels, and by the processors."""
    params = SamplingParams(temperature=1.0, **fields)
    draw = draws.Draw(params, 0, DEVICE)
    draw(scores.to(DEVICE), 0)
    [cut] = draw._buffers.cuts.tolist()
    bits = (scores[0] + 0.0).view(torch.int32).long()
    keys = (((bits ^ ((bits >> 31) & 0x7FFFFFFF)) + 2**31) << 24) + torch.arange(scores.shape[1])
    left = apply(build_cutoffs(params), NONE, scores)[0] != -math.inf
    deep = scores[0] < scores.max() - 40  # is never drawn
    return (keys >= cut) | deep, left | deep


CUTS = [
    {"top_k": 20},
    {"top_k": 1},
    {"top_p": 0.8},
    {"top_p": 1e-6},
    {"top_p": 0.999},
    {"top_k": 50, "top_p": 0.7},
]


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("kind", ["peaked", "flat", "tied", "masked"])
@pytest.mark.parametrize("fields", CUTS, ids=str)
def test_what_stays_is_what_the_processors_leave(fields, kind, vocab_size):
    ours, theirs = what_stays(fields, scores_of(kind, vocab_size))
    # Of thousands with one score, the cut is where a sum of them is rounded.
    assert int((ours != theirs).sum()) <= (kind == "tied" and vocab_size in REAL)


@pytest.mark.slow
def test_what_stays_of_a_real_vocabulary():
    ours, theirs = what_stays({"top_k": 50, "top_p": 0.7}, scores_of("peaked", REAL[-1]))
    assert torch.equal(ours, theirs)
    assert 0 < int(ours.sum()) < 10_000


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_rows_are_consecutive_positions(fields):
    ours, theirs = sampler(fields, by_kernels=True), sampler(fields, by_kernels=False)
    rows = torch.cat([scores_of(kind, 300) for kind in ("peaked", "flat", "tied", "masked")])
    for count in (1, 4, 2):
        found = ours.choose(rows[:count].to(DEVICE), NONE.to(DEVICE), 5)
        expected = [theirs.choose(rows[at : at + 1], NONE, 5 + at).item() for at in range(count)]
        assert (found.shape, found.flatten().tolist()) == ((count, 1), expected)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of numpy, in the interpreter
@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("damage", [math.nan, math.inf, None])
def test_no_token_where_there_is_none(damage, fields):
    scores = scores_of("peaked", 300)
    if damage is None:
        scores.fill_(-math.inf)
    else:
        scores[0, 17] = damage
    ours = sampler(fields, by_kernels=True)
    assert ours.choose(scores.to(DEVICE), NONE.to(DEVICE), 3).item() == NOT_A_TOKEN
    sound = scores_of("peaked", 300).to(DEVICE)
    assert ours.choose(sound, NONE.to(DEVICE), 3).item() != NOT_A_TOKEN, "nothing of it stays"


def test_one_that_differs_is_refused(monkeypatch):
    monkeypatch.setattr(draws.Draw, "__call__", lambda *_: torch.zeros((1, 1), dtype=torch.int64, device=DEVICE))
    with pytest.raises(NotSupported, match="is another one on this GPU"):
        draws.check(DEVICE, 300)
