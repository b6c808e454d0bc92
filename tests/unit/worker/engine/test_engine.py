"""The engine against transformers' generate: exact token equality in float32, and what transformers has not."""

import gc
import itertools
import math
import random

import pytest
import torch
from transformers import Qwen2ForCausalLM

from producer.contract import EngineError, GenerationRequest, InvalidRequest, OutOfMemory, PromptTooLong
from tests.models import ENGINES, HEADS, VOCAB_SIZE, engine_for, random_model, save_random_model
from worker.engine import Engine, Tokenizer
from worker.engine.forward import decoder

from .asking import answer, ids_of, text_of


def request(prompt: int | list[int] = 8, **fields) -> GenerationRequest:
    """A request for a prompt of random ids, or of the ids given."""
    ids = random.Random(prompt).choices(range(VOCAB_SIZE), k=prompt) if isinstance(prompt, int) else prompt
    return GenerationRequest(prompt_token_ids=ids, **fields)


def hf_ids(model: Qwen2ForCausalLM, asked: GenerationRequest, **options) -> list[int]:
    """What transformers' own generate answers."""
    prompt = torch.tensor([asked.prompt_token_ids])
    output = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, pad_token_id=0, **options
    )
    return output[0, prompt.shape[1] :].tolist()


def run_out_of_memory(monkeypatch, model: Qwen2ForCausalLM) -> None:
    """Let the second layer ask for more than there is, on either path, when the cache holds keys of the first."""

    def fail(*_args, **_kwargs):
        torch.empty(2**60, dtype=torch.int8)

    calls = itertools.count()
    mlp = decoder._mlp
    monkeypatch.setattr(decoder, "_mlp", lambda *args: (fail() if next(calls) else None) or mlp(*args))
    monkeypatch.setattr(model.model.layers[1], "forward", fail)


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    return random_model()


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest) -> str:
    """Every test that takes an engine runs on each kind of it."""
    return request.param


@pytest.fixture
def engine(model: Qwen2ForCausalLM, tokenizer: Tokenizer, kind: str) -> Engine:
    return engine_for(model, tokenizer, kind)


@pytest.fixture
def forwards(engine: Engine, monkeypatch):
    """The input shape of every prefill and every decode step, as they happen."""
    shapes = []

    def noting(method):
        def noted(ids, **options):
            shapes.append(tuple(ids.shape))
            return method(ids, **options)

        return noted

    monkeypatch.setattr(engine, "prefill", noting(engine.prefill))
    monkeypatch.setattr(engine, "decode", noting(engine.decode))
    return shapes


without_chunks = pytest.mark.parametrize("kind", ["dynamic", "static"])


