"""Common beginnings are reused and parked: never a wrong token, never a byte above the budget."""

import itertools
import logging

import pytest
import torch
from hypothesis import given, settings, strategies as st

from tests.models import CPU, random_model
from worker.engine import Engine, EngineOptions, Tokenizer
from worker.engine.forward.kv_cache import StaticKVCache
from worker.engine.reuse.prefix_cache import MAX_PARKED, WORTH_PARKING, PrefixCache, common_length

from ..asking import Reference, answer, ids_of, random_ids, request, start

BYTES_PER_TOKEN = 2 * 4 * 2
"""Of `Sequences`: keys and values, float32, two numbers a head."""


class Sequences:
    """A prefix cache over a cache whose keys are the ids themselves: what it holds can be read off."""

    def __init__(self, budget_tokens: float, capacity: int = 200, own_tokens: float = 0) -> None:
        self.cache = StaticKVCache((1, 1, capacity, 2), torch.float32, CPU)
        budgets = (int(tokens * BYTES_PER_TOKEN) for tokens in (budget_tokens, own_tokens))
        self.prefixes = PrefixCache(self.cache, *budgets)

    def begin(self, ids: list[int], salt: str | None = None) -> int:
        known = self.prefixes.begin(torch.tensor(ids), salt)
        assert known == self.cache.length < len(ids)
        assert self.held() == ids[:known], "these tokens are not in the cache"
        return known

    def read(self, ids: list[int]) -> None:
        """The tokens that are not in the cache yet."""
        at = self.cache.length
        self.cache.grow(len(ids) - at)
        self.cache.keys[0, 0, at : len(ids)] = torch.tensor(ids[at:])[:, None]
        self.cache.values[0, 0, at : len(ids)] = -torch.tensor(ids[at:])[:, None]

    def run(self, ids: list[int], salt: str | None = None) -> int:
        """A whole job.  Returns how many tokens were known."""
        known = self.begin(ids, salt)
        self.read(ids)
        self.prefixes.note(torch.tensor(ids))
        return known

    def make_way(self, ids: list[int], run: int, salt: str | None = None) -> None:
        """A job that is to go on from there later, as that run."""
        self.run(ids, salt)
        self.prefixes.park_for(run)

    def held(self) -> list[int]:
        keys, values = self.cache.keys[0, 0, : self.cache.length], self.cache.values[0, 0, : self.cache.length]
        assert torch.equal(keys, -values)
        return keys[:, 0].int().tolist()

    def parked(self) -> list[list[int]]:
        return [parked.sequence.ids.tolist() for parked in self.prefixes._parked]


A, B, C, D = (list(range(100 * n, 100 * n + 50)) for n in range(1, 5))
"""Prompts of 50 tokens with nothing in common."""


class TestCommonLength:
    @pytest.mark.parametrize(
        ("some", "others", "length"),
        [
            ([], [], 0),
            ([], [1], 0),
            ([1], [1], 1),
            ([1], [2], 0),
            ([1, 2], [1, 2, 3], 2),
            ([1, 2, 3], [1, 5, 3], 1),
        ],
    )
    def test_is_where_they_part(self, some, others, length):
        some, others = torch.tensor(some, dtype=torch.int64), torch.tensor(others, dtype=torch.int64)
        assert common_length(some, others) == common_length(others, some) == length


class TestWhatTheCacheHolds:
    @pytest.mark.parametrize(
        ("following", "known"),
        [(A, 49), (A[:20], 19), ([*A, 1, 2], 50), (A[:30] + B, 30), (B, 0), (A[:1], 0)],
        ids=["the same", "a beginning", "an extension", "a divergence", "nothing in common", "one token"],
    )
    def test_is_used_up_to_the_last_token_which_gives_the_logits(self, following, known):
        sequences = Sequences(budget_tokens=1)
        sequences.run(A)
        assert sequences.run(following) == known

    def test_is_not_used_with_a_budget_of_zero(self):
        sequences = Sequences(budget_tokens=0)
        for ids in (A, A, B, A):
            assert sequences.run(ids) == 0
        assert sequences.parked() == []

    def test_is_not_used_once_it_is_forgotten(self):
        sequences = Sequences(budget_tokens=100)
        sequences.run(A)
        sequences.prefixes.forget()
        sequences.cache.truncate(0)
        assert sequences.run(A) == 0

    def test_is_unknown_from_the_start_of_a_job_to_its_end(self):
        sequences = Sequences(budget_tokens=100)
        sequences.run(A)
        sequences.begin(A[:30] + B)
        sequences.read(A[:30] + B)  # and nothing is noted
        assert sequences.begin(A[:30] + B) == 0

    def test_cannot_be_noted_wrongly(self):
        sequences = Sequences(budget_tokens=100)
        sequences.read(A)
        with pytest.raises(AssertionError, match="what is noted must be what is there"):
            sequences.prefixes.note(torch.tensor(A[:-1]))


