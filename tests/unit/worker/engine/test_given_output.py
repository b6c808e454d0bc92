"""A request that brings the beginning of its output along: its text is that of one undisturbed run."""

from collections.abc import Callable
from functools import partial

import pytest
from transformers import Qwen2ForCausalLM

from producer.contract import GenerationRequest, InvalidRequest, PromptTooLong
from tests.models import CPU, ENGINES, VOCAB_SIZE, engine_for, random_model, tiny_model_paths
from worker.engine import Engine, Tokenizer
from worker.models.config_loader import locate_model
from worker.models.tiny_corpus import DEFAULT_PROMPT, INTRODUCTION
from worker.standalone import run

from .asking import Reference, answer, ids_of, random_ids, request, start, text_of

PROMPT = random_ids(20)
FIELDS = {
    "greedy": {},
    "sampled": {"temperature": 0.9, "top_p": 0.9},
    "penalties": {"repetition_penalty": 1.3, "presence_penalty": 0.7, "frequency_penalty": 0.4},
    "everything": {
        "temperature": 1.2, "top_k": 200, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.1,
        "presence_penalty": 0.2, "frequency_penalty": 0.1, "min_new_tokens": 7,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    return random_model()


@pytest.fixture(scope="module")
def reference(model: Qwen2ForCausalLM, tokenizer: Tokenizer) -> Reference:
    return Reference(model, tokenizer)


@pytest.fixture(scope="module")
def engine_of(model: Qwen2ForCausalLM, tokenizer: Tokenizer) -> Callable[..., Engine]:
    return partial(engine_for, model, tokenizer)


@pytest.fixture(scope="module")
def engine(engine_of: Callable[..., Engine]) -> Engine:
    return engine_of()


@pytest.fixture(scope="module")
def tiny() -> Engine:
    return Engine.load(locate_model("tiny", tiny_model_paths(), progress=False), CPU)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("stopping", [False, True], ids=["to the end", "with a stop string"])
def test_the_text_is_that_of_one_longer_run(engine_of, reference, kind, fields, stopping):
    asked = request(PROMPT, max_new_tokens=24, **fields)
    if stopping:
        text = text_of(reference(asked, seed=99)[8:])
        asked = request(PROMPT, max_new_tokens=24, **fields, stop=(text[5:8], text[2:4] + "no"))
    whole = reference(asked, seed=99)
    assert whole[-1].finish_reason == ("stop" if stopping else "length")
    engine = engine_of(kind)
    for cut in range(1, len(whole)):
        goes_on = start(engine, _going_on(asked, ids_of(whole)[:cut]), seed=99)
        rest = list(goes_on)
        assert rest == whole[cut:]
        assert goes_on.given_text + text_of(rest) == text_of(whole)
        assert (goes_on.finish_reason, goes_on.stop) == (whole[-1].finish_reason, whole[-1].stop)


def test_characters_of_many_bytes_may_be_cut_anywhere(tiny):
    """The earlier job shows half of one as U+FFFD, as it has to. The one that goes on shows it whole."""
    asked = GenerationRequest(prompt=DEFAULT_PROMPT, max_new_tokens=200)
    whole = ids_of(answer(tiny, asked))
    cut_in_two = 0
    for cut in range(1, len(whole)):
        goes_on = _going_on(asked, whole[:cut], max_new_tokens=cut + 5)
        generation = start(tiny, goes_on)
        steps = list(generation)
        assert whole[:cut] + ids_of(steps) == whole[: cut + 5]
        assert generation.given_text + text_of(steps) == tiny.tokenizer.decode(whole[: cut + 5])
        cut_in_two += "\ufffd" in tiny.tokenizer.decode(whole[:cut])
    assert "🌱" in INTRODUCTION
    assert cut_in_two


@pytest.mark.parametrize("stop", ["🌱", "第一次用到"])
def test_a_stop_string_may_begin_before_the_cut_and_end_behind_it(tiny, stop):
    whole = ids_of(answer(tiny, GenerationRequest(prompt=DEFAULT_PROMPT, max_new_tokens=200)))
    asked = GenerationRequest(prompt=DEFAULT_PROMPT, max_new_tokens=200, stop=(stop,))
    ends = len(answer(tiny, asked))
    for cut in range(ends - 4, ends):
        generation = start(tiny, _going_on(asked, whole[:cut]))
        shown = generation.given_text + text_of(list(generation))
        assert (shown, generation.stop) == (INTRODUCTION.partition(stop)[0], stop)


def test_what_was_given_is_not_generated_again(engine_of, monkeypatch):
    engine = engine_of("static")
    asked = request(PROMPT, max_new_tokens=9)
    whole = ids_of(answer(engine, asked))
    decoded = []
    decode = engine.path.decode
    monkeypatch.setattr(engine.path, "decode", lambda token: decoded.append(1) or decode(token))
    generation = start(engine, _going_on(asked, whole[:6]))
    assert ids_of(list(generation)) == whole[6:]
    assert len(decoded) == 2, "and the first of the three comes out of prefill"


def test_what_the_cache_held_counts_as_far_as_it_is_prompt(engine):
    asked = request(PROMPT, max_new_tokens=9)
    whole = ids_of(answer(engine, asked))
    list(generation := start(engine, _going_on(asked, whole[:6])))
    assert generation.cached_tokens == len(PROMPT)


def test_an_attempt_that_resumes_goes_on_behind_all_that_was_published(engine):
    asked = request(PROMPT, max_new_tokens=12, temperature=1.0)
    whole = answer(engine, asked, seed=5)
    second = start(engine, _going_on(asked, ids_of(whole)[:4]), seed=5, resumed_ids=ids_of(whole)[:7])
    assert list(second) == whole[7:]
    assert second.given_text == ""


def test_logprobs_are_those_of_the_new_tokens(engine):
    asked = request(PROMPT, max_new_tokens=8, logprobs=2)
    whole = answer(engine, asked)
    rest = answer(engine, _going_on(asked, ids_of(whole)[:3]))
    assert [step.logprob.top[0][0] for step in rest] == [step.logprob.top[0][0] for step in whole[3:]]
    assert [step.logprob.logprob for step in rest] == pytest.approx(
        [s.logprob.logprob for s in whole[3:]], abs=1e-4
    )


def test_without_a_bound_256_more_may_come_or_what_fits(tokenizer):
    engine = engine_for(random_model(context_length=600), tokenizer)
    for given, more in ((300, 256), (500, 600 - len(PROMPT) - 500)):
        asked = request(PROMPT, output_token_ids=tuple(random_ids(given)))
        assert len(answer(engine, asked)) == more


def test_one_prompt_without_redis_shows_the_whole_text(tiny):
    asked = GenerationRequest(prompt=DEFAULT_PROMPT, max_new_tokens=200)
    whole = ids_of(answer(tiny, asked))
    pieces: list[str] = []
    assert run(tiny, _going_on(asked, whole[:20]), on_text=pieces.append) == INTRODUCTION == "".join(pieces)


class TestIsRefused:
    def test_where_the_end_of_sequence_is_in_it(self, tokenizer):
        model = random_model(eos_token_id=7)
        engine = engine_for(model, tokenizer)
        with pytest.raises(
            InvalidRequest, match="the end-of-sequence token ends the output with its token 2"
        ) as error:
            start(engine, request(PROMPT, output_token_ids=(4, 5, 7, 6)))
        assert error.value.code == "invalid_request"
        assert start(engine, request(PROMPT, output_token_ids=(4, 5, 7, 6), ignore_eos=True)).finish_reason is None

    def test_where_a_stop_string_is_in_it(self, engine, tokenizer):
        ids = tuple(tokenizer.encode("one END two").tolist())
        with pytest.raises(InvalidRequest, match="the stop string 'END' ends the output with its token"):
            start(engine, request(PROMPT, output_token_ids=ids, stop=("END",)))
        assert start(engine, request(PROMPT, output_token_ids=ids, stop=("ENDE",))).finish_reason is None

    def test_where_a_token_is_none_of_the_model(self, engine):
        with pytest.raises(InvalidRequest, match=f"token id {VOCAB_SIZE} is not in the vocabulary"):
            start(engine, request(PROMPT, output_token_ids=(1, VOCAB_SIZE)))

    @pytest.mark.parametrize("more", [0, 5])
    def test_where_it_fills_the_context(self, engine, more):
        given = tuple(random_ids(engine.context_length - len(PROMPT) + more))
        with pytest.raises(
            PromptTooLong, match=f"output_token_ids {len(given)}, and the context .* nothing can follow"
        ):
            start(engine, request(PROMPT, output_token_ids=given))


def _going_on(asked: GenerationRequest, given: list[int], **fields) -> GenerationRequest:
    return asked.model_copy(update={"output_token_ids": tuple(given), **fields})
