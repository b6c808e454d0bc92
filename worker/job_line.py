"""The log's one line for a job: what became of it. Of prompt and answer it has the lengths, and never the text."""

from typing import Any

from producer.contract import GenerationResult

from .job import Done, Outcome, PutBack, Retry, Superseded


def job_line(job_id: str, model: str, outcome: Outcome, took_s: float) -> tuple[str, dict[str, Any]]:
    """The line as text, and the same as fields for JSON.

    took_s: from being taken by this worker to its end here, of which RQ has yet to hear.
    """
    ms = round(took_s * 1000)
    text, more = _of(outcome, ms)
    return f"job {job_id} of {model} {text}", {"job_id": job_id, "model": model, "ms": ms, **more}


def _of(outcome: Outcome, ms: int) -> tuple[str, dict[str, Any]]:
    match outcome:
        case Done(result, is_news=True):
            return _ended(result, ms)
        case Done(result):
            return f"had ended before, as {result.status[:80]}", {"status": result.status[:80]}
        case PutBack(why):
            return f"goes back into its queue after {ms} ms: {why}", {"status": "put_back", "why": why}
        case Retry(error):
            text = f"failed ({error.code}) after {ms} ms, and its Retry has it run again"
            return text, {"status": "retry", "code": error.code}
        case Superseded():
            return f"is another worker's, after {ms} ms", {"status": "superseded"}


def _ended(result: GenerationResult, ms: int) -> tuple[str, dict[str, Any]]:
    usage, speed = result.usage, result.timings.tokens_per_second
    fields: dict[str, Any] = {
        "status": result.status,
        "finish_reason": result.finish_reason,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "attempt": result.attempts,
    }
    if result.error:
        fields["code"] = result.error.code
    if speed:
        fields["tokens_per_second"] = speed
    if parked_ms := result.timings.parked_ms:
        fields["parked_ms"] = parked_ms
    why = result.error.code if result.error else result.finish_reason
    text = (
        f"{result.status} ({why}): {usage.prompt_tokens}+{usage.completion_tokens} tokens in {ms} ms, "
        f"attempt {result.attempts}"
    )
    text += f", {speed:.1f} tokens/s" if speed else ""
    return text + (f", paused for {parked_ms:.0f} ms" if parked_ms else ""), fields
