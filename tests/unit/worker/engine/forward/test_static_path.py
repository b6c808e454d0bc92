"""The static path against a fresh engine on the dynamic one: exact, whatever the cache has been through."""

import itertools
import math
import random
import shutil
import warnings

import pytest
import torch
from torch._dynamo.utils import counters

from producer.contract import EngineError, OutOfMemory
from tests.models import CPU, random_model
from worker.engine import Engine, EngineOptions, Tokenizer
from worker.engine.forward import decoder
from worker.engine.forward.cpu import library, products
from worker.engine.forward.static_path import StaticPath

from ..asking import ForwardClock, Reference, answer, ids_of, random_ids, request, start, text_of

CHUNK = 8
CONTEXT = 96

KINDS = {
    "without reuse": {"options": EngineOptions(path="static", prefill_chunk=CHUNK, prefix_cache_bytes=0)},
    "with reuse": {"options": EngineOptions(path="static", prefill_chunk=CHUNK)},
    "as on a GPU": {
        "options": EngineOptions(path="static", prefill_chunk=CHUNK), "ranges": True, "lookahead": 1
    },
    "deep lookahead": {
        "options": EngineOptions(path="static", prefill_chunk=CHUNK, prompt_lookup=False), "lookahead": 2
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return random_model(context_length=CONTEXT)


@pytest.fixture(scope="module")
def reference(model, tokenizer: Tokenizer) -> Reference:
    return Reference(model, tokenizer)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def engine(model, tokenizer: Tokenizer, kind: str) -> Engine:
    return Engine(model, tokenizer, CPU, **KINDS[kind])


def common(some: list[int], others: list[int]) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(some, others, strict=False)) if a != b), min(map(len, (some, others)))
    )


