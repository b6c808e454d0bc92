"""What Prometheus gets to see."""

import urllib.request

import pytest

from producer.contract import ErrorInfo, GenerationResult, Timings, Usage
from worker.metrics import Metrics


def result(**fields) -> GenerationResult:
    return GenerationResult(
        **{"job_id": "job-1", "status": "finished", "model": "tiny", "finish_reason": "stop", **fields}
    )


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_a_finished_job(metrics):
    timings = Timings(queued_ms=2000, time_to_first_token_ms=500, tokens_per_second=20)
    usage = Usage(prompt_tokens=7, completion_tokens=30)
    metrics.observe(result(usage=usage, timings=timings), duration_s=3)
    value = metrics.registry.get_sample_value
    assert value("genqueue_jobs_total", {"status": "finished", "error": ""}) == 1
    assert value("gen_ai_usage_input_tokens_total") == 7
    assert value("gen_ai_usage_output_tokens_total") == 30
    assert value("gen_ai_server_request_duration_seconds_sum") == 3
    assert value("gen_ai_server_time_to_first_token_seconds_sum") == 0.5
    assert value("gen_ai_server_time_per_output_token_seconds_sum") == 0.05
    assert value("genqueue_queued_seconds_sum") == 2


def test_a_failed_job_counts_by_its_code_and_has_no_timings(metrics):
    error = ErrorInfo(code="timeout", message="too slow")
    metrics.observe(result(status="failed", finish_reason="error", error=error), duration_s=1)
    value = metrics.registry.get_sample_value
    assert value("genqueue_jobs_total", {"status": "failed", "error": "timeout"}) == 1
    assert value("gen_ai_server_time_to_first_token_seconds_count") == 0
    assert value("gen_ai_server_time_per_output_token_seconds_count") == 0
    assert value("genqueue_queued_seconds_count") == 0


def test_a_job_that_never_ran_counts_and_makes_no_request_look_fast(metrics):
    error = ErrorInfo(code="invalid_request", message="no prompt")
    metrics.observe(result(status="failed", finish_reason="error", error=error), duration_s=None)
    value = metrics.registry.get_sample_value
    assert value("genqueue_jobs_total", {"status": "failed", "error": "invalid_request"}) == 1
    assert value("gen_ai_server_request_duration_seconds_count") == 0


@pytest.mark.parametrize("prompt_tokens", [-5, 10**400], ids=["less than none", "no float"])
def test_token_counts_that_nobody_has_counted_are_left_out(metrics, prompt_tokens):
    """As a forged `started` event has them, of a job that is refused then."""
    metrics.observe(result(usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=2)), duration_s=1)
    value = metrics.registry.get_sample_value
    assert value("gen_ai_usage_input_tokens_total") == 0
    assert value("gen_ai_usage_output_tokens_total") == 2


def test_two_workers_in_one_process_do_not_share_counters(metrics):
    metrics.observe(result(), duration_s=1)
    assert Metrics().registry.get_sample_value("gen_ai_server_request_duration_seconds_count") == 0


def test_they_are_served_on_any_free_port(metrics):
    metrics.busy.set(1)
    port = metrics.serve("127.0.0.1", 0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        assert b"genqueue_busy 1.0" in answer.read()