class TestGreedyEqualsTransformers:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
    @pytest.mark.parametrize("heads", HEADS)
    def test_on_every_kind_of_attention(self, heads, tied, seed, tokenizer, kind):
        model = random_model(heads, tied=tied, seed=seed)
        steps = answer(engine_for(model, tokenizer, kind), asked := request(11 + seed, max_new_tokens=48))

        assert ids_of(steps) == hf_ids(model, asked, max_new_tokens=48)
        assert len(set(ids_of(steps))) > 1, "the model repeats one token, so that the comparison says little"
        assert text_of(steps) == tokenizer.decode(ids_of(steps))
        assert [step.finish_reason for step in steps] == [None] * 47 + ["length"]

    def test_for_every_prompt_length_up_to_a_full_context(self, tokenizer, kind):
        model = random_model("gqa 7:1", context_length=24)
        engine = engine_for(model, tokenizer, kind)
        for length in range(1, 24):
            asked = request(length, max_new_tokens=24 - length)
            assert ids_of(answer(engine, asked)) == hf_ids(model, asked, max_new_tokens=24 - length), length

    @without_chunks
    def test_one_token(self, engine, model, forwards):
        steps = answer(engine, asked := request(max_new_tokens=1))
        assert forwards == [(1, 8)], "one prefill, and no wasted forward pass"
        assert ids_of(steps) == hf_ids(model, asked, max_new_tokens=1)
        assert steps[0].finish_reason == "length"

    @pytest.mark.parametrize("form", ["eos as a number", "eos as a list"])
    @pytest.mark.parametrize("position", [0, 1, 9])
    def test_up_to_eos(self, form, position, tokenizer, kind):
        free = random_model(seed=5)
        eos = ids_of(answer(engine_for(free, tokenizer, kind), request(max_new_tokens=20)))[position]
        model = random_model(seed=5, eos_token_id=eos if form == "eos as a number" else [799, eos])
        steps = answer(engine_for(model, tokenizer, kind), asked := request(max_new_tokens=20))

        assert ids_of(steps) == hf_ids(model, asked, max_new_tokens=20)
        assert (steps[-1].token_id, steps[-1].finish_reason) == (eos, "stop")
        assert len(steps) <= position + 1

    def test_with_min_new_tokens(self, tokenizer, kind):
        free = random_model(seed=5)
        eos = ids_of(answer(engine_for(free, tokenizer, kind), request(max_new_tokens=20)))[:3]
        model = random_model(seed=5, eos_token_id=eos)
        asked = request(max_new_tokens=20, min_new_tokens=6)
        ours = ids_of(answer(engine_for(model, tokenizer, kind), asked))
        assert ours == hf_ids(model, asked, max_new_tokens=20, min_new_tokens=6)
        assert not set(ours[:6]) & set(eos)

    def test_with_repetition_penalty_over_prompt_and_output(self, engine, model):
        asked = request(max_new_tokens=40, repetition_penalty=1.7)
        ours = ids_of(answer(engine, asked))
        assert ours == hf_ids(model, asked, max_new_tokens=40, repetition_penalty=1.7)
        assert ours != ids_of(answer(engine, request(max_new_tokens=40)))

    def test_from_a_model_folder(self, tmp_path):
        folder = save_random_model(tmp_path, eos_token_id=[3, 4])
        engine = Engine.load(folder, torch.device("cpu"))
        asked = GenerationRequest(prompt="你好 👋 world", max_new_tokens=20, ignore_eos=True)
        prompt_ids = engine.encode(asked)
        steps = list(engine.start(asked, prompt_ids, seed=0))
        assert engine.eos_token_ids == {3, 4}
        as_ids = GenerationRequest(prompt_token_ids=prompt_ids.tolist())
        assert ids_of(steps) == hf_ids(random_model(), as_ids, max_new_tokens=20)


