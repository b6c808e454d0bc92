"""Who serves a model."""

import pytest

from producer.ledger.roster import WorkerRecord, live_workers, read_records, worker_sets
from producer.ledger.sweep import RingEntry, beat

from .steps import KEYS

RECORD = {
    "birth": "2026-01-01T00:00:00Z",
    "model_state": "ready",
    "hostname": "h",
    "request_fields": "prompt,seed",
}


def workers(client):
    keys = sorted(client.sunion(worker_sets(KEYS, "tiny")))
    return live_workers(keys, read_records(keys)(client))


def appear(client, name, model="tiny", **record):
    fields = {**RECORD, **record}
    beat(KEYS, model, RingEntry(name), fields, ttl_s=100, keep_s=1000).run(client)


def test_the_workers_of_a_model_are_those_that_beat_for_it(client):
    appear(client, "w1")
    appear(client, "w2", model="other")
    assert workers(client) == (WorkerRecord("w1", "ready", "h", frozenset({"prompt", "seed"})),)


@pytest.mark.parametrize("gone", ["record", "death"])
def test_one_that_is_dead_is_none_of_them(client, gone):
    appear(client, "w1")
    if gone == "record":
        client.delete("rq:worker:w1")
    else:
        client.hset("rq:worker:w1", "death", "2026-01-01T00:00:00Z")
    assert workers(client) == ()


@pytest.mark.parametrize(("said", "read"), [("1", True), ("0", False), (None, None)])
def test_a_worker_may_say_whether_its_model_has_a_chat_template(client, said, read):
    appear(client, "w1", **({} if said is None else {"chat_template": said}))
    [record] = workers(client)
    assert record.chat_template is read


@pytest.mark.parametrize("said", ["hermes", "", None])
def test_a_worker_may_say_how_its_model_writes_calls(client, said):
    appear(client, "w1", **({} if said is None else {"tool_format": said}))
    [record] = workers(client)
    assert record.tool_format == said


@pytest.mark.parametrize(
    ("said", "job_seconds"),
    [
        ({}, None),
        ({"job_seconds": "1.5"}, 1.5),
        ({"job_seconds": "1.5", "successful_job_count": "2", "total_working_time": "20"}, 1.5),
        ({"successful_job_count": "8", "failed_job_count": "2", "total_working_time": "20"}, 2.0),
        ({"successful_job_count": "0", "total_working_time": "20"}, None),
        ({"job_seconds": "soon"}, None),
        ({"job_seconds": "nan"}, None),
        ({"job_seconds": "-1"}, None),
        ({"job_seconds": "inf"}, None),
    ],
)
def test_a_worker_may_say_how_long_its_jobs_take_and_rq_counts_for_one_that_does_not(client, said, job_seconds):
    appear(client, "w1", **said)
    [record] = workers(client)
    assert record.job_seconds == job_seconds


@pytest.mark.parametrize(("state", "busy_seconds"), [("busy", 2.5), ("idle", None), ("suspended", None)])
def test_how_long_its_job_has_run_counts_while_it_has_one(client, state, busy_seconds):
    appear(client, "w1", state=state, busy_seconds="2.5", context_length="1024", device="cpu", queues="a,b")
    [record] = workers(client)
    assert (record.state, record.busy_seconds) == (state, busy_seconds)
    assert (record.context_length, record.device, record.queues) == (1024, "cpu", ("a", "b"))


def test_a_worker_of_rqs_own_says_less(client):
    client.hset("rq:worker:w1", "birth", "2026-01-01T00:00:00Z")
    client.sadd("rq:workers:generate.tiny.low", "rq:worker:w1")
    assert workers(client) == (WorkerRecord("w1", None, None, None),)


def test_what_is_no_text_in_a_record_hides_nobody(client):
    """Anybody may write there; a name or a host that cannot be read is shown as far as it can."""
    client.hset(
        b"rq:worker:w\xff", mapping={"birth": RECORD["birth"], "model_state": "ready", "hostname": b"h\xff"}
    )
    client.sadd("rq:workers:generate.tiny", b"rq:worker:w\xff")
    assert workers(client) == (WorkerRecord("w\ufffd", "ready", "h\ufffd", None),)


def test_an_answer_too_few_gives_nobody_anothers_record():
    with pytest.raises(ValueError, match="shorter"):
        live_workers([b"rq:worker:w1", b"rq:worker:w2"], [[b"2026-01-01T00:00:00Z", None, None, None, None, None]])
