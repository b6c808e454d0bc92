"""The processors that transformers does not have.

Its own, in our chain, are held against its generate in test_sampler.py.
"""

import torch

from producer.contract import SamplingParams
from tests.models import CPU
from worker.engine.sampling.processors import apply, build_processors


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