OTHER = random_ids(CONTEXT, seed=1)
FOLLOWING = {
    "the same again": lambda ids: ids,
    "a beginning of it": lambda ids: ids[: max(1, len(ids) // 2)],
    "an extension": lambda ids: [*ids, *OTHER][: CONTEXT - 1],
    "a divergence in the middle": lambda ids: [*ids[: len(ids) // 2], *OTHER[: CONTEXT // 2]],
    "nothing in common": lambda ids: OTHER[: len(ids)],
}


class TestPrefixes:
    @pytest.mark.parametrize("following", FOLLOWING.values(), ids=FOLLOWING)
    @pytest.mark.parametrize(
        "length", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 1, CONTEXT // 2, CONTEXT - 1]
    )
    def test_of_an_earlier_prompt(self, length, following, engine, kind, reference):
        first = request(random_ids(length), max_new_tokens=min(7, CONTEXT - length))
        steps = answer(engine, first)
        assert steps == reference(first)
        held = [*first.prompt_token_ids, *ids_of(steps)[:-1]]

        prompt = following(random_ids(length))
        second = request(prompt, max_new_tokens=min(12, CONTEXT - len(prompt)))
        steps = list(generation := start(engine, second))
        assert steps == reference(second)
        reused = 0 if kind == "without reuse" else min(common(held, prompt), len(prompt) - 1)
        assert generation.cached_tokens == reused


BASE = random_ids(40)
"""What the job in trouble and the next one have in common."""


def cancelled_at_once(engine, **_):
    start(engine, request(BASE, max_new_tokens=20)).close()
    return 0


def cancelled_in_prefill(engine, **_):
    generation = start(engine, request(BASE, max_new_tokens=20))
    assert list(itertools.islice(generation.prefill(), 2)) == [CHUNK, 2 * CHUNK]
    generation.close()
    assert list(generation) == []
    return 2 * CHUNK


def cancelled_in_decode(engine, **_):
    generation = start(engine, request(BASE, max_new_tokens=20))
    list(itertools.islice(generation, 7))
    generation.close()
    assert list(generation) == []
    return len(BASE)


def dropped(engine, **_):
    generation = start(engine, request(BASE, max_new_tokens=20))
    list(itertools.islice(generation, 7))
    return 0


def out_of_memory(engine, monkeypatch, **_):
    """A real failure of the allocator in the second layer, when the cache holds keys of the first."""
    generation = start(engine, request(BASE, max_new_tokens=20))
    list(itertools.islice(generation, 3))
    mlp, calls = decoder._mlp, itertools.count()

    def fail(*args):
        return torch.empty(2**60, dtype=torch.int8) if next(calls) else mlp(*args)

    with monkeypatch.context() as patched:
        patched.setattr(decoder, "_mlp", fail)
        with pytest.raises(OutOfMemory):
            list(generation)
    generation.close()
    return 0


def not_a_number(engine, **_):
    """In an embedding, so that it reaches keys and values as well as the logits."""
    generation = start(engine, request(BASE, max_new_tokens=20))
    list(itertools.islice(generation, 3))
    embedding = engine._model.model.embed_tokens.weight.data
    sound = embedding.clone()
    embedding.fill_(math.nan)
    with pytest.raises(EngineError, match="NaN or infinity"):
        list(generation)
    generation.close()
    embedding.copy_(sound)
    return 0


def a_longer_job(engine, **_):
    answer(engine, request(random_ids(CONTEXT - 10, seed=2), max_new_tokens=10))
    return 0


def a_full_context(engine, **_):
    answer(engine, request(BASE, max_new_tokens=CONTEXT - len(BASE)))
    return len(BASE)


def a_resumed_job(engine, reference, **_):
    asked = request(BASE, max_new_tokens=20)
    whole = reference(asked)
    resumed = start(engine, asked, resumed_ids=ids_of(whole[:9]))
    assert list(resumed) == whole[9:]
    return len(BASE)


def a_refused_request(engine, **_):
    with pytest.raises(EngineError, match="earlier attempt"):
        start(engine, request(BASE, max_new_tokens=20), resumed_ids=[-1])
    return 0


TROUBLE = [
    cancelled_at_once, cancelled_in_prefill, cancelled_in_decode, dropped, out_of_memory, not_a_number,
    a_longer_job, a_full_context, a_resumed_job, a_refused_request,
]  # fmt: skip


class TestAfter:
    @pytest.mark.parametrize("trouble", TROUBLE, ids=lambda trouble: trouble.__name__)
    def test_the_next_jobs_are_exact(self, trouble, engine, kind, reference, monkeypatch):
        reused = trouble(engine=engine, reference=reference, monkeypatch=monkeypatch)
        asked = request([*BASE, *OTHER[:5]], max_new_tokens=20)
        steps = list(generation := start(engine, asked))
        assert steps == reference(asked)
        assert generation.cached_tokens == (0 if kind == "without reuse" else reused)
        assert answer(engine, asked) == reference(asked)

    @pytest.mark.parametrize("taken", range(1, 13))
    def test_a_cancelled_answer_is_reused_as_far_as_it_was_read(self, taken, engine, kind, reference):
        whole = ids_of(reference(request(BASE, max_new_tokens=20)))
        generation = start(engine, request(BASE, max_new_tokens=20))
        list(itertools.islice(generation, taken))
        generation.close()
        asked = request([*BASE, *whole[: taken - 1], *OTHER[:9]], max_new_tokens=12)
        steps = list(generation := start(engine, asked))
        assert steps == reference(asked)
        assert generation.cached_tokens == (0 if kind == "without reuse" else len(BASE) + taken - 1)

    def test_a_resumed_job_counts_only_the_prompt_as_cached(self, engine, kind, reference):
        asked = request(BASE, max_new_tokens=20)
        whole = answer(engine, asked)
        list(generation := start(engine, asked, resumed_ids=ids_of(whole[:9])))
        assert generation.cached_tokens == (0 if kind == "without reuse" else generation.prompt_tokens)


class TestTailOfTheCache:
    def test_large_numbers_there_change_nothing(self, engine, reference):
        asked = request([*BASE, *OTHER[:30]], max_new_tokens=26)
        for earlier in (BASE, OTHER[:20], [*BASE, *OTHER[:10]]):
            answer(engine, request(earlier, max_new_tokens=5))
            generation, steps = start(engine, asked), []
            self.poison(engine)
            for _ in generation.prefill():
                self.poison(engine)
            for step in generation:
                steps.append(step)
                self.poison(engine)
            assert steps == reference(asked)

    def poison(self, engine: Engine) -> None:
        cache = engine.path.cache
        cache.keys[:, :, cache.length :] = 1e30
        cache.values[:, :, cache.length :] = -1e30

    def test_a_job_that_overflowed_leaves_nothing_there(self, tokenizer: Tokenizer):
        """Behind a mask, zero times NaN is NaN: on a GPU, one job that overflowed failed every one after it."""
        model = random_model(context_length=CONTEXT)
        expected = answer(engine := Engine(model, tokenizer, CPU, **KINDS["as on a GPU"]), request(OTHER[:9]))
        sound = model.model.embed_tokens.weight[77].clone()
        model.model.embed_tokens.weight.data[77] = math.nan
        with pytest.raises(EngineError, match="NaN or infinity"):
            answer(engine, request([77] * 30))
        model.model.embed_tokens.weight.data[77] = sound
        assert answer(engine, request(OTHER[:9])) == expected

    def test_a_step_too_many_that_overflowed_leaves_nothing_there(self, tokenizer: Tokenizer):
        """Nobody sees the step that was launched after the eos, nor that its numbers overflowed."""
        free = answer(Engine(random_model(), tokenizer, CPU), request(OTHER[:9], max_new_tokens=12))
        model = random_model(eos_token_id=(eos := free[6].token_id))
        engine = Engine(model, tokenizer, CPU, **KINDS["as on a GPU"])
        model.model.embed_tokens.weight.data[eos] = math.nan
        for _ in range(2):
            assert answer(engine, request(OTHER[:9], max_new_tokens=12))[:6] == free[:6]


class TestLookahead:
    @pytest.fixture(params=[1, 2])
    def depth(self, request: pytest.FixtureRequest) -> int:
        return request.param

    @pytest.fixture
    def engine(self, model, tokenizer: Tokenizer, depth: int) -> Engine:
        options = EngineOptions(path="static", prefill_chunk=CHUNK, prompt_lookup=False)
        return Engine(model, tokenizer, CPU, options, lookahead=depth)

    def test_launches_steps_before_a_token_is_read_and_takes_them_back(self, engine, depth, reference):
        generation = start(engine, request(BASE, max_new_tokens=20))
        next(generation)
        for known in range(2, 10):
            next(generation)
            assert engine.path.length == len(BASE) + known - 1 + depth
        generation.close()
        assert engine.path.length == len(BASE) + 8
        asked = request([*BASE, *ids_of(reference(request(BASE, max_new_tokens=20)))], max_new_tokens=20)
        assert answer(engine, asked) == reference(asked)

    def test_launches_none_behind_the_last_token(self, engine, monkeypatch):
        clock = ForwardClock(engine, monkeypatch)
        for limit in (1, 2, 3, 8):
            clock.steps = 0
            assert len(answer(engine, request(OTHER[:20], max_new_tokens=limit, ignore_eos=True))) == limit
            assert clock.steps - (1 if limit > 1 else 0) <= limit - 1

    def test_wastes_no_more_than_its_depth_on_an_eos(self, engine, depth, monkeypatch, reference):
        asked = request(OTHER[:20], max_new_tokens=20)
        whole = ids_of(reference(asked))
        end = next(place for place in range(5, 15) if whole[place] not in whole[:place])
        engine.answers.eos_token_ids = frozenset([whole[end]])
        clock = ForwardClock(engine, monkeypatch)
        assert ids_of(answer(engine, asked)) == whole[: end + 1]
        assert clock.steps == end + depth
        assert engine.path.length == 20 + end
        following = request([*OTHER[:20], *whole[: end + 1], 5], max_new_tokens=20)
        engine.answers.eos_token_ids = frozenset()
        steps = list(generation := start(engine, following))
        assert generation.cached_tokens == 20 + end
        assert steps == reference(following)

    @pytest.mark.parametrize(
        "fields", [{}, {"repetition_penalty": 1.1}, {"frequency_penalty": 0.1}, {"temperature": 1.0, "top_k": 9}]
    )
    def test_a_step_that_gave_no_token_is_told_as_such(self, fields, tokenizer: Tokenizer, depth):
        """The step behind it was launched already, and looked its id up: -1, which is a fault of the device."""
        model = random_model(context_length=CONTEXT)
        options = EngineOptions(path="static", prompt_lookup=False)
        engine = Engine(model, tokenizer, CPU, options, lookahead=depth)
        expected = answer(engine, asked := request(BASE, max_new_tokens=20, **fields))
        sound = model.lm_head.weight[17].clone()
        generation = start(engine, asked)
        steps = [next(generation) for _ in range(5)]
        model.lm_head.weight.data[17] = math.nan
        with pytest.raises(EngineError, match="NaN or infinity at token 4"):
            steps.extend(generation)
        assert steps == expected[: len(steps)]
        model.lm_head.weight.data[17] = sound
        assert answer(engine, asked) == expected


SYSTEMS = [random_ids(40, seed=seed, vocab_size=40) for seed in range(3)]
ASKED = [
    {},
    {"temperature": 0.7},
    {"temperature": 0.9, "top_k": 20, "repetition_penalty": 1.1},
    {"presence_penalty": 0.4},
]


@pytest.fixture(scope="module")
def small_model():
    return random_model(vocab_size=40, context_length=128, seed=3)


class TestInterleaving:
    """Jobs with shared beginnings, cancelled anywhere, failing and resumed, on one engine that can park little."""

    @pytest.mark.parametrize("run", [0, 1, pytest.param(2, marks=pytest.mark.matrix)])
    def test_every_answer_is_that_of_a_fresh_engine(self, run, small_model, tokenizer, kind, monkeypatch):
        options = KINDS[kind]["options"].model_copy(
            update={} if kind == "without reuse" else {"prefix_cache_bytes": 120 * 512}
        )
        engine = Engine(small_model, tokenizer, CPU, **KINDS[kind] | {"options": options})
        reference = Reference(small_model, tokenizer)
        ForwardClock(engine, monkeypatch)
        choose = random.Random(run)
        reused = 0
        for number in range(24):
            asked, seed = self.job(choose), choose.randrange(2)
            fate = choose.choice(
                [self.finish, self.finish, self.cancel, self.cancel_in_prefill, self.fail, self.resume]
            )
            generation = fate(engine, asked, seed, reference=reference, choose=choose, monkeypatch=monkeypatch)
            assert generation.cached_tokens <= generation.prompt_tokens - (fate != self.resume), number
            assert engine._prefixes.parked_bytes <= options.prefix_cache_bytes
            reused += generation.cached_tokens
        assert reused > 100 or kind == "without reuse"

    def job(self, choose: random.Random):
        ids = choose.choice(SYSTEMS)[: choose.randint(20, 40)]
        for _ in range(choose.randrange(3)):
            ids = [*ids, *random_ids(9, seed=choose.randrange(2), vocab_size=40)]
        return request(ids, max_new_tokens=choose.randint(1, 24), **choose.choice(ASKED))

    def finish(self, engine, asked, seed, *, reference, **_):
        steps = list(generation := start(engine, asked, seed=seed))
        assert steps == reference(asked, seed=seed)
        return generation

    def cancel(self, engine, asked, seed, *, reference, choose, **_):
        generation = start(engine, asked, seed=seed)
        steps = list(itertools.islice(generation, choose.randrange(asked.max_new_tokens + 1)))
        generation.close()
        assert steps == reference(asked, seed=seed)[: len(steps)]
        assert text_of(steps) + generation.flush() == engine.tokenizer.decode(ids_of(steps))
        return generation

    def cancel_in_prefill(self, engine, asked, seed, *, choose, **_):
        generation = start(engine, asked, seed=seed)
        for _ in itertools.islice(generation.prefill(), choose.randrange(4)):
            pass
        generation.close()
        return generation

    def fail(self, engine, asked, seed, *, reference, choose, monkeypatch):
        generation = start(engine, asked, seed=seed)
        steps = list(itertools.islice(generation, choose.randrange(asked.max_new_tokens)))
        with monkeypatch.context() as patched:
            patched.setattr(decoder, "_mlp", lambda *_: torch.empty(2**60, dtype=torch.int8))
            try:
                steps += generation  # what was launched or drafted before may be enough
            except OutOfMemory:
                assert engine.path.length == 0
        generation.close()
        assert steps == reference(asked, seed=seed)[: len(steps)]
        return generation

    def resume(self, engine, asked, seed, *, reference, choose, **_):
        whole = reference(asked, seed=seed)
        split = choose.randrange(len(whole) + 1)
        steps = list(generation := start(engine, asked, seed=seed, resumed_ids=ids_of(whole[:split])))
        assert steps == whole[split:]
        return generation


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs g++")

LONG_CONTEXT = 600
"""Three ranges: 256, 512 and what is left."""


@pytest.fixture(scope="module", params=[False, True], ids=["to the end", "in ranges"])
def compiled(request: pytest.FixtureRequest, tokenizer: Tokenizer):
    """A warm engine with a compiled step, and the same one without."""
    torch._dynamo.reset()
    model = random_model(context_length=LONG_CONTEXT)
    engines = []
    for compile_ in ("always", "never"):
        options = EngineOptions(path="static", compile=compile_, prompt_lookup=False)
        engines.append(Engine(model, tokenizer, CPU, options, ranges=request.param))
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of torch, by torch
            engines[-1].warm_up()
    yield engines
    torch._dynamo.reset()


@pytest.mark.slow
@needs_compiler
class TestCompiled:
    def test_says_so(self, compiled):
        engine, eager = compiled
        assert (engine.path.compiled, engine.why) == (True, "")
        assert not eager.path.compiled

    def test_a_full_context_is_exact_and_compiles_nothing_more(self, compiled):
        """Steps used to be compiled in the job that came there first: at the first token alone, and in the
        second range and in the last."""
        engine, eager = compiled
        counters.clear()
        asked = request([5], max_new_tokens=LONG_CONTEXT - 1)
        assert answer(engine, asked) == answer(eager, asked)
        assert counters["stats"]["unique_graphs"] == 0

    def test_logits_are_those_of_the_eager_step(self, compiled):
        engine, eager = compiled
        for start_at in (1, 254, 510, LONG_CONTEXT - 5):  # the last token of an answer is not read
            ids = torch.tensor([random_ids(LONG_CONTEXT)])
            logits = []
            for path in (engine.path, eager.path):
                path.truncate(0)
                path.read(ids[:, :start_at])
                logits.append(
                    torch.cat([path.decode(ids[:, at : at + 1]) for at in range(start_at, start_at + 4)])
                )
                path.truncate(0)
            assert torch.allclose(*logits, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_without_a_compiler_the_step_runs_all_the_same(model, tokenizer: Tokenizer, reference, monkeypatch):
    torch._dynamo.reset()
    engine = Engine(model, tokenizer, CPU, EngineOptions(path="static", compile="always"))
    monkeypatch.setattr(products, "load", library.load.__wrapped__)  # which an earlier test has called
    with (
        warnings.catch_warnings(action="ignore", category=DeprecationWarning),  # of torch, by torch
        torch._inductor.utils.fresh_cache(),
        torch._inductor.config.patch({"cpp.cxx": (None, "/no/such/compiler"), "fx_graph_cache": False}),
    ):
        engine.warm_up()
    why = "there is no C++ compiler (install g++)"
    assert engine.why == f"not made of our kernels: {why}; not compiled: {why}"
    assert not engine.path.compiled
    asked = request(BASE, max_new_tokens=20)
    assert answer(engine, asked) == reference(asked)
    torch._dynamo.reset()


@pytest.mark.parametrize("ranges", [False, True])
def test_every_length_is_seen_to_its_end_and_little_beyond(ranges, tokenizer: Tokenizer):
    path = StaticPath(random_model(context_length=5000), 5000, CPU, ranges=ranges)
    for length in range(1, 5001):
        visible = path._visible(length)
        assert length <= visible <= 5000
        assert visible == length or (ranges and visible - length < max(256, length / 4 + 1))
