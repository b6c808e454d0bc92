"""Drafts change how fast a text comes and nothing else, no token, no character, no end; and they limit themselves.

Time is made of forward passes here (`ForwardClock`), so that no outcome hangs on a busy machine. A random model of
16 tokens repeats itself often, and never for long: its drafts are accepted whole, in part, and not at all.
"""

import itertools
import math

import pytest
import torch
from torch.nn import functional
from transformers import Qwen2ForCausalLM

from producer.contract import EngineError, OutOfMemory
from tests.models import CPU, random_model
from worker.engine import Engine, EngineOptions, Tokenizer
from worker.engine.reuse.prompt_lookup import (
    GRANTED_SHARE,
    LONG_DRAFT,
    MAX_TRIALS,
    NGRAM,
    SHORT_DRAFT,
    PromptLookup,
    SpeculationCost,
)

from ..asking import ForwardClock, Reference, answer, ids_of, random_ids, request, start, text_of

VOCAB_SIZE = 16
PROMPT = random_ids(20, vocab_size=VOCAB_SIZE)


class TestCost:
    def test_is_learned_smoothly(self):
        cost = SpeculationCost()
        assert cost.step_s is None
        cost.note_step(1.0)
        assert cost.step_s == 1.0
        cost.note_step(2.0)
        assert cost.step_s == pytest.approx(1.2)

    def test_of_a_trial_is_what_it_takes_beyond_a_step(self):
        cost = SpeculationCost()
        cost.note_step(1.0)
        assert cost.trial_s(SHORT_DRAFT) == 1.0, "a check is taken for two steps until one was timed"
        cost.note_check(SHORT_DRAFT, 1.25)
        assert cost.trial_s(SHORT_DRAFT) == 0.25
        assert cost.trial_s(LONG_DRAFT) == 1.0
        cost.note_check(LONG_DRAFT, 0.5)
        assert cost.trial_s(LONG_DRAFT) == 0.0, "never a gain"


def lookup_of(ids, step_s: float | None = 1.0) -> PromptLookup:
    cost = SpeculationCost()
    if step_s is not None:
        cost.note_step(step_s)
    return PromptLookup(ids, cost)


class TestDraft:
    def test_is_what_followed_the_last_tokens_before(self):
        assert lookup_of([*range(20), 3, 4, 5]).draft(room=100) == [6, 7, 8, 9, 10, 11, 12]

    def test_is_taken_from_the_latest_of_several_places(self):
        ids = [1, 2, 3, *[8] * 10, 1, 2, 3, *[9] * 10, 1, 2, 3]
        assert lookup_of(ids).draft(room=100) == [9] * 7

    def test_of_a_text_that_goes_round_in_circles_goes_on_round(self):
        assert lookup_of([5, 6, 7, 5, 6, 7, 5, 6]).draft(room=100) == [7, 5, 6, 7, 5, 6, 7]
        assert lookup_of([4] * (NGRAM + 1)).draft(room=100) == [4] * 7

    @pytest.mark.parametrize("ids", [[], [1], [1, 2, 3], [1, 2, 3, 4, 2, 3, 1], list(range(50))])
    def test_needs_a_match(self, ids):
        assert lookup_of(ids).draft(room=100) == []

    def test_follows_what_is_pushed(self):
        lookup = lookup_of(range(20))
        for token_id in (3, 4, 5):
            assert lookup.draft(room=100) == []
            lookup.push(token_id)
        assert lookup.draft(room=100)[0] == 6

    def test_needs_to_know_what_a_step_takes(self):
        lookup = lookup_of([4] * 9, step_s=None)
        assert lookup.draft(room=100) == []
        lookup.note_step(1.0)
        assert lookup.draft(room=100)

    def test_is_no_longer_than_the_room_and_not_worth_it_below_a_short_one(self):
        lookup = lookup_of([4] * 9)
        assert len(lookup.draft(room=SHORT_DRAFT)) == SHORT_DRAFT
        assert lookup.draft(room=SHORT_DRAFT - 1) == []
        assert lookup.draft(room=0) == lookup.draft(room=-1) == []

    def test_is_long_after_one_that_was_accepted_whole(self):
        lookup = lookup_of([4] * 9)
        lookup.note_check(SHORT_DRAFT, accepted=SHORT_DRAFT, seconds=1.0)
        assert len(lookup.draft(room=100)) == LONG_DRAFT
        assert len(lookup.draft(room=LONG_DRAFT - 3)) == LONG_DRAFT - 3
        lookup.note_check(LONG_DRAFT, accepted=LONG_DRAFT - 1, seconds=1.0)
        assert len(lookup.draft(room=100)) == SHORT_DRAFT


