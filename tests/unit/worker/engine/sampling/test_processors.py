"""The processors that transformers does not have, or has in a form that waits for the device.

Its own, in our chain, are held against its generate in test_sampler.py.
"""

import math
import random

import pytest
import torch
from transformers import (
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from producer.contract import SamplingParams
from tests.models import CPU
from worker.engine.sampling.penalties import PenaltiesLogitsProcessor
from worker.engine.sampling.processors import (
    AllowedTokensLogitsProcessor,
    BadWordsLogitsProcessor,
    LogitBiasLogitsProcessor,
    apply,
    build_processors,
)


def test_presence_and_frequency_penalty_count_the_output_alone():
    chain = build_processors(
        SamplingParams(presence_penalty=0.5, frequency_penalty=0.25),
        prompt_length=2,
        eos_token_ids=frozenset(),
        device=CPU,
    )
    ids = torch.tensor([[0, 1, 2, 2, 2, 3]])  # prompt 0 1, output 2 2 2 3
    scores = apply(chain, ids, torch.zeros(1, 5))
    assert scores.tolist() == [[0.0, 0.0, -0.5 - 3 * 0.25, -0.5 - 0.25, 0.0]]


def test_presence_penalty_alone_does_not_count_occurrences():
    chain = build_processors(
        SamplingParams(presence_penalty=-1.0), prompt_length=1, eos_token_ids=frozenset(), device=CPU
    )
    assert apply(chain, torch.tensor([[0, 2, 2]]), torch.zeros(1, 3)).tolist() == [[0.0, 0.0, 1.0]]


PENALTIES = [
    {"repetition_penalty": 1.3},
    {"presence_penalty": 0.7},
    {"frequency_penalty": 0.4},
    {"repetition_penalty": 0.8, "presence_penalty": -0.2, "frequency_penalty": 0.3},
]


@pytest.mark.parametrize("fields", PENALTIES)
def test_penalties_are_those_of_all_ids_so_far_however_these_came(fields):
    """What was seen is kept from token to token: one by one, or many at once, as where an answer goes on."""
    params, drawn = SamplingParams(**fields), random.Random(3)
    ids = torch.tensor([drawn.choices(range(12), k=60)])
    one_by_one, in_leaps = (PenaltiesLogitsProcessor(params, prompt_length=20) for _ in range(2))
    for length in range(20, 61):
        scores = torch.randn(1, 15) * 3
        kept = scores.clone()
        expected = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)(ids[:, :length], scores)
        count = ids[0, 20:length].bincount(minlength=15)[None]
        expected = expected - params.frequency_penalty * count - params.presence_penalty * (count > 0)
        assert torch.equal(one_by_one(ids[:, :length], scores), expected)
        if length % 7 == 0:
            assert torch.equal(in_leaps(ids[:, :length], scores), expected)
        assert torch.equal(scores, kept), "logprobs are those of the logits as they were"


def test_bad_words_are_those_of_transformers_wherever_they_begin():
    drawn = random.Random(1)
    for _ in range(200):
        words = {tuple(drawn.choices(range(4), k=drawn.randint(1, 4))) for _ in range(drawn.randint(1, 6))}
        bad_words_ids = [list(word) for word in words]
        ids = torch.tensor([drawn.choices(range(4), k=drawn.randint(1, 8))])
        scores = torch.randn(1, 6)
        theirs = NoBadWordsLogitsProcessor(bad_words_ids, eos_token_id=5)(ids, scores)
        assert torch.equal(BadWordsLogitsProcessor(bad_words_ids, CPU)(ids, scores), theirs)


def test_a_bias_is_that_of_transformers_in_every_row():
    scores = torch.randn(3, 6)
    theirs = SequenceBiasLogitsProcessor({(2,): 1.5, (4,): -100.0})(torch.zeros(3, 1, dtype=torch.long), scores)
    assert torch.equal(LogitBiasLogitsProcessor({2: 1.5, 4: -100.0}, CPU)(torch.zeros(1, 0), scores), theirs)


def test_only_what_is_allowed_stays():
    scores = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    left = AllowedTokensLogitsProcessor([2, 0], CPU)(torch.zeros(1, 0), scores)
    assert left.tolist() == [[1.0, -math.inf, 3.0], [4.0, -math.inf, 6.0]]
