"""From ids to text and the reason to end, where detokenizer and stop strings meet."""

import pytest

from producer.contract import GenerationRequest
from worker.engine.text.output import Output

HALF_A_CHARACTER = "你".encode()[:1]


@pytest.fixture
def ids(tokenizer):
    """Ids of one byte each."""
    return {
        "a": tokenizer.encode("a").tolist()[0],
        "half": tokenizer.backend.token_to_id(chr(HALF_A_CHARACTER[0])),
        "eos": 2,
    }


def output(tokenizer, *, max_new_tokens: int = 100, **fields) -> Output:
    request = GenerationRequest(prompt="x", **fields)
    return Output(request, tokenizer, max_new_tokens=max_new_tokens, eos_token_ids=frozenset({2}))


def test_held_text_comes_before_half_a_character(tokenizer, ids):
    job = output(tokenizer, stop=["ab"])
    assert [job.push(ids["a"]), job.push(ids["half"])] == ["", ""]
    assert job.flush() == "a\ufffd"


@pytest.mark.parametrize("last", ["eos", "length"])
def test_the_last_token_releases_all(tokenizer, ids, last):
    job = output(tokenizer, stop=["ab"], max_new_tokens=2 if last == "length" else 3)
    shown = job.push(ids["a"]) + job.push(ids["half"])
    if last == "eos":
        shown += job.push(ids["eos"])
    assert shown == "a\ufffd"
    assert (job.finish_reason, job.stop) == ("stop" if last == "eos" else "length", None)
    assert job.flush() == ""


def test_a_stop_string_that_the_end_completes_counts(tokenizer, ids):
    job = output(tokenizer, stop=["a\ufffd"], max_new_tokens=2)
    assert job.push(ids["a"]) + job.push(ids["half"]) == ""
    assert (job.finish_reason, job.stop) == ("stop", "a\ufffd")


def test_a_stop_string_may_be_a_special_token_that_is_shown(tokenizer, ids):
    job = output(tokenizer, stop=["<|im_end|>"], skip_special_tokens=False)
    assert job.push(ids["a"]) + job.push(ids["eos"]) == "a"
    assert (job.finish_reason, job.stop) == ("stop", "<|im_end|>")
