"""From RQ's job to an order: what is refused, and what is bounded."""

import json
import time
import zlib

import pytest
from fakeredis import FakeRedis
from rq.job import Job
from rq.utils import now, utcformat

from producer.contract import (
    FUNCTION,
    InvalidRequest,
    JobExpired,
    UnknownFunction,
    UnknownModel,
    WorkerLost,
)
from worker.intake import MIN_RESULT_TTL_S, check_deaths, check_payload_size, read_order, result_ttl_s
from worker.settings import WorkerSettings

QUEUES = ("generate.tiny.high", "generate.tiny", "generate.tiny.low")


@pytest.fixture
def settings() -> WorkerSettings:
    return WorkerSettings(model_name="tiny", result_ttl_s=500, max_result_ttl_s=1000, max_job_timeout_s=100)


@pytest.fixture
def job(fake_server):
    """Makes a job as it comes out of Redis, with fields changed."""

    def job(data=None, **fields) -> Job:
        data = [FUNCTION, None, [], {"request": {"prompt": "hi"}}] if data is None else data
        job = Job("job-1", connection=FakeRedis(server=fake_server), serializer="json")
        whole = {"data": json.dumps(data), "origin": "generate.tiny", "status": "queued", **fields}
        job.restore({name.encode(): str(value).encode() for name, value in whole.items()})
        return job

    return job


def test_a_good_job_becomes_an_order(job, settings):
    enqueued = utcformat(now())
    order = read_order(job(timeout=30, result_ttl=600, enqueued_at=enqueued, retries_left=2), settings, QUEUES)
    assert (order.job_id, order.model, order.request.prompt) == ("job-1", "tiny", "hi")
    assert (order.timeout_s, order.result_ttl_s, order.can_retry) == (30, 600, True)
    assert 0 <= order.queued_ms < 10_000


def test_a_job_that_does_not_say_when_it_was_enqueued(job, settings):
    assert read_order(job(), settings, QUEUES).queued_ms is None


@pytest.mark.parametrize(
    ("asked", "bound"),
    [(None, 100), ("30", 30), ("5000", 100), ("-1", 100), ("0", 100), ("9" * 400, 100)],
)
def test_the_time_out_is_bounded(job, settings, asked, bound):
    fields = {} if asked is None else {"timeout": asked}
    assert read_order(job(**fields), settings, QUEUES).timeout_s == bound


@pytest.mark.parametrize(
    ("asked", "bound"),
    [(None, 500), (600, 600), (5000, 1000), (-1, 1000), (-7, 1000), (0, MIN_RESULT_TTL_S), ("9" * 400, 1000)],
)
def test_the_result_ttl_is_bounded(job, settings, asked, bound):
    assert result_ttl_s(job(**({} if asked is None else {"result_ttl": asked})), settings) == bound


@pytest.mark.parametrize("function", ["os.system", "worker.jobs.generate2", "", None, 7, ["worker.jobs.generate"]])
def test_no_other_function(job, settings, function):
    with pytest.raises(UnknownFunction, match=FUNCTION):
        read_order(job([function, None, [], {"request": {"prompt": "hi"}}]), settings, QUEUES)


def test_no_method(job, settings):
    with pytest.raises(UnknownFunction):
        read_order(job([FUNCTION, "instance", [], {"request": {"prompt": "hi"}}]), settings, QUEUES)


@pytest.mark.parametrize(
    ("args", "kwargs"), [(["hi"], {}), ([], {}), ([], {"request": {}, "more": 1}), ([], ["request"]), ([], None)]
)
def test_no_other_arguments(job, settings, args, kwargs):
    with pytest.raises(InvalidRequest, match="one keyword argument"):
        read_order(job([FUNCTION, None, args, kwargs]), settings, QUEUES)


@pytest.mark.parametrize("data", ["hello", {}, [1, 2], 7])
def test_no_other_form_of_payload(job, settings, data):
    with pytest.raises(InvalidRequest, match='serializer="json"'):
        read_order(job(data), settings, QUEUES)


@pytest.mark.parametrize("origin", ["generate.other", "generate.tiny.urgent", "default", ""])
def test_no_other_queue(job, settings, origin):
    with pytest.raises(UnknownModel, match="serves tiny"):
        read_order(job(origin=origin), settings, QUEUES)


@pytest.mark.parametrize("kind", ["success", "failure", "stopped"])
def test_a_callback_has_to_be_listed_by_its_whole_name(job, kind):
    fields = {f"{kind}_callback_name": "mine.callbacks.note", f"{kind}_callback_timeout": 60}
    for allowed, refused in [((), True), (("mine.callbacks",), True), (("mine.callbacks.note",), False)]:
        settings = WorkerSettings(model_name="tiny", allowed_callbacks=allowed)
        if refused:
            with pytest.raises(InvalidRequest, match="allowed_callbacks"):
                read_order(job(**fields), settings, QUEUES)
        else:
            assert read_order(job(**fields), settings, QUEUES)


