"""What is known of a job, in words."""

import pytest

from producer import JobStatus, Progress, WorkerInfo
from producer.eta import Pace
from producer.job_status import ordinal, paces_of, progress_of, state_of, times_of

READY = WorkerInfo(name="w1", model_state="ready")
LOADING = WorkerInfo(name="w2", model_state="loading")
SUSPENDED = WorkerInfo(name="w3", model_state="ready", state="suspended", job_seconds=2.0)


def _status(**fields: object) -> JobStatus:
    plain = {"job_id": "a", "model": "tiny", "state": "queued", "has_result": False}
    return JobStatus.model_validate({**plain, **fields})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"position": 0, "workers": (READY,)}, "queued, 1st in line; 1 live worker for tiny"),
        ({"position": 2, "workers": (READY, LOADING)}, "queued, 3rd in line; 2 live workers for tiny"),
        ({"position": 1, "workers": (LOADING,)}, "queued, 2nd in line; w2 is loading tiny"),
        (
            {"position": 1, "workers": (READY,), "eta_s": 41.3},
            "queued, 2nd in line; 1 live worker for tiny; its turn comes in about 41 s",
        ),
        (
            {"position": 1, "workers": (SUSPENDED,)},
            "queued, 2nd in line; w3 for tiny is suspended until `rq resume`",
        ),
        (
            {"position": 1, "workers": (SUSPENDED, SUSPENDED)},
            "queued, 2nd in line; all 2 live workers for tiny are suspended until `rq resume`",
        ),
        (
            {"position": 1, "workers": (READY, SUSPENDED)},
            "queued, 2nd in line; 2 live workers for tiny, 1 of them suspended",
        ),
        ({"position": 0}, "queued, 1st in line; no live worker serves tiny"),
        ({}, "queued; no live worker serves tiny"),
        ({"state": "deferred", "workers": (READY,)}, "waiting for another job; 1 live worker for tiny"),
        ({"state": "scheduled"}, "scheduled for later; no live worker serves tiny"),
        ({"state": "running", "worker": "w1"}, "running on w1"),
        (
            {
                "state": "running",
                "worker": "w1",
                "progress": {"phase": "decode", "tokens": 12, "tokens_per_second": 30.12},
            },
            "running on w1 (decode, 12 tokens, 30.1 tokens/s)",
        ),
        ({"state": "running", "worker": "w1", "queue": "q", "workers": (READY, LOADING)}, "running on w1"),
        (
            {"state": "running", "worker": "w1", "progress": {"phase": "paused", "tokens": 12}},
            "paused on w1 after 12 tokens: a job of a higher priority goes first",
        ),
        (
            {"state": "running", "worker": "w1", "progress": {"phase": "paused", "tokens": 0}},
            "paused on w1: a job of a higher priority goes first",
        ),
        (
            {"state": "running", "worker": "w9", "queue": "q", "progress": {"phase": "paused"}},
            "was with w9, which is not among the live workers; no live worker serves tiny",
        ),
        (
            {"state": "running", "worker": "w1", "queue": "q", "workers": (LOADING,)},
            "was with w1, which is not among the live workers; w2 is loading tiny",
        ),
        (
            {"state": "running", "worker": "w1", "queue": "q"},
            "was with w1, which is not among the live workers; no live worker serves tiny",
        ),
        ({"state": "finished", "has_result": True}, "finished"),
        ({"state": "cancelled", "has_result": True}, "cancelled"),
    ],
)
def test_a_status_in_words(fields: dict[str, object], words: str) -> None:
    assert _status(**fields).describe() == words


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("cancelled", "cancelled through RQ, without a result"),
        ("failed", "failed through RQ, without a result"),
        ("queued", "queued by its record, but in no queue and with no live worker"),
        ("running", "running by its record, but in no queue and with no live worker"),
    ],
)
def test_a_job_that_nobody_will_end_is_called_stranded(state: str, words: str) -> None:
    stranded = _status(state=state, is_held=False)

    assert stranded.is_stranded
    assert stranded.describe() == f"{words}: no worker will end its stream, cancel it here to do so"
    assert not _status(state=state, is_held=False, has_result=True).is_stranded
    assert not _status(state=state).is_stranded


def test_those_have_a_pace_that_take_jobs_and_have_had_some() -> None:
    busy = WorkerInfo(name="w", model_state="ready", state="busy", job_seconds=3.0, busy_seconds=1.0)
    loading = WorkerInfo(name="w", model_state="loading", state="idle", job_seconds=3.0)
    assert paces_of([READY, LOADING, loading, SUSPENDED, busy]) == [Pace(3.0, is_busy=True, busy_s=1.0)]


@pytest.mark.parametrize(
    ("number", "words"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (21, "21st"), (113, "113th")],
)
def test_ordinals(number: int, words: str) -> None:
    assert ordinal(number) == words


@pytest.mark.parametrize(
    ("rq_status", "state"),
    [
        ("created", "queued"),
        ("queued", "queued"),
        ("started", "running"),
        ("deferred", "deferred"),
        ("scheduled", "scheduled"),
        ("finished", "finished"),
        ("failed", "failed"),
        ("stopped", "cancelled"),
        ("canceled", "cancelled"),
    ],
)
def test_rqs_statuses_in_our_words(rq_status: str, state: str) -> None:
    assert state_of({"status": rq_status}) == state


@pytest.mark.parametrize(
    "meta",
    [
        "",
        "[" * 5_000,
        "not json",
        "[]",
        "5",
        '{"expires_at": 1.5}',
        '{"tokens": "many"}',
        '{"phase": null}',
        '{"tokens_per_second": NaN}',
        '{"tokens_per_second": 1e999}',
    ],
)
def test_a_meta_without_progress_is_no_progress(meta: str) -> None:
    assert progress_of({"meta": meta}) is None


@pytest.mark.parametrize("text", ["", "soon", "2026-01-31T12:00:00+00:00"])
def test_what_is_no_time_of_rqs_is_none(text: str) -> None:
    assert times_of({"enqueued_at": text, "started_at": "2026-01-31T12:00:00.000000Z"}).keys() == {"started_at"}


def test_progress_is_read_from_beside_what_a_user_keeps_in_the_meta() -> None:
    meta = '{"expires_at": 1.5, "mine": {}, "phase": "prefill", "tokens": 0}'

    assert progress_of({"meta": meta}) == Progress(phase="prefill", tokens=0)
