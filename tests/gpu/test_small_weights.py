"""Small weights on a GPU: in float32, the tokens of `generate` on what they stand for; in bfloat16, its logits."""

import pytest
import torch

from tests.small import small_and_plain
from worker.engine import Engine, EngineOptions, Tokenizer

from .test_exactness import LONG_CONTEXT, answer, generate, ids


@pytest.fixture(params=["int8", "int4"])
def weights(request: pytest.FixtureRequest):
    return request.param


@pytest.mark.parametrize("compiled", ["always", "never"])
def test_tokens_are_those_of_the_weights_written_out(compiled, weights, on, gpu, tokenizer: Tokenizer):
    small, plain = (on(model) for model in small_and_plain(weights, context_length=LONG_CONTEXT))
    engine = Engine(small, tokenizer, gpu, EngineOptions(path="static", compile=compiled))
    engine.warm_up()
    assert (engine.path.captured, engine.path.compiled) == (True, compiled == "always"), engine.why
    for length in (1, 30, 500):
        expected = generate(plain, ids(length), 48)
        assert answer(engine, ids(length), max_new_tokens=48)[: len(expected)] == expected


def test_rows_in_bfloat16(weights, on, gpu, tokenizer: Tokenizer):
    small, plain = (on(model) for model in small_and_plain(weights, dtype=torch.bfloat16))
    engine = Engine(small, tokenizer, gpu, EngineOptions(path="static"))
    engine.warm_up()
    assert engine.why == ""
    prompt = torch.tensor([ids(24)], device=gpu)
    with torch.inference_mode():
        expected = plain(prompt).logits[0, -1].float()
    engine.begin(prompt[0].tolist(), prompt.shape[1])
    engine.prefill(prompt[:, :-1])
    logits = engine.decode(prompt[:, -1:])[0]
    assert (logits - expected).norm() / expected.norm() < 0.03


@pytest.mark.parametrize("rows", [2, 8, 16, 40])
def test_rows_that_are_read_at_once(rows, weights, on, gpu, tokenizer: Tokenizer):
    """8 and 16, as of a draft, are a captured step; fewer; and so many that all is written out."""
    small, plain = (on(model) for model in small_and_plain(weights, dtype=torch.bfloat16))
    engine = Engine(small, tokenizer, gpu, EngineOptions(path="static"))
    engine.warm_up()
    assert engine.why == ""
    prompt = torch.tensor([ids(24 + rows)], device=gpu)
    with torch.inference_mode():
        expected = plain(prompt).logits[0, -rows:].float()
    engine.begin(prompt[0].tolist(), prompt.shape[1])
    engine.prefill(prompt[:, :-rows])
    logits = engine.path.read(prompt[:, -rows:], rows=rows)
    assert (logits - expected).norm() / expected.norm() < 0.03
