"""`engine.deterministic`: with any weights, to the last bit, what was before an answer changes nothing in it.

Logprobs are compared as they are, and so are keys and values: two bits that differ need not change a token.
"""

import random
import warnings
from itertools import islice

import pytest
import torch

from producer.contract import GenerationRequest
from tests.models import CPU, random_model
from tests.small import small_and_plain
from worker.engine import Engine, EngineOptions, Tokenizer
from worker.engine.forward.choice import choose_path, prepare
from worker.errors import ConfigError

from .asking import answer, ids_of, random_ids, request, start

CHUNK = 8
BASE = random_ids(90, seed=1)
OTHER = random_ids(40, seed=2)
ANSWERS = {"static": 6, "dynamic": 3}


def model_of(weights: str, dtype: torch.dtype):
    if weights == "float":
        return random_model(context_length=256).to(dtype)
    return small_and_plain(weights, dtype=dtype, context_length=256)[0]


@pytest.fixture(scope="module")
def model():
    return model_of("float", torch.bfloat16)


def engine_of(model, tokenizer: Tokenizer, path: str, *, deterministic: bool = True, **options) -> Engine:
    settings = {"path": path, "prefill_chunk": CHUNK, "deterministic": deterministic, **options}
    return Engine(model, tokenizer, CPU, EngineOptions(**settings))


def asked_of(number: int) -> GenerationRequest:
    """One of many that begin alike; every other one with logprobs, the rest with drafts of a text that repeats."""
    choose = random.Random(number)
    ids = [*BASE[: choose.randrange(1, 80)], *BASE[: choose.randrange(20)]]
    fields = {"logprobs": 2} if number % 2 else {"prompt_lookup": True}
    return request(ids, max_new_tokens=16, temperature=choose.choice([0.0, 1.0]), **fields)


def read_by(engine: Engine) -> tuple[torch.Tensor, ...]:
    """Keys and values of what is in the cache."""
    if engine.path.name == "dynamic":  # which keeps nothing once an answer is over
        return ()
    cache = engine.path.cache
    return cache.keys[:, :, : cache.length].clone(), cache.values[:, :, : cache.length].clone()


def disturbed(engine: Engine, asked: GenerationRequest, number: int, length: int):
    """The same answer, stopped once, among neighbours; and how much of it was known."""
    choose = random.Random(-number)
    for _ in range(2):
        with_this_beginning = request([*asked.prompt_token_ids[: choose.randrange(2, 90)], 7], max_new_tokens=9)
        neighbour = start(engine, with_this_beginning)
        list(islice(neighbour, choose.randrange(6)))
        neighbour.close()
    first = start(engine, asked, seed=number)
    steps = list(islice(first, choose.randrange(length)))
    first.close()
    if number % 3 == 0:
        first.park(number)
        engine.keep_parked([number])
        answer(engine, request(OTHER, max_new_tokens=3))
    if number % 3 == 1:
        engine.abandon(engine.sequence)
    rest = start(engine, asked, seed=number, resumed_ids=ids_of(steps))
    return [*steps, *rest], first.cached_tokens + rest.cached_tokens


def differing(model, tokenizer: Tokenizer, path: str, *, deterministic: bool) -> tuple[int, int]:
    """Of some answers how many; and how many tokens were known from before."""
    fresh = engine_of(
        model, tokenizer, path, deterministic=deterministic, prefix_cache_bytes=0, prompt_lookup=False
    )
    engine = engine_of(model, tokenizer, path, deterministic=deterministic)
    return compared(fresh, engine, ANSWERS[path])


def compared(fresh: Engine, engine: Engine, answers: int) -> tuple[int, int]:
    """As `differing`.  fresh: undisturbed, as it knows no beginnings; `engine` is disturbed."""
    count = known = 0
    for number in range(answers):
        asked = asked_of(number)
        undisturbed = answer(fresh, asked.model_copy(update={"prompt_lookup": False}), seed=number)
        expected = read_by(fresh)
        steps, cached = disturbed(engine, asked, number, len(undisturbed))
        known += cached
        found = read_by(engine)
        equal = all(torch.equal(some, others) for some, others in zip(found, expected, strict=True))
        count += steps != undisturbed or not equal
    return count, known


@pytest.mark.parametrize("path", ["static", "dynamic"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("weights", ["float", "int8", "int4"])
def test_nothing_that_was_before_changes_a_bit(path, dtype, weights, tokenizer):
    count, known = differing(model_of(weights, dtype), tokenizer, path, deterministic=True)
    assert count == 0
    assert (known > 50) == (path == "static"), "beginnings that are known are used"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float32, marks=pytest.mark.matrix)])
