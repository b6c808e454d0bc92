"""A generation that makes way for others and goes on later is the one that was never interrupted."""

from contextlib import nullcontext
from dataclasses import replace

import pytest

from producer.contract import GenerationRequest, OutOfMemory
from tests.models import CPU, random_model
from tests.small import small_and_plain
from worker.engine import Engine, EngineOptions
from worker.engine.forward.host_copy import HostCopy

from .asking import answer, ids_of, random_ids, request, start, text_of

OPTIONS = {
    "kept": EngineOptions(path="static", prompt_lookup=False, prefill_chunk=7),
    "kept, without common beginnings": EngineOptions(path="static", prompt_lookup=False, prefix_cache_bytes=0),
    "read again": EngineOptions(path="static", prompt_lookup=False, prefix_cache_bytes=0, parked_cache_bytes=0),
    "read again, on transformers' path": EngineOptions(path="dynamic", prompt_lookup=False),
}
IDS = random_ids(40)
OTHERS = [random_ids(length, seed=9) for length in (60, 35)]


@pytest.fixture
def model(request):
    """Of float32, where a test does not ask for others."""
    weights = getattr(request, "param", "float32")
    return random_model() if weights == "float32" else small_and_plain(weights)[0]


FORMS = pytest.mark.parametrize("model", ["float32", "int8", "int4"], indirect=True)


@pytest.fixture(params=OPTIONS)
def engine(request, model, tokenizer) -> Engine:
    return Engine(model, tokenizer, CPU, OPTIONS[request.param])


@pytest.fixture
def read(engine, monkeypatch) -> list[int]:
    """How many tokens each prefill has read."""
    lengths: list[int] = []
    prefill = engine.prefill

    def noted(ids, *, rows: int = 1):
        lengths.append(ids.shape[1])
        return prefill(ids, rows=rows)

    monkeypatch.setattr(engine, "prefill", noted)
    return lengths


def make_way(engine: Engine, generation, run: int) -> None:
    """It lets go of the engine, and others have it."""
    generation.close()
    generation.park(run)
    for ids in OTHERS:
        engine.keep_parked([run])
        answer(engine, request(ids, max_new_tokens=5), seed=run)
    engine.keep_parked([run])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.9, "repetition_penalty": 1.3, "frequency_penalty": 0.4, "logprobs": 2},
        {"stop": ["never to be seen"], "temperature": 1.0},
    ],
    ids=["greedy", "sampled, with penalties", "with a stop string"],
)
@FORMS
def test_at_every_token(engine, read, fields):
    asked = request(IDS, max_new_tokens=10, **fields)
    whole = answer(engine, asked, seed=5)
    steps = []
    for run in range(1, 11):
        generation = start(engine, asked, seed=5, resumed_ids=ids_of(steps))
        read.clear()
        steps.append(next(generation))
        if (
            engine.options.parked_cache_bytes
            and engine.path.rolls_back
            and run > 1
            and engine.path.name == "static"
        ):
            assert read == [1], "all but the last token was kept"
        make_way(engine, generation, run)
    assert [replace(step, logprob=None) for step in steps] == [replace(step, logprob=None) for step in whole]
    for step, expected in zip(steps, whole, strict=True):
        assert (step.logprob is None) == (expected.logprob is None)
        if step.logprob and expected.logprob:
            assert step.logprob.logprob == pytest.approx(expected.logprob.logprob, abs=1e-4)
    assert steps[-1].finish_reason == "length"


@FORMS
def test_at_every_piece_of_its_prompt(model, tokenizer):
    options = EngineOptions(path="static", prefill_chunk=33, prefix_cache_bytes=0)
    engine, undisturbed = (Engine(model, tokenizer, CPU, options) for _ in range(2))
    asked = request(random_ids(110), max_new_tokens=6)
    known = []
    for run in range(1, 4):
        generation = start(engine, asked)
        next(generation.prefill())
        known.append(generation.cached_tokens)
        assert generation.prefill_ms is None
        make_way(engine, generation, run)
        assert generation.prefill_ms > 0
    assert known == [0, 33, 66]
    assert answer(engine, asked) == answer(undisturbed, asked)