class TestParking:
    def test_brings_back_what_another_job_has_overwritten(self):
        sequences = Sequences(budget_tokens=1000)
        for ids in (A, B, C):
            assert sequences.run(ids) == 0
        assert sequences.run([*A, 7]) == 50
        assert sequences.run(B[:40] + D) == 40
        assert sequences.run([*C, 7]) == 50

    def test_is_not_done_for_what_stays_in_the_cache(self):
        sequences = Sequences(budget_tokens=1000)
        sequences.run(A)
        sequences.run([*A, 1, 2, 3])
        sequences.run(A[: 53 - WORTH_PARKING + 1] + B)
        assert sequences.parked() == []

    def test_is_not_done_for_a_few_tokens(self):
        sequences = Sequences(budget_tokens=1000)
        sequences.run(A[: WORTH_PARKING - 1])
        sequences.run(B[:WORTH_PARKING])
        sequences.run(C)
        assert sequences.parked() == [B[:WORTH_PARKING]]

    def test_brings_back_only_what_is_worth_a_copy(self):
        sequences = Sequences(budget_tokens=1000)
        sequences.run(A)
        sequences.run(A[:10] + B)
        assert sequences.run(A[: 10 + WORTH_PARKING - 1] + C) == 10, "31 tokens more are read as fast as copied"
        sequences = Sequences(budget_tokens=1000)
        sequences.run(A)
        sequences.run(A[:10] + B)
        assert sequences.run(A[: 10 + WORTH_PARKING] + C) == 10 + WORTH_PARKING

    def test_takes_the_longest_of_several(self):
        sequences = Sequences(budget_tokens=1000)
        for ids in (A[:40] + D, A + B, A[:45] + C, D):
            sequences.run(ids)
        assert sequences.run(A + B[:30] + C) == 80

    def test_nothing_is_parked_twice(self):
        sequences = Sequences(budget_tokens=1000)
        for ids in (A, B, A + C, B, A + C + D, B, A, B, A + C + D):
            sequences.run(ids)
        for some, others in itertools.permutations(sequences.parked(), 2):
            assert others[: len(some)] != some, "what is a beginning of another needs no place of its own"

    def test_a_sequence_that_ends_earlier_does_not_replace_the_parked_one(self):
        sequences = Sequences(budget_tokens=1000)
        sequences.run(A + B)
        sequences.run(C)
        sequences.run(A)
        sequences.run(C)
        assert sequences.run([*A, *B, 7]) == 100


class TestSalt:
    """The number of tokens that were known already told one producer how well it had guessed another's prompt."""

    def test_only_the_same_one_knows_what_the_cache_holds(self):
        sequences = Sequences(budget_tokens=1)
        for asking, known in (("mine", 0), ("mine", 49), (None, 0), (None, 49), ("yours", 0)):
            assert sequences.run(A, asking) == known

    def test_only_the_same_one_brings_back_what_was_parked(self):
        sequences = Sequences(budget_tokens=1000)
        sequences.run(A, "mine")
        sequences.run(B)
        assert sequences.parked() == [A]
        assert sequences.run([*A, 7], "yours") == 0
        assert sequences.run([*A, 7]) == 0
        assert sequences.run([*A, 8], "mine") == 50

    def test_the_same_beginning_is_kept_for_each(self):
        sequences = Sequences(budget_tokens=1000)
        for salt in ("mine", "yours", None):
            sequences.run(A, salt)
        sequences.run(B)
        assert sequences.parked() == [A, A, A]
        for salt in ("mine", "yours", None):
            assert sequences.run(A, salt) == 49

    def test_of_a_job_that_failed_is_not_taken_on(self):
        sequences = Sequences(budget_tokens=1000)
        sequences.run(A, "mine")
        sequences.begin(B, "yours")
        sequences.prefixes.forget()
        sequences.cache.truncate(0)
        assert sequences.run(A) == 0
        assert sequences.run(A, "mine") == 49, "it had been parked"


