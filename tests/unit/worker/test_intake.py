"""From RQ's job to an order: what is refused, and what is bounded."""

import json
import zlib
from datetime import UTC, datetime

import pytest
from fakeredis import FakeRedis
from rq.job import Job
from rq.utils import utcformat

from producer.contract import (
    FUNCTION,
    InvalidRequest,
    JobExpired,
    UnknownFunction,
    UnknownModel,
    WorkerLost,
)
from producer.ledger.take import Taken
from worker.intake import (
    MIN_RESULT_TTL_S,
    check_deaths,
    check_payload_size,
    read_order as read_order_of,
    result_ttl_s,
)
from worker.job import Order
from worker.settings import WorkerSettings

NOW_MS = 1_800_000_000_000
"""On Redis' clock, when the job was taken."""
QUEUES = ("generate.tiny.high", "generate.tiny", "generate.tiny.low")


@pytest.fixture
def settings() -> WorkerSettings:
    return WorkerSettings(model_name="tiny", result_ttl_s=500, max_result_ttl_s=1000, max_job_timeout_s=100)


def read_order(job: Job, settings: WorkerSettings, queue_names: tuple[str, ...], **own: object) -> Order:
    """own: fields that the ledger keeps beside RQ's."""
    raw = {name.encode(): str(value).encode() for name, value in own.items()}
    return read_order_of(job, Taken(job.id, raw, NOW_MS), settings, queue_names)


def at(ms: float) -> str:
    """RQ's form of a time."""
    return utcformat(datetime.fromtimestamp(ms / 1000, UTC))


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
    order = read_order(job(timeout=30, result_ttl=600, retries_left=2), settings, QUEUES)
    assert (order.job_id, order.model, order.request.prompt) == ("job-1", "tiny", "hi")
    assert (order.timeout_s, order.result_ttl_s, order.can_retry) == (30, 600, True)


@pytest.mark.parametrize(
    ("own", "enqueued_ms", "queued_ms"),
    [
        ({"queued_at_ms": NOW_MS - 1500}, NOW_MS - 99_000, 1500),
        ({"queued_at_ms": NOW_MS + 60_000}, NOW_MS, 0),
        ({}, NOW_MS - 2000, 2000),
        ({}, NOW_MS + 60_000, 0),
        ({"queued_at_ms": "soon"}, NOW_MS - 2000, 2000),
        ({"queued_at_ms": "9" * 20 + "x"}, NOW_MS - 2000, 2000),
    ],
    ids=[
        "Redis' clock",
        "a fail-over to a server behind",
        "plain RQ",
        "a producer ahead",
        "no number",
        "a number and more",
    ],
)
def test_the_wait_goes_by_redis_clock_and_is_never_negative(job, settings, own, enqueued_ms, queued_ms):
    order = read_order(job(enqueued_at=at(enqueued_ms)), settings, QUEUES, **own)
    assert order.queued_ms == pytest.approx(queued_ms)


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


ALLOWED = "https://hooks.example.org"


@pytest.mark.parametrize(
    ("url", "allowed", "is_allowed"),
    [
        ("https://hooks.example.org/a?b=1", ALLOWED, True),
        ("https://hooks.example.org", ALLOWED, True),
        ("https://hooks.example.org:443/a", ALLOWED, True),
        ("https://HOOKS.example.org/a", ALLOWED, True),
        ("https://hooks.example.org.evil.test/", ALLOWED, False),
        ("https://hooks.example.org@evil.test/", ALLOWED, False),
        ("https://hooks.example.org:8443/", ALLOWED, False),
        ("http://hooks.example.org/", ALLOWED, False),
        ("https://user@hooks.example.org/", ALLOWED, False),
        ("https://hooks.example.org:port/", ALLOWED, False),
        ("https://hooks.example.org/team/a", "https://hooks.example.org/team", True),
        ("https://hooks.example.org/team", "https://hooks.example.org/team", True),
        ("https://hooks.example.org/team/a", "https://hooks.example.org/team/", True),
        ("https://hooks.example.org/teams", "https://hooks.example.org/team", False),
        ("https://hooks.example.org/team/../admin", "https://hooks.example.org/team", False),
        ("https://hooks.example.org/team/%2e%2e/admin", "https://hooks.example.org/team", False),
        ("https://hooks.example.org/team/%2E./admin", "https://hooks.example.org/team", False),
    ],
)
def test_a_webhook_is_compared_as_a_url_and_not_as_text(job, url, allowed, is_allowed):
    fields = {"webhooks": json.dumps([{"url": url, "job_status": "finished"}])}
    settings = WorkerSettings(model_name="tiny", allowed_webhooks=(allowed,))
    if is_allowed:
        assert read_order(job(**fields), settings, QUEUES)
    else:
        with pytest.raises(InvalidRequest, match="allowed_webhooks"):
            read_order(job(**fields), settings, QUEUES)


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