def test_what_is_held_back_is_there_to_be_handed_over_and_comes_again_where_it_goes_on(engine):
    whole = answer(engine, request(IDS, max_new_tokens=12))
    text = text_of(whole)
    asked = request(IDS, max_new_tokens=12, stop=[text[-4:-1] + "#"])
    steps = answer(engine, asked)
    assert text_of(steps) == text
    at = next(
        place for place, step in enumerate(steps) if text_of(steps[: place + 1]) != text_of(whole[: place + 1])
    )
    generation = start(engine, asked)
    before = [next(generation) for _ in range(at + 1)]
    make_way(engine, generation, 1)
    assert text_of(before) + generation.flush() == text_of(whole[: at + 1])
    after = answer(engine, asked, resumed_ids=ids_of(before))
    assert text_of(before) + text_of(after) == text


class TestAnErrorInTheMidstOfACopy:
    """Whatever of it has been done: later answers are right, also that of the job that was parked."""

    @pytest.fixture(params=["copied out", "copied back"])
    def way(self, request) -> str:
        return request.param

    def disturb(
        self, engine: Engine, way: str, error: Exception, monkeypatch
    ) -> tuple[GenerationRequest, list[int]]:
        """A job makes way, and the third row of its keys cannot be copied.  Returns it, and what it has given."""
        asked = request(IDS, max_new_tokens=10)
        generation = start(engine, asked)
        given = [next(generation).token_id for _ in range(4)]
        generation.close()
        generation.park(1)
        if way == "copied back":
            answer(engine, request(OTHERS[0], max_new_tokens=5))
        name, rows = ("take" if way == "copied out" else "give"), []
        copy = getattr(HostCopy, name)

        def broken(self: HostCopy, *args) -> None:
            rows.append(args)
            if len(rows) == 3:
                raise error
            copy(self, *args)

        with monkeypatch.context() as patched:
            patched.setattr(HostCopy, name, broken)
            engine.keep_parked([1])
            if way == "copied out":
                following, resumed = request(OTHERS[0], max_new_tokens=5), []
            else:
                following, resumed = asked, given
            with self.outcome(way, error):
                answer(engine, following, resumed_ids=resumed)
        assert len(rows) >= 3
        return asked, given

    def outcome(self, way: str, error: Exception):
        """No job fails for what would have made another one faster."""
        if not isinstance(error, MemoryError):
            return pytest.raises(RuntimeError)
        return nullcontext() if way == "copied out" else pytest.raises(OutOfMemory)

    @pytest.mark.parametrize("error", [RuntimeError("of any kind"), MemoryError()], ids=["error", "no memory"])
    def test_leaves_the_engine_as_ready_as_before(self, way, error, tokenizer, monkeypatch):
        engine, undisturbed = (
            Engine(random_model(), tokenizer, CPU, OPTIONS[kind]) for kind in ("kept", "read again")
        )
        asked, given = self.disturb(engine, way, error, monkeypatch)
        engine.keep_parked([1])
        for ids in (OTHERS[1], OTHERS[0], [*OTHERS[0], 5]):
            job = request(ids, max_new_tokens=8)
            assert answer(engine, job) == answer(undisturbed, job)
        assert answer(engine, asked, resumed_ids=given) == answer(undisturbed, asked)[len(given) :]


def test_what_was_parked_for_a_job_that_is_cancelled_is_anybodys(tokenizer):
    engine = Engine(random_model(), tokenizer, CPU, OPTIONS["kept"])
    generation = start(engine, request(IDS, max_new_tokens=10))
    next(generation)
    make_way(engine, generation, 1)
    engine.keep_parked([])
    following = start(engine, request([*IDS, 5, 6], max_new_tokens=3))
    next(following)
    assert following.cached_tokens == len(IDS)
    following.close()
    assert engine._prefixes.parked_bytes <= engine.options.prefix_cache_bytes