def refused_drafts(lookup: PromptLookup, tokens: int, check_s: float) -> int:
    """How many drafts are made for a text on which none is ever right, and that repeats itself all the same."""
    refused = made = 0
    while made < tokens:
        made += 1
        if draft := lookup.draft(room=1000):
            refused += 1
            lookup.note_check(len(draft), accepted=0, seconds=check_s)
        else:
            lookup.note_step(1.0)
    return refused


class TestCredit:
    @pytest.mark.parametrize("check_s", [1.1, 1.5, 2.0, 6.0])
    def test_of_a_text_without_repetition_loses_the_granted_share_and_one_trial(self, check_s):
        refused = refused_drafts(lookup_of([4] * 9), tokens=2000, check_s=check_s)
        lost_s = refused * (check_s - 1.0)
        assert refused > 1, "it tries again"
        # What a trial costs is learned, and so the first one may have been let through too cheaply.
        assert lost_s <= GRANTED_SHARE * 2000 + 2 * (check_s - 1.0)

    def test_that_was_saved_up_is_spent_within_a_few_trials(self):
        lookup = lookup_of([4] * 9)
        for _ in range(100):
            draft = lookup.draft(room=1000)
            lookup.note_check(len(draft), accepted=len(draft), seconds=2.0)
        assert refused_drafts(lookup, tokens=50, check_s=2.0) <= MAX_TRIALS + 2

    def test_is_earned_by_drafts_that_are_right_often_enough(self):
        lookup = lookup_of([4] * 9)
        for _ in range(100):
            draft = lookup.draft(room=1000)
            assert draft
            lookup.note_check(len(draft), accepted=2, seconds=1.5)

    def test_is_not_locked_when_a_long_check_seemed_to_cost_nothing(self):
        """Credit was capped by what a long draft costs. Measured once as no more than a step, that was zero, and
        no short draft could ever be paid for again."""
        lookup = lookup_of([4] * 9)
        lookup.note_check(SHORT_DRAFT, accepted=SHORT_DRAFT, seconds=1.5)
        lookup.note_check(LONG_DRAFT, accepted=0, seconds=0.99)
        while lookup.draft(room=1000):
            lookup.note_check(SHORT_DRAFT, accepted=0, seconds=1.5)
        for _ in range(200):
            lookup.note_step(1.0)
        assert lookup.draft(room=1000)

    def test_outlives_a_noisy_clock_where_a_check_costs_no_more_than_a_step(self):
        """On a GPU that waits for its memory, a draft is nearly free, and what is measured as its cost is noise.
        Credit was capped by that, so that a text that repeats itself lost its drafts for good."""
        lookup, noise = lookup_of([4] * 9), itertools.cycle([0.9, 1.1, 1.0])
        drafts = 0
        for _ in range(300):
            if draft := lookup.draft(room=1000):
                drafts += 1
                lookup.note_check(len(draft), accepted=len(draft) // 2, seconds=next(noise))
            else:
                lookup.note_step(next(noise))
            lookup.note_step(next(noise))
        assert drafts > 290

    def test_of_a_new_job_is_one_trial(self):
        cost = SpeculationCost()
        cost.note_step(1.0)
        for _ in range(5):
            assert refused_drafts(PromptLookup([4] * 9, cost), tokens=20, check_s=3.0) <= 2


FIELDS = {
    "greedy": {},
    "sampled": {"temperature": 0.5},
    "cut off": {"temperature": 0.5, "top_k": 12, "top_p": 0.97},
    "penalties": {"repetition_penalty": 1.02, "presence_penalty": 0.05, "frequency_penalty": 0.01},
    "everything": {
        "temperature": 0.4, "top_k": 12, "top_p": 0.97, "min_p": 0.01, "repetition_penalty": 1.01,
        "presence_penalty": 0.05, "frequency_penalty": 0.01, "min_new_tokens": 40,
    },
}  # fmt: skip

PATHS = {
    "static": {"options": EngineOptions(path="static")},
    "dynamic": {"options": EngineOptions(path="dynamic")},
    "static as on a GPU": {"options": EngineOptions(path="static"), "ranges": True, "lookahead": 1},
    "deep lookahead": {"options": EngineOptions(path="static", prefill_chunk=7), "lookahead": 2},
}


everywhere = pytest.mark.parametrize(
    ("engine", "fields"),
    [
        pytest.param(
            path,
            fields,
            id=f"{path}-{name}",
            marks=[] if path == "static" or name in ("greedy", "everything") else pytest.mark.matrix,
        )
        for path in PATHS
        for name, fields in FIELDS.items()
    ],
    indirect=["engine"],
)
"""Every path with no field and with all of them, and one path with each: the others are in the whole matrix."""


@pytest.fixture(scope="module")
def model():
    return random_model(vocab_size=VOCAB_SIZE, seed=6, context_length=256)


@pytest.fixture(scope="module")
def reference(model, tokenizer: Tokenizer) -> Reference:
    return Reference(model, tokenizer)


@pytest.fixture(params=PATHS)
def engine(request: pytest.FixtureRequest, model, tokenizer: Tokenizer) -> Engine:
    return Engine(model, tokenizer, CPU, **PATHS[request.param])


@pytest.fixture
def clock(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> ForwardClock:
    return ForwardClock(engine, monkeypatch)


def resting_places(engine: Engine, asked, clock: ForwardClock, *, seed: int = 0) -> list[int]:
    """The tokens behind which a draft had more: the next one came without any time in between."""
    times_s = [clock.now_s for _ in start(engine, asked, seed=seed)]
    return [place for place, (now_s, next_s) in enumerate(itertools.pairwise(times_s)) if now_s == next_s]


class TestSameText:
    @everywhere
    def test_with_and_without_drafts(self, engine, clock, reference, fields):
        asked = request(PROMPT, max_new_tokens=200, **fields)
        assert answer(engine, asked, seed=5) == reference(asked, seed=5)
        assert clock.drafts, "no draft was made, so that this says nothing"

    def test_on_a_full_context(self, engine, clock, reference):
        for length in range(200, 256, 11):
            asked = request(random_ids(length, vocab_size=VOCAB_SIZE), max_new_tokens=256 - length)
            assert answer(engine, asked) == reference(asked), length
        assert clock.drafts

    def test_with_a_limit_anywhere_in_a_draft(self, engine, clock, reference):
        whole = reference(request(PROMPT, max_new_tokens=60))
        answer(engine, request(PROMPT, max_new_tokens=60))
        for limit in range(20, 60, 3):
            steps = answer(engine, request(PROMPT, max_new_tokens=limit))
            assert ids_of(steps) == ids_of(whole)[:limit]
            assert [step.finish_reason for step in steps] == [None] * (limit - 1) + ["length"]
            assert engine.path.length in {0, len(PROMPT) + limit - 1}

    @everywhere
    def test_of_a_job_that_is_resumed(self, engine, clock, reference, fields):
        asked = request(PROMPT, max_new_tokens=100, **fields)
        whole = reference(asked, seed=3)
        for split in range(0, 100, 13):
            assert answer(engine, asked, seed=3, resumed_ids=ids_of(whole[:split])) == whole[split:]
        assert clock.drafts

    @everywhere
    def test_after_a_stop_in_the_middle_of_a_draft(self, engine, clock, reference, fields):
        """Invariant 2: what was published is the text of the ids that were published, and of no other."""
        stop = ["never to be seen"]
        asked = request(PROMPT, max_new_tokens=100, stop=stop, **fields)
        whole = reference(asked, seed=1)
        drafted = resting_places(engine, asked, clock, seed=1)
        assert drafted
        for place in drafted[:20:4]:
            generation = start(engine, asked, seed=1)
            steps = [next(generation) for _ in range(place + 1)]
            generation.close()
            assert steps == whole[: place + 1]
            assert text_of(steps) + generation.flush() == engine.tokenizer.decode(ids_of(steps))
            assert list(generation) == []
            # What the draft had brought beyond that is exact, and may serve the next job.
            following = request([*PROMPT, *ids_of(whole[: place + 4])], max_new_tokens=20)
            assert answer(engine, following) == reference(following)


def counting_model() -> Qwen2ForCausalLM:
    """After each token comes the next id, and 0 after the last: every draft is right, from the first on."""
    model = random_model(vocab_size=VOCAB_SIZE, context_length=256)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedding = functional.normalize(model.model.embed_tokens.weight)
        model.model.embed_tokens.weight.copy_(embedding)
        model.lm_head.weight.copy_(embedding.roll(1, 0))
    return model


class TestEndInADraft:
    """All that comes out of the prompt here comes out of a draft."""

    PROMPT = (*range(VOCAB_SIZE), 0, 1, 2)
    WHOLE = (*range(3, VOCAB_SIZE), *range(3))

    @pytest.fixture(params=PATHS)
    def engine(self, request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Engine:
        return Engine(counting_model(), tokenizer, CPU, **PATHS[request.param])

    @pytest.fixture
    def drafted(self, engine, clock):
        """The tokens of the answer that a draft had more behind."""
        answer(engine, request(self.PROMPT, max_new_tokens=16))  # from here on, the cost of a step is known
        places = resting_places(engine, request(self.PROMPT, max_new_tokens=16), clock)
        assert len(places) > 5
        return places

    def test_the_first_token_is_in_the_draft_after_it(self, engine, clock, drafted):
        """The token that prefill gives was not looked up, and so the first draft was always late by one."""
        clock.steps = 0
        clock.drafts.clear()
        steps = answer(engine, request(self.PROMPT, max_new_tokens=SHORT_DRAFT + 2))
        assert ids_of(steps) == list(self.WHOLE[: SHORT_DRAFT + 2])
        assert clock.drafts == [SHORT_DRAFT]
        assert clock.steps <= 1, "the prefill of one token, where the others are known, and no step besides"

    def test_by_eos(self, engine, drafted, monkeypatch):
        for place in drafted:
            eos = self.WHOLE[place]
            with monkeypatch.context() as patched:
                patched.setattr(engine.answers, "eos_token_ids", frozenset([eos]))
                steps = answer(engine, request(self.PROMPT, max_new_tokens=16))
            assert ids_of(steps) == list(self.WHOLE[: place + 1])
            assert steps[-1].finish_reason == "stop"
            assert text_of(steps) == engine.tokenizer.decode(ids_of(steps))
            assert ids_of(answer(engine, request(self.PROMPT, max_new_tokens=16))) == list(self.WHOLE)

    def test_by_a_stop_string(self, engine, drafted):
        whole = answer(engine, request(self.PROMPT, max_new_tokens=16))
        for place in drafted[1:]:
            stop = text_of(whole[place - 1 : place + 1])
            steps = answer(engine, request(self.PROMPT, max_new_tokens=16, stop=[stop]))
            assert ids_of(steps) == list(self.WHOLE[: place + 1])
            assert text_of(steps) == text_of(whole[: place - 1])
            assert (steps[-1].finish_reason, steps[-1].stop) == ("stop", stop)

    def test_by_its_last_token(self, engine, drafted):
        for place in drafted:
            steps = answer(engine, request(self.PROMPT, max_new_tokens=place + 1))
            assert ids_of(steps) == list(self.WHOLE[: place + 1])
            assert steps[-1].finish_reason == "length"

    def test_by_a_stop_of_the_job_while_text_is_held_back(self, engine, drafted):
        whole = answer(engine, request(self.PROMPT, max_new_tokens=16))
        for place in drafted:
            held = whole[place].text + "never to be seen"
            generation = start(engine, request(self.PROMPT, max_new_tokens=16, stop=[held]))
            steps = [next(generation) for _ in range(place + 1)]
            generation.close()
            assert text_of(steps) == text_of(whole[:place]), "the last character is held back"
            assert generation.flush() == whole[place].text
            assert list(generation) == []


class TestTrouble:
    def test_out_of_memory_in_the_check_of_a_draft(self, engine, clock, model, reference, monkeypatch):
        asked = request(PROMPT, max_new_tokens=100)
        generation = start(engine, asked)
        with monkeypatch.context() as patched:
            check = engine.path.read

            def fail(ids, *, rows=1):
                logits = check(ids, rows=rows)
                return logits if rows < 2 else torch.empty(2**60, dtype=torch.int8)

            patched.setattr(engine.path, "read", fail)
            with pytest.raises(OutOfMemory):
                list(generation)
        assert engine.path.length == 0
        assert answer(engine, asked) == reference(asked)

    def test_no_number_in_the_middle_of_a_draft(self, engine, clock, reference, monkeypatch):
        asked = request(PROMPT, max_new_tokens=100)
        with monkeypatch.context() as patched:
            check = engine.path.read

            def overflow(ids, *, rows=1):
                logits = check(ids, rows=rows).clone()
                return logits if rows < 2 else torch.full_like(logits, math.inf)

            patched.setattr(engine.path, "read", overflow)
            with pytest.raises(EngineError, match="NaN or infinity"):
                answer(engine, asked)
        assert engine.path.length == 0
        assert answer(engine, asked) == reference(asked)


class TestHowMany:
    def test_a_text_that_repeats_itself_takes_fewer_passes_than_tokens(self, engine, clock):
        answer(engine, request(PROMPT, max_new_tokens=200))
        passes = clock.steps + len(clock.drafts)
        assert passes < 0.85 * 200

    def test_no_draft_is_longer_than_what_may_still_come(self, engine, clock):
        drafted = 0
        for limit in range(1, 40, 2):
            answer(engine, request([1, 2, 3] * 20, max_new_tokens=limit))
            assert all(draft + 1 <= limit for draft in clock.drafts)
            drafted += len(clock.drafts)
            clock.drafts.clear()
        assert drafted > 5

    def test_refused_drafts_are_few(self, model, tokenizer: Tokenizer, monkeypatch):
        """A prompt full of matches, and sampling so hot that hardly any draft is right."""
        engine = Engine(model, tokenizer, CPU, EngineOptions(path="static"))
        clock = ForwardClock(engine, monkeypatch, check_s=8.0)
        answer(engine, request(PROMPT, max_new_tokens=3))
        steps, drafts = clock.steps, len(clock.drafts)
        tokens = len(answer(engine, request([*range(16)] * 4, max_new_tokens=190, temperature=50.0)))
        spent = (clock.steps - steps) + 8.0 * (len(clock.drafts) - drafts)
        assert spent <= tokens * (1 + GRANTED_SHARE) + 2 * 8.0


class TestSwitch:
    @pytest.mark.parametrize("setting", [True, False])
    @pytest.mark.parametrize("asked_for", [True, False, None])
    def test_of_the_request_goes_before_the_setting(self, setting, asked_for, model, tokenizer, monkeypatch):
        engine = Engine(model, tokenizer, CPU, EngineOptions(prompt_lookup=setting))
        clock = ForwardClock(engine, monkeypatch)
        answer(engine, request(PROMPT, max_new_tokens=100, prompt_lookup=asked_for))
        assert bool(clock.drafts) is (setting if asked_for is None else asked_for)

    def test_is_off_for_logprobs_which_a_draft_does_not_have(self, engine, clock, reference):
        asked = request(PROMPT, max_new_tokens=100, logprobs=2, prompt_lookup=True)
        steps = answer(engine, asked)
        assert ids_of(steps) == ids_of(reference(asked))
        assert all(step.logprob is not None for step in steps)
        assert not clock.drafts