class TestEnding:
    @without_chunks
    def test_prefill_reads_the_prompt_and_each_decode_one_token(self, engine, forwards):
        generation = engine.start(asked := request(6, max_new_tokens=4), engine.encode(asked), seed=0)
        assert forwards == [], "nothing is computed before the first step"
        next(generation)
        assert forwards == [(1, 6)]
        assert generation.prefill_ms > 0
        assert len(list(generation)) == 3
        assert forwards == [(1, 6), (1, 1), (1, 1), (1, 1)]

    def test_ignore_eos(self, tokenizer, kind):
        free = answer(engine_for(random_model(seed=5), tokenizer, kind), request(max_new_tokens=20))
        model = random_model(seed=5, eos_token_id=free[3].token_id)
        asked = request(max_new_tokens=20, ignore_eos=True, min_new_tokens=10)
        steps = answer(engine_for(model, tokenizer, kind), asked)
        assert ids_of(steps) == ids_of(free)
        assert steps[-1].finish_reason == "length"

    def test_a_stop_string_that_is_spread_over_tokens(self, engine, tokenizer):
        free = answer(engine, request(max_new_tokens=40))
        text = text_of(free)
        at = next(i for i in range(5, 35) if all(step.text for step in free[i : i + 3]))
        spread = free[at].text[-1] + free[at + 1].text + free[at + 2].text[0]
        end = text.index(spread)

        steps = answer(engine, request(max_new_tokens=40, stop=["never to be seen", spread]))
        assert text_of(steps) == text[:end]
        assert (steps[-1].finish_reason, steps[-1].stop) == ("stop", spread)
        assert ids_of(steps) == ids_of(free)[: len(steps)]
        assert spread in tokenizer.decode(ids_of(steps))
        assert spread not in tokenizer.decode(ids_of(steps)[:-1]), "it stopped at once"

    def test_what_was_held_back_comes_with_the_last_token(self, engine):
        free = answer(engine, request(max_new_tokens=12))
        never_completed = free[-1].text[-1] + "never to be seen"
        steps = answer(engine, request(max_new_tokens=12, stop=[never_completed]))
        assert text_of(steps) == text_of(free)
        assert (steps[-1].finish_reason, steps[-1].stop) == ("length", None)

    def test_flush_gives_what_a_job_that_is_cut_short_still_held(self, engine):
        free = answer(engine, request(max_new_tokens=12))
        asked = request(max_new_tokens=12, stop=[free[4].text[-1] + "never to be seen"])
        generation = engine.start(asked, engine.encode(asked), seed=0)
        shown = "".join(next(generation).text for _ in range(5))
        generation.close()
        assert shown == text_of(free[:5])[:-1]
        assert shown + generation.flush() == text_of(free[:5])
        assert list(generation) == []

    def test_special_tokens_are_shown_when_asked_for(self, tokenizer, kind):
        free = answer(engine_for(random_model(seed=5), tokenizer, kind), request(max_new_tokens=8))
        model = random_model(seed=5)
        # Where the model says free[2], let it say <|im_end|> (id 2), by exchanging their rows.
        with torch.no_grad():
            head = model.lm_head.weight
            head[[2, free[2].token_id]] = head[[free[2].token_id, 2]]
        model.generation_config.eos_token_id = 2
        shown = answer(engine_for(model, tokenizer, kind), request(max_new_tokens=8, skip_special_tokens=False))
        hidden = answer(engine_for(model, tokenizer, kind), request(max_new_tokens=8))
        assert text_of(shown) == text_of(hidden) + "<|im_end|>"
        assert shown[-1].finish_reason == hidden[-1].finish_reason == "stop"


RESUMABLE = {
    "greedy": {},
    "sampled": {"temperature": 0.9, "top_p": 0.9},
    "penalties": {"repetition_penalty": 1.3, "presence_penalty": 0.7, "frequency_penalty": 0.4},
    "everything": {
        "temperature": 1.2, "top_k": 200, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.1,
        "presence_penalty": 0.2, "frequency_penalty": 0.1, "min_new_tokens": 7,
    },
}  # fmt: skip


class TestResume:
    """A job that goes on after its published tokens is the job that was never interrupted."""

    @pytest.mark.parametrize("fields", RESUMABLE.values(), ids=RESUMABLE)
    @pytest.mark.parametrize("stopping", [False, True], ids=["to the end", "with a stop string"])
    def test_at_every_split_point(self, engine, fields, stopping):
        asked = request(max_new_tokens=24, **fields)
        whole = answer(engine, asked, seed=99)
        if stopping:
            text = text_of(whole[8:])
            asked = request(max_new_tokens=24, **fields, stop=[text[5:8], text[2:4] + "no"])
            whole = answer(engine, asked, seed=99)
            assert whole[-1].finish_reason == "stop"
        for split in range(len(whole) + 1):
            resumed = engine.start(asked, engine.encode(asked), seed=99, resumed_ids=ids_of(whole[:split]))
            assert list(resumed) == whole[split:]
            assert (resumed.finish_reason, resumed.stop) == (whole[-1].finish_reason, whole[-1].stop)

    @without_chunks
    def test_prompt_and_resumed_tokens_are_prefilled_together(self, engine, forwards):
        asked = request(6, max_new_tokens=8)
        published = ids_of(answer(engine, asked))[:5]
        forwards.clear()
        answer(engine, asked, resumed_ids=published)
        assert forwards == [(1, 11), (1, 1), (1, 1)]

    def test_a_job_that_had_ended_computes_nothing(self, engine, forwards):
        asked = request(6, max_new_tokens=5)
        whole = answer(engine, asked)
        forwards.clear()
        resumed = engine.start(asked, engine.encode(asked), seed=0, resumed_ids=ids_of(whole))
        assert resumed.finish_reason == "length"
        assert (list(resumed), forwards, resumed.prefill_ms) == ([], [], None)

    @pytest.mark.parametrize("resumed_ids", [[1, 2, 3, 4], [1, VOCAB_SIZE], [-1]])
    def test_tokens_that_cannot_be_this_jobs_are_refused(self, engine, resumed_ids):
        with pytest.raises(EngineError, match="earlier attempt"):
            answer(engine, request(max_new_tokens=3), resumed_ids=resumed_ids)