def test_a_webhook_has_to_begin_as_a_listed_one(job):
    hook = {"url": "https://hooks.example.org/a", "job_status": "finished"}
    fields = {"webhooks": json.dumps([hook])}
    with pytest.raises(InvalidRequest, match="allowed_webhooks"):
        read_order(job(**fields), WorkerSettings(model_name="tiny"), QUEUES)
    other = WorkerSettings(model_name="tiny", allowed_webhooks=("https://hooks.example.com/",))
    with pytest.raises(InvalidRequest, match="allowed_webhooks"):
        read_order(job(**fields), other, QUEUES)
    listed = WorkerSettings(model_name="tiny", allowed_webhooks=("https://hooks.example.org/",))
    assert read_order(job(**fields), listed, QUEUES)


def test_no_repeat(job, settings):
    with pytest.raises(InvalidRequest, match="repeat"):
        read_order(job(repeats_left=1), settings, QUEUES)


@pytest.mark.parametrize("meta", ["[]", "7", "null", '"text"', "{", "\x00"])
def test_meta_has_to_be_an_object(job, settings, meta):
    with pytest.raises(InvalidRequest, match="meta"):
        read_order(job(meta=meta), settings, QUEUES)


@pytest.mark.parametrize("intervals", ["[]", "7", "{}", '["1"]', "[true]", "[-1]", "[1.5]", "[31536001]", "null"])
def test_retry_intervals_have_to_be_seconds(job, settings, intervals):
    if intervals == "null":  # as good as none
        assert read_order(job(retries_left=1, retry_intervals=intervals), settings, QUEUES)
        return
    with pytest.raises(InvalidRequest, match="retry_intervals"):
        read_order(job(retries_left=1, retry_intervals=intervals), settings, QUEUES)


def test_a_deadline_that_has_passed(job, settings):
    late = json.dumps({"expires_at": time.time() - 1})
    with pytest.raises(JobExpired):
        read_order(job(meta=late), settings, QUEUES)
    with pytest.raises(JobExpired):
        read_order(job(meta=late, started_at=""), settings, QUEUES)  # as RQ writes it of a job that never ran


def test_a_deadline_that_has_passed_since_a_worker_had_the_job(job, settings):
    late = json.dumps({"expires_at": time.time() - 1})
    assert read_order(job(meta=late, started_at=utcformat(now())), settings, QUEUES)


def test_a_deadline_to_come(job, settings):
    assert read_order(job(meta=json.dumps({"expires_at": time.time() + 1000})), settings, QUEUES)


@pytest.mark.parametrize("expires_at", ["soon", None, "NaN"])
def test_a_deadline_that_is_none(job, settings, expires_at):
    assert read_order(job(meta=json.dumps({"expires_at": expires_at})), settings, QUEUES)


def test_an_invalid_request_is_told_from_an_expired_one(job, settings):
    """What is wrong with a job is the same whenever it is read."""
    late = json.dumps({"expires_at": 1})
    with pytest.raises(InvalidRequest):
        read_order(job([FUNCTION, None, [], {"request": {}}], meta=late), settings, QUEUES)


class TestSize:
    BOUND = 10_000

    def check(self, **raw: bytes) -> None:
        check_payload_size({name.encode(): value for name, value in raw.items()}, self.BOUND)

    @pytest.mark.parametrize("data", [b"", b"x" * 10_000, zlib.compress(b"x" * 10_000), b"x\x9c not zlib"])
    def test_up_to_the_bound(self, data):
        self.check(data=data)

    @pytest.mark.parametrize("data", [b"x" * 10_001, zlib.compress(b"x" * 10_001), zlib.compress(bytes(10**8))])
    def test_above_it(self, data):
        with pytest.raises(InvalidRequest, match="larger than 10000 bytes"):
            self.check(data=data)

    def test_other_fields_count(self):
        with pytest.raises(InvalidRequest):
            self.check(data=b"{}", meta=b"x" * 10_000)

    def test_a_job_without_a_payload(self):
        self.check(origin=b"generate.tiny")


class TestDeaths:
    @pytest.mark.parametrize("deaths", [None, b"0", b"2", b"", b"-5", b"many", b"\xff"])
    def test_too_few_to_count(self, deaths):
        check_deaths({} if deaths is None else {b"deaths": deaths}, 3)

    @pytest.mark.parametrize("deaths", [b"3", b"4", b"9" * 5000])
    def test_too_many(self, deaths):
        with pytest.raises(WorkerLost):
            check_deaths({b"deaths": deaths}, 3)
