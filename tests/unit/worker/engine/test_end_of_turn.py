"""A chat ends where its template ends a turn, also where the model's own configuration lacks that token."""

import pytest
import torch

from producer.contract import GenerationRequest
from tests.models import engine_for, random_model
from worker.engine import Engine, Tokenizer

from .asking import answer, ids_of, text_of

IM_END = 2
CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def engine(tokenizer: Tokenizer) -> Engine:
    """Its model says <|im_end|> as the fifth token of an answer to CHAT, and has another one as its end."""
    model = random_model(seed=5, eos_token_id=0)
    told = ids_of(answer(engine_for(model, tokenizer), GenerationRequest(messages=CHAT, max_new_tokens=5)))[4]
    with torch.no_grad():
        head = model.lm_head.weight
        head[[IM_END, told]] = head[[told, IM_END]]
    return engine_for(model, tokenizer)


def ask(engine: Engine, resumed_ids=(), **fields):
    asked = GenerationRequest(**{"messages": CHAT, "max_new_tokens": 12, **fields})
    return answer(engine, asked, resumed_ids=resumed_ids)


def test_ends_a_chat(engine: Engine) -> None:
    steps = ask(engine)
    assert engine.eos_token_ids == {0}
    assert ids_of(steps)[-1] == IM_END
    assert (steps[-1].finish_reason, steps[-1].stop, len(steps)) == ("stop", None, 5)
    assert "<|im_end|>" not in text_of(steps)


def test_ends_it_after_a_resume(engine: Engine) -> None:
    whole = ids_of(ask(engine))
    assert ids_of(ask(engine, resumed_ids=whole[:3])) == whole[3:]


def test_ends_no_prompt(engine: Engine) -> None:
    prompt_ids = engine.encode(GenerationRequest(messages=CHAT)).tolist()
    steps = ask(engine, messages=None, prompt_token_ids=prompt_ids)
    assert ids_of(steps)[4] == IM_END
    assert len(steps) == 12


def test_is_ignored_with_the_end_of_the_text(engine: Engine) -> None:
    assert len(ask(engine, ignore_eos=True)) == 12


def test_is_put_off_by_min_new_tokens(engine: Engine) -> None:
    steps = ask(engine, min_new_tokens=8)
    assert len(steps) >= 8
    assert IM_END not in ids_of(steps)[:8]


def test_is_a_stop_string_where_it_is_asked_for(engine: Engine) -> None:
    last = ask(engine, stop=["<|im_end|>"])[-1]
    assert (last.finish_reason, last.stop) == ("stop", "<|im_end|>")