class TestAfterTrouble:
    """Whatever became of a job, the next one is exact."""

    def test_after_a_cancelled_job(self, engine):
        expected = answer(engine, request(9, max_new_tokens=12))
        generation = engine.start(asked := request(30, max_new_tokens=50), engine.encode(asked), seed=0)
        for _ in range(7):
            next(generation)
        generation.close()
        assert answer(engine, request(9, max_new_tokens=12)) == expected

    def test_a_job_dropped_without_close_takes_nothing_from_the_next(self, engine):
        expected = answer(engine, request(9, max_new_tokens=12))
        dropped = engine.start(asked := request(30, max_new_tokens=50), engine.encode(asked), seed=0)
        next(dropped)
        following = engine.start(asked := request(9, max_new_tokens=12), engine.encode(asked), seed=0)
        steps = [next(following) for _ in range(5)]
        del dropped
        gc.collect()
        assert steps + list(following) == expected

    def test_two_at_once_are_refused_not_mixed_up(self, engine):
        expected = answer(engine, request(9, max_new_tokens=12))
        first = engine.start(asked := request(30, max_new_tokens=50), engine.encode(asked), seed=0)
        next(first)
        second = engine.start(asked := request(9, max_new_tokens=12), engine.encode(asked), seed=0)
        steps = [next(second)]
        with pytest.raises(EngineError, match="one at a time"):
            next(first)
        assert steps + list(second) == expected

    @pytest.mark.parametrize(("phase", "tokens"), [("prefill", 30), ("decode", 31)])
    def test_after_running_out_of_memory(self, phase, tokens, engine, model, monkeypatch):
        """A real failure of the allocator, in the second layer, when the cache holds keys of the first."""
        expected = answer(engine, request(9, max_new_tokens=12))
        generation = engine.start(asked := request(30, max_new_tokens=50), engine.encode(asked), seed=0)
        if phase == "decode":
            next(generation)
        with monkeypatch.context() as patched:
            run_out_of_memory(patched, model)
            with pytest.raises(OutOfMemory, match=f"{tokens} tokens: shorten the prompt"):
                next(generation)
        assert engine.path.length == 0
        assert list(generation) == []
        assert answer(engine, request(9, max_new_tokens=12)) == expected

    @pytest.mark.parametrize("fields", [{}, {"temperature": 1.0, "top_k": 5, "top_p": 0.9, "min_p": 0.1}])
    @pytest.mark.parametrize("poison", [math.nan, math.inf])
    def test_after_logits_that_are_no_numbers(self, poison, fields, tokenizer, kind):
        model = random_model()
        engine = engine_for(model, tokenizer, kind)
        expected = answer(engine, request(9, max_new_tokens=12, **fields))
        sound = model.lm_head.weight[17].clone()
        model.lm_head.weight.data[17] = poison
        with pytest.raises(EngineError, match="NaN or infinity at token 9"):
            answer(engine, request(9, max_new_tokens=12, **fields))
        model.lm_head.weight.data[17] = sound
        assert answer(engine, request(9, max_new_tokens=12, **fields)) == expected

    @pytest.mark.parametrize("kind", ["dynamic"])
    def test_a_growing_cache_is_given_back(self, engine):
        answer(engine, request(9, max_new_tokens=12))
        assert engine.path.length == 0


