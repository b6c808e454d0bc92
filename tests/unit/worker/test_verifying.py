"""A job that is run again: where the two runs part, and what is said to differ."""

import pytest
import torch

from producer.contract import (
    EngineFacts,
    EventId,
    GenerationRequest,
    GenerationResult,
    InvalidRequest,
    Started,
    StartedData,
    StreamedEvent,
    Tokens,
    TokensData,
    UnknownEvent,
    Usage,
)
from producer.ledger.past import Past
from tests.models import engine_for, random_model, save_tokenizer
from worker.engine import Engine, Tokenizer
from worker.verify import shown
from worker.verifying import Parting, Ran, Token, Verdict, attempts_of, compare

HERE = EngineFacts(device="a card", dtype="float32", path="static", torch="2", genqueue="1")
ASKED = GenerationRequest(prompt="hi", max_new_tokens=20, seed=5)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return engine_for(random_model(), Tokenizer(save_tokenizer(tmp_path_factory.mktemp("tokenizer"))))


def past(engine: Engine, request: GenerationRequest = ASKED, **result) -> Past:
    """The job, as this engine has run it."""
    prompt_ids = engine.encode(request)
    steps = list(engine.start(request, prompt_ids, seed=5))
    fields = {
        "token_ids": [step.token_id for step in steps],
        "usage": Usage(prompt_tokens=len(prompt_ids)),
        "status": "finished",
        "finish_reason": "length",
        "seed": 5,
        **result,
    }
    return Past("job", "tiny", request, GenerationResult(job_id="job", model="tiny", **fields))


def run(engine: Engine, job: Past, model: str = "tiny", **facts) -> Verdict:
    there = Ran(_started(runs_on=HERE.model_copy(update=facts)).data, 0)
    return compare(engine, job, model, HERE, [there])


def _started(**fields) -> Started:
    return Started(data=StartedData(attempt=1, worker="w", model="tiny", prompt_tokens=3, seed=5, **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 1.5, "top_p": 0.9, "presence_penalty": 0.5},
        {"logprobs": 2, "min_new_tokens": 20},
        {"seed": None},
    ],
    ids=["greedy", "sampled", "log-probabilities", "a drawn seed"],
)
def test_the_same_run_is_equal(engine, fields):
    request = ASKED.model_copy(update=fields)
    verdict = run(engine, past(engine, request))
    assert verdict == Verdict("job", 20, 0, None, ())
    assert verdict.is_equal
    assert shown(verdict, as_json=False) == "equal: all 20 tokens\n"


@pytest.mark.parametrize(
    "how",
    [
        {"status": "cancelled", "finish_reason": "cancelled"},
        {"status": "failed", "finish_reason": "error", "error": {"code": "timeout", "message": "x"}},
    ],
    ids=["cancelled", "out of time"],
)
@pytest.mark.parametrize("fields", [{}, {"min_new_tokens": 9}], ids=["", "below its minimum"])
def test_a_job_that_was_cut_is_compared_over_its_length(engine, how, fields):
    request = ASKED.model_copy(update=fields)
    whole = past(engine, request).result.token_ids
    assert run(engine, past(engine, request, token_ids=whole[:7], **how)) == Verdict("job", 7, 0, None, ())


def going_on(engine: Engine, given: tuple[int, ...]) -> Past:
    """A job that has this output from another one."""
    request = ASKED.model_copy(update={"output_token_ids": given})
    own = past(engine, request).result.token_ids
    return Past("job", "tiny", request, past(engine, token_ids=given + own).result)


def test_of_a_job_that_went_on_the_tokens_of_its_own_are_compared(engine):
    """Those that it was given may be anybody's."""
    job = going_on(engine, (3, 1, 2))
    verdict = run(engine, job)
    assert verdict == Verdict("job", 20, 3, None, ())
    assert shown(verdict, as_json=False) == "equal: all 17 tokens, after 3 that it was given\n"
    ids = list(job.result.token_ids)
    ids[3] += 1
    other = Past("job", "tiny", job.request, past(engine, token_ids=ids).result)
    assert run(engine, other).parting.index == 3


@pytest.mark.parametrize("index", [0, 4, 19])
def test_where_they_part_is_said_with_both_tokens(engine, index):
    ids = list(past(engine).result.token_ids)
    likeliest = ids[index]
    ids[index] = other = (ids[index] + 1) % 700
    verdict = run(engine, past(engine, token_ids=ids), dtype="bfloat16", torch=None)
    assert (verdict.is_equal, verdict.parting.index) == (False, index)
    assert (verdict.parting.there.id, verdict.parting.here.id) == (other, likeliest)
    assert verdict.differs == ("dtype: bfloat16 there, float32 here",)