@pytest.mark.parametrize(
    "weights", ["int4", *(pytest.param(w, marks=pytest.mark.matrix) for w in ("int8", "float"))]
)
def test_nor_does_it_where_steps_are_compiled(dtype, weights, tokenizer):
    """Both engines are at work in turn, so that neither has the compiler's latest."""
    model = model_of(weights, dtype)
    engines = [
        engine_of(model, tokenizer, "static", compile="always", **options)
        for options in ({"prefix_cache_bytes": 0}, {})
    ]
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of torch, by torch
        torch._dynamo.reset()  # its limit of compilations is for all engines of a process
        for engine in engines:
            engine.warm_up()
            assert engine.path.compiled, engine.why
    count, known = compared(*engines, 12)
    assert count == 0
    assert known > 50


def test_which_it_does_in_the_usual_mode(model, tokenizer):
    """So that the test above can fail."""
    assert differing(model, tokenizer, "static", deterministic=False)[0] > 0


def passes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each pass reads."""
    lengths: list[int] = []
    read, decode = engine.path.read, engine.path.decode
    monkeypatch.setattr(engine.path, "read", lambda ids, **rows: lengths.append(ids.shape[1]) or read(ids, **rows))
    monkeypatch.setattr(engine.path, "decode", lambda token: lengths.append(1) or decode(token))
    return lengths


class TestHowItReads:
    @pytest.fixture(params=["static", "dynamic"])
    def engine(self, request: pytest.FixtureRequest, model, tokenizer: Tokenizer) -> Engine:
        return engine_of(model, tokenizer, request.param)

    def test_the_prompt_in_chunks_and_the_output_step_by_step(self, engine, monkeypatch):
        asked = request(OTHER[:19], max_new_tokens=12)
        whole = ids_of(answer(engine, asked))
        engine.abandon(engine.sequence)
        lengths = passes(engine, monkeypatch)
        assert ids_of(answer(engine, asked, resumed_ids=whole[:10])) == whole[10:]
        read = [length for length in lengths if length > 1]
        assert read == [CHUNK, CHUNK, 3]

    def test_one_may_stop_between_two_of_them(self, engine):
        asked = request(OTHER[:19], max_new_tokens=12)
        whole = ids_of(answer(engine, asked))
        engine.abandon(engine.sequence)
        generation = start(engine, asked, resumed_ids=whole[:4])
        assert list(generation.prefill()) == [8, 16, 19, 20, 21, 22]

    def test_without_drafts(self, engine):
        assert not engine.takes_drafts
        assert start(engine, request(OTHER, prompt_lookup=True))._tokens.lookup is None

    def test_forced_tokens_one_by_one(self, engine, monkeypatch):
        fields = {"grammar": {"type": "regex", "regex": "[ab]and so on and on[ab]"}}
        asked = GenerationRequest.parse({"prompt": "a", "max_new_tokens": 40, **fields})
        lengths = passes(engine, monkeypatch)
        steps = answer(engine, asked)
        assert any(step.has_next for step in steps), "nothing was forced"
        assert max(lengths[1:]) == 1


class TestKnownBeginnings:
    @pytest.fixture
    def engine(self, model, tokenizer: Tokenizer) -> Engine:
        return engine_of(model, tokenizer, "static")

    def test_end_where_a_chunk_does(self, engine):
        answer(engine, request(BASE[:30], max_new_tokens=3))
        second = start(engine, request([*BASE[:21], 5, 6, 7], max_new_tokens=3))
        next(second)
        assert second.cached_tokens == 2 * CHUNK

    def test_hold_nothing_of_an_answer(self, engine):
        asked = request(BASE[:20], max_new_tokens=30)
        whole = ids_of(answer(engine, asked))
        chat_goes_on = start(engine, request([*BASE[:20], *whole, 5], max_new_tokens=3))
        next(chat_goes_on)
        assert chat_goes_on.cached_tokens == 2 * CHUNK

    def test_but_of_the_same_one(self, engine):
        asked = request(BASE[:20], max_new_tokens=30)
        whole = ids_of(answer(engine, asked))
        resumed = start(engine, asked, resumed_ids=whole[:28])
        assert list(resumed.prefill()) == [], "all but its last token is there"
        assert ids_of(list(resumed)) == whole[28:]


class TestRefused:
    def test_what_could_not_be_compiled(self, model):
        options = EngineOptions(path="static", compile="always", deterministic=True)
        path, _ = choose_path(model, CPU, options, 64, ranges=False)
        path.compile = lambda **_: (_ for _ in ()).throw(RuntimeError("No working C++ compiler"))
        with (
            warnings.catch_warnings(action="ignore"),
            pytest.raises(ConfigError, match=r"install g\+\+.*engine.compile: never"),
        ):
            prepare(path, options, 10**9, lambda *_: None)

    def test_transformers_own_path_on_a_gpu(self, model):
        options = EngineOptions(path="dynamic", deterministic=True)
        with pytest.raises(ConfigError, match="needs the static path on a GPU, and path is set to dynamic"):
            choose_path(model, torch.device("cuda"), options, 64, ranges=True)