class TestARunThatMakesWay:
    """Its sequence is its own until it goes on."""

    def test_finds_all_of_it_whatever_came_in_between(self):
        sequences = Sequences(budget_tokens=50, own_tokens=50)
        sequences.make_way(A, run=1)
        for ids in (B, C, D, B):
            sequences.run(ids)
        assert sequences.run([*A, 7]) == 50

    def test_finds_what_it_shares_with_another_and_the_rest(self):
        """Of what the next job overwrites, only a few tokens: another one may overwrite the others."""
        sequences = Sequences(budget_tokens=0, own_tokens=100)
        sequences.make_way(A, run=1)
        sequences.run(A[:45] + B)
        sequences.run(C)
        assert sequences.run([*A, 7]) == 50

    def test_costs_no_copy_where_nobody_came_in_between(self):
        sequences = Sequences(budget_tokens=100, own_tokens=100)
        sequences.make_way(A, run=1)
        assert sequences.run([*A, 7]) == 50
        assert sequences.parked() == []

    def test_finds_it_also_where_common_beginnings_are_turned_off(self):
        sequences = Sequences(budget_tokens=0, own_tokens=100)
        sequences.make_way(A, run=1)
        assert sequences.run(A) == 0, "a beginning of it is common, and nobody goes on there"
        assert sequences.run(B) == 0
        assert sequences.run([*A, 7]) == 50

    def test_keeps_it_from_those_with_another_salt(self):
        sequences = Sequences(budget_tokens=100, own_tokens=100)
        sequences.make_way(A, run=1, salt="mine")
        assert sequences.run([*A, 7], "yours") == 0
        assert sequences.run([*A, 7], "mine") == 50

    def test_has_a_budget_of_its_own_beyond_which_it_is_as_anybodys(self):
        sequences = Sequences(budget_tokens=50, own_tokens=99)
        sequences.make_way(A, run=1)
        sequences.make_way(B, run=2)
        sequences.prefixes.keep_for([1, 2])
        sequences.run(C)
        assert sequences.parked() == [A, B]
        sequences.run(D)
        assert sequences.parked() == [A, C], "the second is in the other budget, and goes for others"

    def test_leaves_it_to_others_once_it_is_over(self):
        sequences = Sequences(budget_tokens=50, own_tokens=100)
        sequences.make_way(A, run=1)
        sequences.run(B)
        sequences.prefixes.keep_for([])
        sequences.run(C)
        assert sequences.parked() == [B]

    def test_leaves_nothing_where_common_beginnings_are_turned_off(self):
        sequences = Sequences(budget_tokens=0, own_tokens=100)
        sequences.make_way(A, run=1)
        sequences.run(B)
        sequences.prefixes.keep_for([])
        sequences.run(C)
        assert sequences.prefixes.parked_bytes == 0

    def test_makes_way_again_without_a_second_copy(self):
        sequences = Sequences(budget_tokens=0, own_tokens=51)
        sequences.make_way(A, run=1)
        sequences.run(B)
        sequences.prefixes.keep_for([1])
        sequences.make_way([*A, 7], run=2)
        sequences.prefixes.keep_for([2])
        sequences.run(C)
        assert sequences.parked() == [[*A, 7]]
        assert sequences.run([*A, 7, 8]) == 51


