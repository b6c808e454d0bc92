"""The tokens that stay in a draw, against those that transformers' processors leave."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TopPLogitsWarper

from producer.contract import SamplingParams
from worker.engine.sampling.candidates import Candidates
from worker.engine.sampling.processors import apply, build_cutoffs

FIELDS: dict[str, dict[str, Any]] = {
    "top_k": {"top_k": 20},
    "top_k 1": {"top_k": 1},
    "top_k beyond the vocabulary": {"top_k": 10**6},
    "top_p": {"top_p": 0.8},
    "top_p of nearly all": {"top_p": 0.999},
    "top_p of one": {"top_p": 1e-6},
    "min_p": {"min_p": 0.05},
    "min_p of one": {"min_p": 1.0},
    "top_k and top_p": {"top_k": 50, "top_p": 0.7},
    "all": {"top_k": 50, "top_p": 0.9, "min_p": 0.02},
    "top_p and min_p": {"top_p": 0.95, "min_p": 0.001},
}


def scores_of(kind: str, vocab_size: int) -> Tensor:
    noise = torch.randn(1, vocab_size, generator=torch.Generator().manual_seed(vocab_size))
    match kind:
        case "peaked":
            return noise * 6
        case "flat":  # more than the first look takes in
            return noise / 100
        case "masked":  # as after min_new_tokens
            return noise.masked_fill(noise > 1, -math.inf)
        case "tied":  # many share a score, at every border there is
            return noise.round()
    raise AssertionError(kind)


@pytest.mark.parametrize("vocab_size", [5, 800, 20_000])
@pytest.mark.parametrize("kind", ["peaked", "flat", "masked"])
@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_are_those_that_transformers_leaves(fields, kind, vocab_size):
    params = SamplingParams(temperature=1.0, **fields)
    scores = scores_of(kind, vocab_size)
    theirs = apply(build_cutoffs(params), torch.empty(1, 0), scores)[0]
    left = {token: theirs[token].item() for token in (theirs != -math.inf).nonzero()[:, 0].tolist()}

    best, tokens = Candidates(params)(scores)
    ours = dict(zip(tokens.tolist(), best.tolist(), strict=True))
    assert {token: score for token, score in ours.items() if score != -math.inf} == left
    assert best.tolist() == sorted(best.tolist(), reverse=True)


@pytest.mark.parametrize("top_k", [3, 20, 40])
def test_of_top_k_are_more_where_the_last_ones_are_equal(top_k):
    params = SamplingParams(temperature=1.0, top_k=top_k)
    scores = scores_of("tied", 800)
    theirs = apply(build_cutoffs(params), torch.empty(1, 0), scores)[0]
    _, tokens = Candidates(params)(scores)
    assert len(tokens) > top_k
    assert sorted(tokens.tolist()) == (theirs != -math.inf).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("vocab_size", [60, 800])
@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("top_k", [0, 30])
def test_of_equal_ones_those_with_the_higher_ids_stay(top_k, top_p, vocab_size):
    """In bfloat16 many logits are equal. In transformers what sorts them decides; here the id, on any device."""
    params = SamplingParams(temperature=1.0, top_p=top_p, top_k=top_k)
    scores = scores_of("tied", vocab_size)
    chain = build_cutoffs(params)
    theirs = apply(chain, torch.empty(1, 0), scores)[0]
    best, tokens = Candidates(params)(scores)
    kept = (theirs != -math.inf).nonzero()[:, 0].tolist()
    assert sorted(tokens.tolist()) == kept
    assert scores[0, tokens].tolist() == best.tolist()
    lowest = best[-1]
    alike = (scores[0] == lowest).nonzero()[:, 0].tolist()
    assert [token for token in kept if scores[0, token] == lowest] == alike[-int((best == lowest).sum()) :]
    by_transformers = apply(
        [TopPLogitsWarper(each.top_p) if isinstance(each, TopPLogitsWarper) else each for each in chain],
        torch.empty(1, 0),
        scores,
    )
    assert sorted(by_transformers[0].tolist()) == sorted(theirs.tolist()), "as many of each score"


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("damage", [math.nan, math.inf])
def test_begin_with_what_is_no_number(damage, fields):
    scores = scores_of("peaked", 800)
    scores[0, 17] = damage
    best, _ = Candidates(SamplingParams(temperature=1.0, **fields))(scores)
    assert not math.isfinite(best[0])


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_are_never_none(fields):
    best, tokens = Candidates(SamplingParams(temperature=1.0, **fields))(torch.full((1, 800), -math.inf))
    assert len(best) == len(tokens) > 0


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_are_none_that_cannot_come(fields):
    """Of a mask that leaves three, no cutoff brings back another one."""
    scores = torch.full((1, 800), -math.inf)
    scores[0, [5, 17, 700]] = torch.tensor([0.1, 0.3, 0.2])
    _, tokens = Candidates(SamplingParams(temperature=1.0, **fields))(scores)
    assert 0 < len(tokens) <= 3
    assert set(tokens.tolist()) <= {5, 17, 700}
