"""The log's one line for a job."""

import pytest

from producer.contract import EngineError, ErrorInfo, GenerationResult, Timings, Usage
from worker.job import Done, PutBack, Retry, Superseded
from worker.job_line import job_line

RESULT = GenerationResult(
    job_id="a",
    status="finished",
    model="tiny",
    text="an answer",
    finish_reason="length",
    usage=Usage(prompt_tokens=7, completion_tokens=9),
    timings=Timings(tokens_per_second=512.04),
    attempts=2,
)
OUT_OF_MEMORY = ErrorInfo(code="out_of_memory", message="the answer was: an answer")
FAILED = RESULT.model_copy(update={"status": "failed", "finish_reason": "error", "error": OUT_OF_MEMORY})
CANCELLED = RESULT.model_copy(
    update={"status": "cancelled", "finish_reason": "cancelled", "timings": Timings(), "attempts": 1}
)

LINES = [
    (Done(RESULT), "finished (length): 7+9 tokens in 1235 ms, attempt 2, 512.0 tokens/s"),
    (
        Done(RESULT.model_copy(update={"timings": Timings(parked_ms=800.4)})),
        "finished (length): 7+9 tokens in 1235 ms, attempt 2, paused for 800 ms",
    ),
    (Done(FAILED), "failed (out_of_memory): 7+9 tokens in 1235 ms, attempt 2, 512.0 tokens/s"),
    (Done(CANCELLED), "cancelled (cancelled): 7+9 tokens in 1235 ms, attempt 1"),
    (Done(RESULT, is_news=False), "had ended before, as finished"),
    (PutBack("the engine died"), "goes back into its queue after 1235 ms: the engine died"),
    (Retry(EngineError("an answer")), "failed (engine_error) after 1235 ms, and its Retry has it run again"),
    (Superseded(), "is another worker's, after 1235 ms"),
]


@pytest.mark.parametrize(("outcome", "text"), LINES)
def test_it_says_what_became_of_the_job(outcome, text):
    line, fields = job_line("a", "tiny", outcome, 1.2346)
    assert line == f"job a of tiny {text}"
    assert (fields["job_id"], fields["model"], fields["ms"]) == ("a", "tiny", 1235)
    assert "an answer" not in f"{line} {fields}"


def test_json_has_it_as_fields():
    assert job_line("a", "tiny", Done(FAILED), 1)[1] == {
        "job_id": "a",
        "model": "tiny",
        "ms": 1000,
        "status": "failed",
        "finish_reason": "error",
        "code": "out_of_memory",
        "prompt_tokens": 7,
        "completion_tokens": 9,
        "attempt": 2,
        "tokens_per_second": 512.04,
    }


def test_a_word_of_somebody_elses_is_cut():
    stranger = RESULT.model_copy(update={"status": "x" * 5000})
    assert len(job_line("a", "tiny", Done(stranger, is_news=False), 1)[0]) < 200