class TestLogprobs:
    def test_are_those_of_the_raw_logits(self, engine, model):
        asked = request(max_new_tokens=6, logprobs=4, repetition_penalty=1.5, temperature=1.3, top_k=50)
        steps = answer(engine, asked)
        ids = torch.tensor([[*asked.prompt_token_ids, *ids_of(steps)]])
        with torch.inference_mode():
            expected = model(ids).logits[0, 7:-1].log_softmax(-1)
        for step, row in zip(steps, expected, strict=True):
            assert step.logprob.logprob == pytest.approx(row[step.token_id].item(), abs=1e-4)
            best = row.topk(4)
            assert [token_id for token_id, _ in step.logprob.top] == best.indices.tolist()
            assert [value for _, value in step.logprob.top] == pytest.approx(best.values.tolist(), abs=1e-4)

    def test_zero_gives_the_chosen_tokens_alone(self, engine):
        step = answer(engine, request(max_new_tokens=1, logprobs=0))[0]
        assert step.logprob.top == ()
        assert step.logprob.logprob < 0

    def test_none_by_default(self, engine):
        assert answer(engine, request(max_new_tokens=1))[0].logprob is None


class TestBadInput:
    def test_a_prompt_that_fills_the_context(self, engine):
        with pytest.raises(PromptTooLong, match=r"128 tokens.*holds 128"):
            engine.encode(request(128))

    def test_a_long_text_is_refused_unread(self, engine, monkeypatch):
        def not_to_be_called(*_args, **_kwargs):
            raise AssertionError("the text was tokenized")

        monkeypatch.setattr(Tokenizer, "encode", not_to_be_called)
        with pytest.raises(PromptTooLong, match=r"4000000 characters.*128 of the model's context"):
            engine.encode(GenerationRequest(prompt="x" * 4_000_000))

    def test_max_new_tokens_beyond_the_context(self, engine):
        with pytest.raises(InvalidRequest, match="Set max_new_tokens to 28 or less"):
            engine.encode(request(100, max_new_tokens=29))
        assert len(answer(engine, request(100, max_new_tokens=28))) == 28

    def test_max_new_tokens_defaults_to_what_fits(self, engine, tokenizer, kind):
        assert len(answer(engine, request(120))) == 8
        assert len(answer(engine_for(random_model(context_length=400), tokenizer, kind), request(10))) == 256

    def test_min_new_tokens_above_the_default_maximum(self, engine):
        with pytest.raises(InvalidRequest, match="min_new_tokens 30 is above max_new_tokens, which is 28"):
            engine.encode(request(100, min_new_tokens=30))

    def test_ids_outside_the_vocabulary(self, engine):
        with pytest.raises(InvalidRequest, match=r"token id 800 .* 800 ids"):
            engine.encode(request([1, VOCAB_SIZE, 2]))
        with pytest.raises(InvalidRequest, match=f"token id {10**30}"):
            engine.encode(request([10**30]))

    def test_text_whose_ids_are_outside_the_vocabulary(self, tokenizer, kind):
        engine = engine_for(random_model(vocab_size=300), tokenizer, kind)
        with pytest.raises(InvalidRequest, match="which has 300 ids"):
            engine.encode(GenerationRequest(prompt="什么是预填充？"))

    def test_a_lone_surrogate(self, engine):
        with pytest.raises(InvalidRequest, match="lone surrogate"):
            engine.encode(GenerationRequest.model_construct(prompt="half \ud83d"))

    def test_an_empty_prompt(self, engine):
        with pytest.raises(InvalidRequest, match="no tokens"):
            engine.encode(GenerationRequest.model_construct(prompt=""))

    def test_messages_go_through_the_chat_template(self, engine, tokenizer):
        asked = GenerationRequest(messages=[{"role": "user", "content": "hi"}])
        assert tokenizer.decode(engine.encode(asked), skip_special_tokens=False) == (
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        )


class TestEosOfTheModel:
    def test_generation_config_then_config_then_tokenizer(self, tokenizer, kind):
        model = random_model(eos_token_id=7)
        model.generation_config.eos_token_id = [5, 6]
        assert engine_for(model, tokenizer, kind).eos_token_ids == {5, 6}
        model.generation_config.eos_token_id = None
        assert engine_for(model, tokenizer, kind).eos_token_ids == {7}
        model.config.eos_token_id = None
        assert engine_for(model, tokenizer, kind).eos_token_ids == {tokenizer.eos_token_id}