class TestBudget:
    def test_the_least_recently_used_goes_first(self):
        sequences = Sequences(budget_tokens=100)
        for ids in (A, B, C):
            sequences.run(ids)
        assert sequences.parked() == [A, B]
        sequences.run([*A, 7])  # A is used, and C takes the place of B
        assert sequences.parked() == [A, C]

    def test_is_kept_when_what_comes_back_was_the_oldest(self):
        """To make room for the sequence in the cache, the one that was about to be restored used to be dropped
        and then put back, on top of a full budget."""
        sequences = Sequences(budget_tokens=100)
        for ids in (A, B, C, [*A, 7], [*B, 7], [*C, 7]):
            sequences.run(ids)
            assert sequences.prefixes.parked_bytes <= 100 * BYTES_PER_TOKEN

    def test_for_a_single_sequence_lets_two_change_places(self):
        sequences = Sequences(budget_tokens=50)
        sequences.run(A)
        sequences.run(B)
        for ids in (A, B, A):
            assert sequences.run(ids) == 49
            assert sequences.prefixes.parked_bytes <= 50 * BYTES_PER_TOKEN

    def test_holds_a_few_sequences_however_small_they_are(self):
        sequences = Sequences(budget_tokens=1e9)
        for number in range(2 * MAX_PARKED):
            sequences.run([number, *range(100, 140)])
        assert len(sequences.prefixes._parked) == MAX_PARKED

    def test_too_small_for_a_sequence_keeps_the_smaller_ones(self):
        sequences = Sequences(budget_tokens=60)
        for ids in (A, B + C, D):
            sequences.run(ids)
        assert sequences.parked() == [A]


class TestTrouble:
    @pytest.mark.parametrize("error", [None, MemoryError(), torch.AcceleratorError("CUDA error: out of memory")])
    def test_without_host_memory_a_job_goes_on_and_nothing_is_parked(self, error, monkeypatch, caplog):
        sequences = Sequences(budget_tokens=1000)
        sequences.run(A)

        def copy_out() -> torch.Tensor:
            if error:
                raise error
            return torch.empty(2**60, dtype=torch.int8)

        with monkeypatch.context() as patched:
            patched.setattr(sequences.cache, "copy_out", copy_out)
            with caplog.at_level(logging.WARNING):
                assert sequences.run(B) == 0
        assert "consider a lower prefix_cache_bytes" in caplog.text
        assert sequences.parked() == []
        assert sequences.run([*B, 7]) == 50

    def test_any_other_error_is_not_taken_for_a_lack_of_memory(self, monkeypatch):
        sequences = Sequences(budget_tokens=1000)
        sequences.run(A)
        monkeypatch.setattr(sequences.cache, "copy_out", lambda: torch.zeros(2) @ torch.zeros(3))
        with pytest.raises(RuntimeError, match="inconsistent tensor size"):
            sequences.begin(B)

    def test_after_a_restore_that_broke_off_nothing_is_believed(self, monkeypatch):
        """The cache held keys of one sequence and ids of another, until the job after the next."""
        sequences = Sequences(budget_tokens=1000)
        sequences.run(A)
        sequences.run(B)

        def break_off(kept, length):
            kept.give(sequences.cache.keys[0, 0, :length].view(-1), 0)
            torch.empty(2**60, dtype=torch.int8)

        with monkeypatch.context() as patched:
            patched.setattr(sequences.cache, "copy_in", break_off)
            with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
                sequences.begin(A)
        assert sequences.run([*B, 7]) == 50, "from where it was parked, and not from what the cache holds"
        assert sequences.run([*A, 7]) == 50