def test_log_probabilities_are_those_of_the_model(engine):
    request = ASKED.model_copy(update={"logprobs": 2})
    step = list(engine.start(request, engine.encode(request), seed=5))[3]
    (_, best), (second, close) = step.logprob.top
    ids = list(past(engine).result.token_ids)
    ids[3] = second
    parting = run(engine, past(engine, token_ids=ids)).parting
    assert (parting.here.logprob, parting.there.logprob) == pytest.approx((best, close), abs=1e-4)


def test_an_output_that_ends_here_earlier_parts_there(tmp_path):
    model = random_model()
    tokenizer = Tokenizer(save_tokenizer(tmp_path))
    job = past(engine_for(model, tokenizer))
    ends = job.result.token_ids[4]
    at = job.result.token_ids.index(ends)
    with torch.no_grad():
        model.generation_config.eos_token_id = ends
    verdict = run(engine_for(model, tokenizer), job)
    assert (verdict.parting.index, verdict.parting.here) == (at + 1, None)
    assert "the end here" in shown(verdict, as_json=False)


def test_another_model_or_prompt_is_named(engine):
    job = past(engine, usage=Usage(prompt_tokens=99))
    here = len(engine.encode(ASKED))
    assert run(engine, job, model="other").differs == (
        "model: tiny there, other here",
        f"prompt: 99 tokens there, {here} here, by another tokenizer or chat template",
    )


def test_a_token_is_laid_to_the_attempt_that_made_it():
    ids = (1, 2, 3)
    stream = [
        _started(runs_on=EngineFacts(device="one")),
        Tokens(data=TokensData(index=0, ids=ids, text="")),
        _started(runs_on=EngineFacts(device="two")),
        Tokens(data=TokensData(index=3, ids=ids, text="")),
    ]
    events = [StreamedEvent(EventId(1, seq), event) for seq, event in enumerate(stream)]
    found = attempts_of(iter([*events[:2], UnknownEvent(EventId(1, 9), "news", "{}"), *events[2:]]))
    assert [(ran.first_index, ran.data.runs_on.device) for ran in found] == [(0, "one"), (3, "two")]


@pytest.mark.parametrize(("index", "device"), [(2, "one"), (3, "two")])
def test_what_differs_is_that_of_the_attempt_that_made_the_token(engine, index, device):
    job = past(engine)
    ids = list(job.result.token_ids)
    ids[index] += 1
    attempts = [Ran(_started(runs_on=EngineFacts(device=name)).data, at) for at, name in ((0, "one"), (3, "two"))]
    verdict = compare(engine, past(engine, token_ids=ids), "tiny", HERE, attempts)
    assert verdict.differs == (f"device: {device} there, a card here",)


@pytest.mark.parametrize("attempts", [[], [Ran(_started().data, 0)]], ids=["no stream", "an earlier version"])
def test_where_nobody_says_what_it_ran_on_that_is_said(engine, attempts):
    verdict = compare(engine, past(engine), "tiny", HERE, attempts)
    assert (verdict.is_equal, verdict.differs) == (True, ("unknown: nothing says what it was generated on",))


def test_what_cannot_be_compared_is_refused(engine):
    with pytest.raises(InvalidRequest, match="has no tokens"):
        run(engine, past(engine, token_ids=()))
    with pytest.raises(InvalidRequest, match="has no tokens of its own"):
        run(engine, past(engine, ASKED.model_copy(update={"output_token_ids": (1, 2)}), token_ids=(1, 2)))
    sampled = ASKED.model_copy(update={"temperature": 1.0, "seed": None})
    with pytest.raises(InvalidRequest, match="was sampled, and its result holds no seed"):
        run(engine, past(engine, sampled, seed=None))
    greedy = ASKED.model_copy(update={"seed": None})
    assert run(engine, past(engine, greedy, seed=None)).is_equal


def test_a_verdict_in_words_and_as_json():
    parting = Parting(3, Token(7, "\x1b[1m", None), Token(8, "b", -0.25))
    verdict = Verdict("job", 9, 0, parting, ("dtype: float16 there, float32 here",))
    assert shown(verdict, as_json=False).splitlines() == [
        "they part at index 3 of 9 tokens: '\\x1b[1m' (7) there, 'b' (8) here",
        "log-probabilities here: '\\x1b[1m' not among the 20 likeliest, 'b' -0.2500",
        "differs: dtype: float16 there, float32 here",
    ]
    assert '"is_equal": false' in shown(verdict, as_json=True)