def test_a_deadline_on_redis_clock_that_has_passed(job, settings):
    with pytest.raises(JobExpired):
        read_order(job(), settings, QUEUES, expires_at_ms=NOW_MS - 1)
    with pytest.raises(JobExpired):  # as RQ writes it of a job that never ran
        read_order(job(started_at=""), settings, QUEUES, expires_at_ms=NOW_MS - 1)


def test_a_producer_of_an_earlier_version_has_its_deadline_in_the_meta(job, settings):
    late = json.dumps({"expires_at": NOW_MS / 1000 - 1})
    with pytest.raises(JobExpired):
        read_order(job(meta=late), settings, QUEUES)
    assert read_order(job(meta=late), settings, QUEUES, expires_at_ms=NOW_MS + 1), "the clock of Redis counts"


def test_a_deadline_that_has_passed_since_a_worker_had_the_job(job, settings):
    late = {"meta": json.dumps({"expires_at": NOW_MS / 1000 - 1}), "started_at": at(NOW_MS - 5000)}
    assert read_order(job(**late), settings, QUEUES, expires_at_ms=NOW_MS - 1)


@pytest.mark.parametrize("expires_at", [NOW_MS / 1000 + 1000, "soon", None, "NaN"])
def test_a_deadline_to_come_or_none(job, settings, expires_at):
    assert read_order(job(meta=json.dumps({"expires_at": expires_at})), settings, QUEUES)


@pytest.mark.parametrize("expires_at_ms", [NOW_MS + 1000, NOW_MS, "soon", "", "-1", "9" * 400, "1" * 20 + "x"])
def test_a_deadline_on_redis_clock_to_come_or_none(job, settings, expires_at_ms):
    assert read_order(job(), settings, QUEUES, expires_at_ms=expires_at_ms)


def test_an_invalid_request_is_told_from_an_expired_one(job, settings):
    """What is wrong with a job is the same whenever it is read."""
    late = json.dumps({"expires_at": 1})
    with pytest.raises(InvalidRequest):
        read_order(job([FUNCTION, None, [], {"request": {}}], meta=late), settings, QUEUES)


class TestSize:
    BOUND = 10_000

    def check(self, **raw: bytes) -> None:
        fields = {name.encode(): value for name, value in raw.items()}
        check_payload_size(Taken("job-1", fields, NOW_MS, sum(map(len, fields.values()))), self.BOUND)

    def test_a_job_that_was_not_loaded_because_of_its_size(self):
        with pytest.raises(InvalidRequest, match="larger than 10000 bytes"):
            check_payload_size(Taken("job-1", {}, NOW_MS, self.BOUND + 1), self.BOUND)

    @pytest.mark.parametrize("data", [b"", b"x" * 10_000, zlib.compress(b"x" * 10_000), b"x\x9c not zlib"])
    def test_up_to_the_bound(self, data):
        self.check(data=data)

    @pytest.mark.parametrize("data", [b"x" * 10_001, zlib.compress(b"x" * 10_001), zlib.compress(bytes(10**6))])
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