@st.composite
def histories(draw):
    """Sequences that begin alike, how each of them ended, and its salt."""
    blocks = [list(range(1000 * n, 1000 * n + 35)) for n in range(3)]
    jobs = []
    for _ in range(draw(st.integers(2, 12))):
        parts = draw(st.lists(st.tuples(st.sampled_from(blocks), st.integers(1, 35)), min_size=1, max_size=4))
        ids = list(itertools.chain.from_iterable(block[:length] for block, length in parts))
        ending = draw(st.sampled_from(["whole", "whole", "cut short", "failed", "dropped"]))
        jobs.append((ids, ending, draw(st.sampled_from([None, None, "mine"]))))
    return jobs


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(histories(), st.sampled_from([0, 1, 40, 90, 200, 1000]))
def test_whatever_happens_the_cache_holds_what_it_says(jobs, budget_tokens):
    sequences = Sequences(budget_tokens)
    told: dict[str | None, list[list[int]]] = {None: [], "mine": []}
    for ids, ending, salt in jobs:
        known = sequences.begin(ids, salt)  # which compares what the cache holds with the ids
        assert not known or any(other[:known] == ids[:known] for other in told[salt])
        told[salt].append(ids)
        assert sequences.prefixes.parked_bytes <= budget_tokens * BYTES_PER_TOKEN
        if ending == "failed":
            sequences.read(ids)
            sequences.cache.truncate(0)
            sequences.prefixes.forget()
        elif ending != "dropped":
            ids = ids if ending == "whole" else ids[: max(sequences.cache.length, len(ids) // 2)]  # noqa: PLW2901
            sequences.read(ids)
            sequences.prefixes.note(torch.tensor(ids))
    parked = [(parked.sequence.salt, parked.sequence.ids.tolist()) for parked in sequences.prefixes._parked]
    for (salt, some), (another, others) in itertools.permutations(parked, 2):
        assert salt != another or others[: len(some)] != some


@pytest.fixture(scope="module")
def model():
    return random_model(context_length=256)


@pytest.fixture(scope="module")
def reference(model, tokenizer: Tokenizer) -> Reference:
    return Reference(model, tokenizer)


class TestEngine:
    """The same on a model: a chat, and two chats that take turns."""

    def engine(self, model, tokenizer: Tokenizer, prefix_cache_bytes: int) -> Engine:
        options = EngineOptions(path="static", prefill_chunk=16, prefix_cache_bytes=prefix_cache_bytes)
        return Engine(model, tokenizer, CPU, options)

    def turns(self, engine: Engine, reference: Reference, chats: list[list[int]], turns: int) -> list[int]:
        """Let the chats take turns.  Returns what each turn found in the cache, less what it could."""
        missed = []
        for turn in range(turns):
            for number, chat in enumerate(chats):
                known = len(chat) - 1 if turn else 0
                chat.extend(random_ids(9, seed=10 * turn + number))
                asked = request(chat, max_new_tokens=11)
                steps = list(generation := start(engine, asked))
                assert steps == reference(asked)
                assert generation.cached_tokens < generation.prompt_tokens
                missed.append(known - generation.cached_tokens)
                chat.extend(ids_of(steps))
        return missed

    def test_a_chat_reads_only_the_new_turn(self, model, tokenizer, reference):
        engine = self.engine(model, tokenizer, prefix_cache_bytes=1)
        # The last token of an answer was chosen and never read: the next turn reads it, with what is new.
        assert self.turns(engine, reference, [random_ids(20)], turns=5) == [0] * 5

    def test_two_chats_take_turns(self, model, tokenizer, reference):
        engine = self.engine(model, tokenizer, prefix_cache_bytes=2**20)
        assert self.turns(engine, reference, [random_ids(40), random_ids(41)], turns=4) == [0] * 8

    def test_no_room_for_the_other_chat(self, model, tokenizer, reference):
        engine = self.engine(model, tokenizer, prefix_cache_bytes=1)
        chats = [random_ids(40), random_ids(41)]
        assert self.turns(engine, reference, chats, turns=2) == [0, 0, 59, 60]

    @pytest.mark.parametrize("path", ["static", "dynamic"])
    def test_no_request_learns_of_another_ones_prompt(self, path, model, tokenizer, reference):
        engine = Engine(model, tokenizer, CPU, EngineOptions(path=path))
        prompt = random_ids(60)
        for salt, known in (("mine", 0), ("yours", 0), (None, 0), ("mine", 59 if path == "static" else 0)):
            asked = request(prompt, max_new_tokens=3, cache_salt=salt)
            steps = list(generation := start(engine, asked))
            assert generation.cached_tokens == known
            assert steps == reference(asked)

    def test_a_parked_prefix_is_counted_and_exact(self, model, tokenizer, reference):
        engine = self.engine(model, tokenizer, prefix_cache_bytes=2**20)
        system = random_ids(60)
        answer(engine, request(system, max_new_tokens=3))
        answer(engine, request(random_ids(90), max_new_tokens=3))
        asked = request(system[:50] + random_ids(12), max_new_tokens=30)
        steps = list(generation := start(engine, asked))
        assert generation.cached_tokens == 50
        assert steps == reference(asked)
