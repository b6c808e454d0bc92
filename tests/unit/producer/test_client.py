"""Producer on fakeredis: what lands on Redis, and what comes back."""

import copy
import json
import os
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fakeredis import FakeRedis, FakeServer
from rq import Queue
from rq.job import Job
from rq.registry import CanceledJobRegistry
from rq.serializers import JSONSerializer

from producer import (
    BrokerUnavailable,
    EventId,
    GenqueueError,
    InvalidRequest,
    NoSuchJob,
    Producer,
    ProducerSettings,
    QueueFull,
    WaitTimeout,
    WorkerInfo,
)
from producer.contract import BEFORE_FIRST, FUNCTION, JobConflict, Keys
from producer.subscription import INBOX_LIMIT, Subscription
from tests.scripted_worker import ScriptedWorker

from .streamed import texts_of

KEYS = Keys()


# --- submit ---------------------------------------------------------------------------------------------------


def test_a_submitted_job_stands_in_its_queue_as_one_of_rqs(producer: Producer, client: FakeRedis) -> None:
    handle = producer.submit("Hi", model="tiny", max_new_tokens=3)

    job = Job.fetch(handle.job_id, connection=client, serializer=JSONSerializer)
    assert job.kwargs == {"request": {"prompt": "Hi", "max_new_tokens": 3}}
    assert Queue("generate.tiny", connection=client).job_ids == [handle.job_id]
    assert [queue.name for queue in Queue.all(connection=client)] == ["generate.tiny"]
    assert (handle.model, handle.created) == ("tiny", True)


def test_every_key_of_a_submitted_job_has_a_ttl(producer: Producer, client: FakeRedis) -> None:
    handle = producer.submit("Hi", model="tiny", queue_ttl_s=100, result_ttl_s=10)

    assert 100 + 10 + 3590 <= client.ttl(f"rq:job:{handle.job_id}") <= 100 + 10 + 3600


@pytest.mark.parametrize(("priority", "queue"), [("high", ".high"), ("normal", ""), ("low", ".low")])
def test_the_priority_chooses_the_queue(producer: Producer, client: FakeRedis, priority: str, queue: str) -> None:
    handle = producer.submit("Hi", model="tiny", priority=priority)  # type: ignore[arg-type]

    assert client.lrange(f"rq:queue:generate.tiny{queue}", 0, -1) == [handle.job_id.encode()]


def test_jobs_are_served_in_the_order_of_their_submission(producer: Producer, worker: ScriptedWorker) -> None:
    handles = [producer.submit("Hi", model="tiny") for _ in range(3)]

    assert [worker.take() for _ in handles] == [handle.job_id for handle in handles]


def test_the_same_id_twice_is_the_same_job(producer: Producer, client: FakeRedis) -> None:
    first = producer.submit("Hi", model="tiny", job_id="mine")
    second = producer.submit("Hi", model="tiny", job_id="mine", priority="low", top_k=0)

    assert (first.created, second.created) == (True, False)
    assert client.llen("rq:queue:generate.tiny") == 1
    assert Job.fetch("mine", connection=client, serializer=JSONSerializer).kwargs["request"]["prompt"] == "Hi"


@pytest.mark.parametrize(
    ("prompt", "options"),
    [("something else", {}), ("Hi", {"seed": 1}), ("Hi", {"model": "other"})],
    ids=["prompt", "seed", "model"],
)
def test_an_id_of_another_job_is_a_conflict(
    producer: Producer, client: FakeRedis, worker: ScriptedWorker, prompt: str, options: dict[str, object]
) -> None:
    producer.submit("Hi", model="tiny", job_id="mine")
    worker.play("Ho")
    before = {key: client.dump(key) for key in client.keys("*")}

    with pytest.raises(JobConflict, match="job id mine is that of another request") as refused:
        producer.submit_many(["new", prompt], job_ids=["new", "mine"], **{"model": "tiny", **options})  # type: ignore[arg-type]

    assert refused.value.code == "job_conflict"
    assert {key: client.dump(key) for key in client.keys("*")} == before


def test_an_id_of_another_prefix_is_a_conflict(producer: Producer, fake_server: FakeServer) -> None:
    """Their jobs share RQ's hashes."""
    producer.submit("Hi", model="tiny", job_id="mine")

    with (
        Producer(connection=FakeRedis(server=fake_server), prefix="other") as other,
        pytest.raises(JobConflict, match="prefix"),
    ):
        other.submit("Hi", model="tiny", job_id="mine")


@pytest.mark.parametrize("left", ["rq:job:mine", KEYS.events("mine"), KEYS.result("mine")])
def test_an_id_is_taken_while_anything_of_its_job_is_left(
    producer: Producer, client: FakeRedis, worker: ScriptedWorker, left: str
) -> None:
    producer.submit("Hi", model="tiny", job_id="mine")
    worker.play("Ho")
    client.delete(*({"rq:job:mine", KEYS.events("mine"), KEYS.result("mine")} - {left}))

    assert producer.submit("Hi", model="tiny", job_id="mine").created is False
    assert client.llen("rq:queue:generate.tiny") == 0


def test_a_full_queue_refuses_and_enqueues_nothing(producer: Producer, client: FakeRedis) -> None:
    producer.submit("Hi", model="tiny", priority="high", job_id="first")
    producer.submit("Hi", model="tiny", priority="low")

    with pytest.raises(QueueFull, match="2 jobs wait for tiny and max_queued is 2"):
        producer.submit("Hi", model="tiny", job_id="third", max_queued=2)

    assert not client.exists("rq:job:third")
    assert producer.submit("Hi", model="tiny", job_id="first", max_queued=2).created is False
    assert producer.submit("Hi", model="tiny", max_queued=3).created is True
    assert producer.submit("Hi", model="other", max_queued=1).created is True


@pytest.mark.parametrize(
    "arguments",
    [
        {"model": "tiny"},
        {"model": "tiny", "prompt": "Hi", "messages": [{"role": "user", "content": "Hi"}]},
        {"model": "a model", "prompt": "Hi"},
        {"model": "tiny.high", "prompt": "Hi"},
        {"model": "tiny", "prompt": "Hi", "job_id": "a:b"},
        {"model": "tiny", "prompt": "Hi", "job_id": ""},
        {"model": "tiny", "prompt": "Hi", "temperature": float("nan")},
        {"model": "tiny", "prompt": "Hi", "temprature": 1.0},
        {"model": "tiny", "prompt": "Hi", "result_ttl_s": -1},
        {"model": "tiny", "prompt": "Hi", "queue_ttl_s": 0},
        {"model": "tiny", "prompt": "\ud800"},
        {"model": "tiny", "prompt": "x" * 50_000_000},
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    producer: Producer, client: FakeRedis, arguments: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest):
        producer.submit(**arguments)  # type: ignore[arg-type]

    assert client.keys() == []


def test_a_job_from_a_script_that_has_only_rq_is_followed_like_ours(
    producer: Producer, client: FakeRedis, worker: ScriptedWorker
) -> None:
    queue = Queue("generate.tiny", connection=client, serializer="json")
    job = queue.enqueue(FUNCTION, request={"prompt": "Hi"}, description="generate tiny")
    assert producer.status(job.id).describe() == "queued, 1st in line; no live worker serves tiny"

    worker.play("Ho")

    assert producer.result(job.id).text == "Ho"


def test_many_jobs_are_all_enqueued_or_none(producer: Producer, client: FakeRedis) -> None:
    with pytest.raises(QueueFull):
        producer.submit_many(["a", "b", "c"], model="tiny", max_queued=2)
    assert client.keys() == []

    handles = producer.submit_many(
        ["a", {"prompt": "b", "seed": 5}, "c"], model="tiny", max_queued=3, seed=1, job_ids=["x", "y", "z"]
    )

    assert client.lrange("rq:queue:generate.tiny", 0, -1) == [b"x", b"y", b"z"]
    jobs = Job.fetch_many(["x", "y", "z"], connection=client, serializer=JSONSerializer)
    assert [job.kwargs["request"]["seed"] for job in jobs if job] == [1, 5, 1]
    assert all(handle.created for handle in handles)


def test_one_bad_request_among_many_stops_them_all(producer: Producer, client: FakeRedis) -> None:
    with pytest.raises(InvalidRequest):
        producer.submit_many(["a", {"prompt": ""}], model="tiny")

    assert client.keys() == []


def test_no_jobs_at_all_are_no_error(producer: Producer) -> None:
    assert producer.submit_many([], model="tiny") == []


# --- stream and result ----------------------------------------------------------------------------------------


def test_a_stream_brings_each_event_once_and_ends_with_the_terminal_one(
    producer: Producer, worker: ScriptedWorker
) -> None:
    handle = producer.submit("Hi", model="tiny")
    playing = threading.Thread(target=worker.play, args=("你", "好", "!"))
    playing.start()

    events = list(handle.stream(timeout_s=60))
    playing.join()

    assert [str(event.id) for event in events] == ["1-0", "1-1", "1-2", "1-3", "1-4"]
    assert texts_of(events) == ["你", "好", "!"]
    assert events[-1].is_terminal
    assert handle.result().text == "你好!"


def test_a_late_subscriber_sees_the_whole_stream(producer: Producer, worker: ScriptedWorker) -> None:
    handle = producer.submit("Hi", model="tiny")
    worker.play("a", "b")

    assert texts_of(handle.stream()) == ["a", "b"]


@pytest.mark.parametrize("after", ["1-1", EventId(1, 1)])
def test_a_subscriber_goes_on_from_its_cursor(
    producer: Producer, worker: ScriptedWorker, after: EventId | str
) -> None:
    handle = producer.submit("Hi", model="tiny")
    worker.play("a", "b")

    assert [str(event.id) for event in handle.stream(after)] == ["1-2", "1-3"]


def test_after_the_terminal_event_comes_nothing(producer: Producer, worker: ScriptedWorker) -> None:
    handle = producer.submit("Hi", model="tiny")
    worker.play("a")

    assert list(handle.stream("1-2")) == []
    assert list(handle.stream("9-9")) == []


def test_a_stream_goes_on_over_attempts(producer: Producer, worker: ScriptedWorker, client: FakeRedis) -> None:
    handle = producer.submit("Hi", model="tiny")
    stream = handle.stream(timeout_s=60)
    worker.take()
    worker.publish("a")
    assert [str(next(stream).id) for _ in range(2)] == ["1-0", "1-1"]

    worker.put_back()
    ScriptedWorker(client, name="w2").play("b")

    assert [str(event.id) for event in stream] == ["2-2", "2-3", "2-4"]
    assert handle.result().text == "ab"


def test_one_process_follows_many_jobs(producer: Producer, worker: ScriptedWorker) -> None:
    handles = producer.submit_many([f"prompt {number}" for number in range(20)], model="tiny")
    texts: dict[str, list[str]] = {}

    def follow(job_id: str) -> None:
        texts[job_id] = texts_of(producer.stream(job_id, timeout_s=60))

    threads = [threading.Thread(target=follow, args=(handle.job_id,)) for handle in handles]
    for thread in threads:
        thread.start()
    for handle in handles:
        worker.play(handle.job_id, "!", job_id=handle.job_id)
    for thread in threads:
        thread.join()

    assert texts == {handle.job_id: [handle.job_id, "!"] for handle in handles}


def test_a_slow_reader_gets_more_than_its_inbox_holds(producer: Producer, worker: ScriptedWorker) -> None:
    handle = producer.submit("Hi", model="tiny")
    worker.take()
    pieces = [str(number) for number in range(INBOX_LIMIT + 300)]
    pipeline = worker.client.pipeline()
    for seq, piece in enumerate(pieces, start=1):
        data = f'{{"index":{seq - 1},"ids":[1],"text":"{piece}"}}'
        pipeline.xadd(KEYS.events(handle.job_id), {"type": "tokens", "data": data}, id=f"1-{seq}")
    pipeline.execute()
    worker.finish()

    stream = handle.stream(timeout_s=60)
    next(stream)
    (subscription,) = producer._hub._subscriptions._by_stream[KEYS.events(handle.job_id)]
    # One less where the first event was taken out of a full inbox: nothing is read again before RESUME_AT.
    while len(subscription.inbox) < INBOX_LIMIT - 1:
        time.sleep(0.001)

    assert texts_of(stream) == pieces


def test_the_result_waits_for_the_end(producer: Producer, worker: ScriptedWorker) -> None:
    handle = producer.submit("Hi", model="tiny")
    playing = threading.Thread(target=worker.play, args=("a", "b"))
    playing.start()

    result = handle.result(timeout_s=60)
    playing.join()

    assert (result.text, result.status, result.worker) == ("ab", "finished", "w1")


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_job_that_did_not_finish_has_a_result_too(
    producer: Producer, worker: ScriptedWorker, status: str
) -> None:
    handle = producer.submit("Hi", model="tiny")
    worker.take()
    worker.publish("so far")
    worker.finish(status, "error" if status == "failed" else "cancelled")  # type: ignore[arg-type]

    assert (handle.result(check=False).status, handle.result(check=False).text) == (status, "so far")


@pytest.mark.parametrize("gone", [[KEYS.result("a")], [KEYS.events("a")], ["rq:job:a", KEYS.events("a")]])
def test_a_result_is_found_while_events_or_result_are_left(
    producer: Producer, worker: ScriptedWorker, client: FakeRedis, gone: list[str]
) -> None:
    producer.submit("Hi", model="tiny", job_id="a")
    worker.play("text")
    client.delete(*gone)

    assert producer.result("a").text == "text"


def test_a_stream_whose_events_are_gone_points_to_the_result(
    producer: Producer, worker: ScriptedWorker, client: FakeRedis
) -> None:
    producer.submit("Hi", model="tiny", job_id="a")
    worker.play("text")
    client.delete(KEYS.events("a"))

    with pytest.raises(NoSuchJob, match="its result is still there"):
        list(producer.stream("a"))


@pytest.mark.parametrize("operation", ["result", "cancel", "status", "stream"])
def test_a_job_that_nobody_submitted_is_not_waited_for(producer: Producer, operation: str) -> None:
    with pytest.raises(NoSuchJob, match="never submitted"):
        list(getattr(producer, operation)("unknown"))


@pytest.mark.parametrize("operation", ["result", "cancel", "status", "stream"])
def test_what_cannot_be_a_job_id_is_refused(producer: Producer, operation: str) -> None:
    with pytest.raises(InvalidRequest, match="job id"):
        list(getattr(producer, operation)("a:b"))


def test_a_cursor_that_is_none_is_refused(producer: Producer) -> None:
    handle = producer.submit("Hi", model="tiny")

    with pytest.raises(InvalidRequest, match="<attempt>-<seq>"):
        next(handle.stream("yesterday"))


def test_whoever_subscribes_after_the_close_is_told(producer: Producer) -> None:
    hub = producer._hub
    hub.close()

    with hub.following("a", BEFORE_FIRST) as subscription:
        assert isinstance(subscription.error, RuntimeError)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whoever_subscribes_while_a_read_dies_gets_another_thread(
    producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dying thread has ended everybody, and is alive for a moment more."""
    hub, real = producer._hub, producer._hub._subscriptions.fail_all
    threads = []

    def fail_all(error: Exception) -> None:
        threads.append((threading.current_thread(), hub._thread))
        real(error)

    monkeypatch.setattr(hub._subscriptions, "fail_all", fail_all)
    monkeypatch.setattr(hub, "_read", lambda streams: 1 / 0)
    with hub.following("a", BEFORE_FIRST) as dead:
        hub.wait(dead, 60)
    dying, next_thread = threads[0]
    dying.join(60)  # its exception is this test's, and would be counted to the next one

    assert isinstance(dead.error, ZeroDivisionError)
    assert next_thread is not dying


def test_waiting_past_the_bound_says_what_is_known(producer: Producer, worker: ScriptedWorker) -> None:
    ahead = producer.submit("Hi", model="tiny")
    handle = producer.submit("Hi", model="tiny")
    with pytest.raises(WaitTimeout, match=r"no live worker serves tiny: start one.*queued, 2nd in line"):
        handle.result(timeout_s=0.05)

    worker.register("loading")
    with pytest.raises(WaitTimeout, match="w1 is loading tiny"):
        handle.result(timeout_s=0.05)

    worker.take()
    with pytest.raises(WaitTimeout, match="running on w1"):
        ahead.result(timeout_s=0.05)
    with pytest.raises(WaitTimeout, match="running on w1"):
        next(ahead.stream("1-0", timeout_s=0.05))


def _once_it_waits(producer: Producer, monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]) -> None:
    """Let something happen when a stream is open and its subscriber begins to wait."""
    real_wait = producer._hub.wait

    def happen_and_wait(subscription: Subscription, timeout_s: float) -> None:
        happen()
        real_wait(subscription, timeout_s)

    monkeypatch.setattr(producer._hub, "wait", happen_and_wait)


def test_waiting_for_a_job_that_disappeared_says_so(
    producer: Producer, client: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = producer.submit("Hi", model="tiny")
    _once_it_waits(producer, monkeypatch, client.flushall)

    with pytest.raises(NoSuchJob):
        next(handle.stream(timeout_s=0.05))


# --- cancel ---------------------------------------------------------------------------------------------------


def test_a_queued_job_is_ended_at_once(producer: Producer, client: FakeRedis) -> None:
    handle = producer.submit("Hi", model="tiny", result_ttl_s=50)
    channel = client.pubsub(ignore_subscribe_messages=True)
    channel.subscribe(KEYS.tokens(handle.job_id))
    channel.get_message(timeout=60)

    assert handle.cancel() == "cancelled"

    (event,) = handle.stream()
    assert (str(event.id), event.event.type) == ("1-0", "cancelled")
    assert handle.result(check=False) == event.event.data
    assert (handle.result(check=False).attempts, handle.result(check=False).finish_reason) == (0, "cancelled")
    assert client.llen("rq:queue:generate.tiny") == 0
    assert handle.job_id in CanceledJobRegistry("generate.tiny", connection=client)
    job = Job.fetch(handle.job_id, connection=client, serializer=JSONSerializer)
    assert job.is_canceled
    assert job.ended_at is not None
    message = channel.get_message(timeout=60)
    assert message is not None
    assert message["data"].decode() == event.to_json()
    for key in (f"rq:job:{handle.job_id}", KEYS.events(handle.job_id), KEYS.result(handle.job_id)):
        assert 40 <= client.ttl(key) <= 50


def test_a_running_job_gets_a_request_that_lasts(
    producer: Producer, client: FakeRedis, worker: ScriptedWorker
) -> None:
    handle = producer.submit("Hi", model="tiny")
    worker.take()

    assert handle.cancel() == handle.cancel() == "requested"

    assert client.ttl(KEYS.cancel(handle.job_id)) >= 86_000
    assert not client.exists(KEYS.result(handle.job_id))


def test_a_request_to_cancel_is_kept_for_a_whole_second_at_least(
    client: FakeRedis, worker: ScriptedWorker, fake_server: FakeServer
) -> None:
    """Redis refuses a TTL of 0."""
    settings = ProducerSettings.load(queue_ttl_s=0.5)
    with Producer(settings=settings, connection=FakeRedis(server=fake_server)) as producer:
        handle = producer.submit("Hi", model="tiny")
        worker.take()
        client.persist(f"rq:job:{handle.job_id}")

        assert handle.cancel() == "requested"


def test_a_job_between_the_queue_and_its_worker_gets_a_request(
    producer: Producer, client: FakeRedis, worker: ScriptedWorker
) -> None:
    handle = producer.submit("Hi", model="tiny")
    worker.pop()

    assert handle.cancel() == "requested"
    assert client.exists(KEYS.cancel(handle.job_id))


def test_a_job_that_was_put_back_keeps_its_text_when_it_is_cancelled(
    producer: Producer, worker: ScriptedWorker
) -> None:
    handle = producer.submit("Hi", model="tiny")
    worker.take()
    worker.publish("so ", "far")
    worker.put_back()

    assert handle.cancel() == "cancelled"

    events = list(handle.stream())
    assert [str(event.id) for event in events] == ["1-0", "1-1", "1-2", "2-3"]
    result = handle.result(check=False)
    assert (result.text, result.token_ids, result.attempts, result.worker) == ("so far", (1000, 1001), 1, "w1")


def test_a_cancel_that_meets_newer_events_looks_again(
    producer: Producer, client: FakeRedis, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker takes the job, publishes and puts it back while the cancel is between its read and its script."""
    handle = producer.submit("Hi", model="tiny")
    real_xrange = FakeRedis.xrange
    raced = []

    def xrange_then_race(self: FakeRedis, *args: object, **options: object) -> object:
        reply = real_xrange(self, *args, **options)
        if not raced:
            raced.append(True)
            worker.take()
            worker.publish("raced")
            worker.put_back()
        return reply

    monkeypatch.setattr(FakeRedis, "xrange", xrange_then_race)

    assert handle.cancel() == "cancelled"
    assert handle.result(check=False).text == "raced"


@pytest.mark.parametrize("how", ["played", "cancelled"])
def test_cancelling_a_job_that_has_ended_changes_nothing(
    producer: Producer, worker: ScriptedWorker, how: str
) -> None:
    handle = producer.submit("Hi", model="tiny")
    if how == "played":
        worker.play("done")
    else:
        handle.cancel()
    before = handle.result(check=False)

    assert handle.cancel() == "ended"
    assert handle.result(check=False) == before
    assert len([event for event in handle.stream() if event.is_terminal]) == 1


def test_a_job_cancelled_through_rq_can_be_ended_here(producer: Producer, client: FakeRedis) -> None:
    handle = producer.submit("Hi", model="tiny")
    Job.fetch(handle.job_id, connection=client, serializer=JSONSerializer).cancel()

    assert handle.cancel() == "cancelled"
    assert handle.result(check=False).status == "cancelled"


@pytest.mark.parametrize("status", ["failed", "finished", "stopped"])
def test_a_job_that_rq_has_ended_behind_our_back_can_be_ended_here(
    producer: Producer, client: FakeRedis, status: str
) -> None:
    handle = producer.submit("Hi", model="tiny")
    client.lrem("rq:queue:generate.tiny", 1, handle.job_id)
    client.hset(f"rq:job:{handle.job_id}", "status", status)
    client.zadd("rq:failed:generate.tiny", {handle.job_id: 2e9})
    assert handle.status().is_stranded

    assert handle.cancel() == "cancelled"

    assert handle.result(check=False).status == handle.status().state == "cancelled"
    assert client.zcard("rq:failed:generate.tiny") == 0


def test_a_job_whose_hash_is_gone_can_be_ended(
    producer: Producer, client: FakeRedis, worker: ScriptedWorker
) -> None:
    handle = producer.submit("Hi", model="tiny")
    worker.take()
    worker.publish("so far")
    client.delete(f"rq:job:{handle.job_id}", KEYS.taken(worker.name))

    assert handle.cancel() == "cancelled"

    assert (handle.result(check=False).text, handle.result(check=False).model) == ("so far", "tiny")
    assert not client.exists(f"rq:job:{handle.job_id}")


def test_a_request_to_cancel_does_not_outlive_its_job(
    producer: Producer, client: FakeRedis, worker: ScriptedWorker
) -> None:
    """One that comes after the end would stop the next job of that id."""
    handle = producer.submit("Hi", model="tiny", job_id="mine")
    worker.play("Ho")
    assert handle.cancel() == "ended"
    assert not client.exists(KEYS.cancel("mine"))
    client.delete("rq:job:mine", KEYS.events("mine"), KEYS.result("mine"))
    client.set(KEYS.cancel("mine"), "1")  # of a producer of an earlier version

    assert producer.submit("again", model="tiny", job_id="mine").created is True

    assert not client.exists(KEYS.cancel("mine"))


def test_a_job_that_waits_for_another_can_be_cancelled(producer: Producer, client: FakeRedis) -> None:
    queue = Queue("generate.tiny", connection=client, serializer="json")
    first = queue.enqueue(FUNCTION, request={"prompt": "Hi"})
    second = queue.enqueue(FUNCTION, request={"prompt": "Hi"}, depends_on=first)
    assert producer.status(second.id).state == "deferred"

    assert producer.cancel(second.id) == "cancelled"

    assert producer.result(second.id, check=False).status == "cancelled"
    assert second.id not in queue.deferred_job_registry


def test_a_job_of_another_queue_is_left_alone(producer: Producer, client: FakeRedis) -> None:
    job = Queue("mail", connection=client, serializer="json").enqueue("mail.send")

    for operation in (producer.cancel, producer.status):
        with pytest.raises(NoSuchJob, match="another RQ queue, 'mail'"):
            operation(job.id)


def test_nobody_waits_for_a_job_of_another_deployment(producer: Producer, fake_server: FakeServer) -> None:
    """Their jobs share RQ's hashes, and nobody would ever end this one here: that is known at once."""
    handle = producer.submit("Hi", model="tiny")

    with Producer(connection=FakeRedis(server=fake_server), prefix="other") as other:
        for wait in (other.result, lambda job_id, **options: next(other.stream(job_id, **options))):
            with pytest.raises(NoSuchJob, match=r"another RQ queue, 'generate\.tiny'"):
                wait(handle.job_id, timeout_s=1000)


# --- status ---------------------------------------------------------------------------------------------------


def test_the_place_in_line_counts_the_queues_that_are_served_before(producer: Producer) -> None:
    low = producer.submit("Hi", model="tiny", priority="low")
    normal = [producer.submit("Hi", model="tiny") for _ in range(2)]
    high = producer.submit("Hi", model="tiny", priority="high")

    assert [handle.status().position for handle in (high, *normal, low)] == [0, 1, 2, 3]


def test_the_status_names_the_workers_that_live(
    producer: Producer, client: FakeRedis, worker: ScriptedWorker
) -> None:
    handle = producer.submit("Hi", model="tiny")
    worker.register("loading")
    ScriptedWorker(client, name="dead").register()
    client.hset("rq:worker:dead", "death", "2026-01-01T00:00:00Z")
    ScriptedWorker(client, name="expired").register()
    client.delete("rq:worker:expired")
    ScriptedWorker(client, name="w9", model="other").register()

    status = handle.status()

    assert status.workers == (WorkerInfo(name="w1", model_state="loading"),)
    assert producer.workers("tiny") == status.workers
    assert producer.workers("another") == ()
    assert (status.state, status.queue, status.has_result) == ("queued", "generate.tiny", False)
    assert status.enqueued_at is not None


def test_the_status_of_a_running_job_shows_its_progress(
    producer: Producer, client: FakeRedis, worker: ScriptedWorker
) -> None:
    handle = producer.submit("Hi", model="tiny")
    worker.register()
    worker.take()
    job = Job.fetch(handle.job_id, connection=client, serializer=JSONSerializer)
    job.meta.update(phase="decode", tokens=12, tokens_per_second=30.0)
    job.save_meta()

    status = handle.status()

    assert (status.state, status.worker, status.position) == ("running", "w1", None)
    assert status.describe() == "running on w1 (decode, 12 tokens, 30.0 tokens/s)"


def test_the_status_outlives_rqs_own_hash(producer: Producer, client: FakeRedis, worker: ScriptedWorker) -> None:
    producer.submit("Hi", model="tiny", job_id="a")
    worker.play("text")
    client.delete("rq:job:a")

    status = producer.status("a")

    assert (status.state, status.model, status.worker, status.has_result) == ("finished", "tiny", "w1", True)


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_pickled_job_is_not_unpickled(producer: Producer, client: FakeRedis, tmp_path: Path) -> None:
    """Only RQ's own loader reads `data`; nothing here may."""
    exploded = tmp_path / "exploded"
    boom = pickle.dumps(Bomb(exploded), protocol=0)  # plain ASCII, which comes through every decoding
    pickle.loads(boom)
    exploded.rmdir()  # the bomb is armed
    client.hset("rq:job:a", mapping={"origin": "generate.tiny", "status": "queued", "data": boom, "meta": boom})
    client.rpush("rq:queue:generate.tiny", "a")

    assert producer.status("a").progress is None
    assert producer.cancel("a") == "cancelled"
    assert producer.result("a", check=False).status == "cancelled"
    assert not exploded.exists()


# --- the producer itself --------------------------------------------------------------------------------------


def test_an_outage_is_reported_with_what_to_do(producer: Producer, fake_server: FakeServer) -> None:
    fake_server.connected = False

    with pytest.raises(BrokerUnavailable, match="check the URL and that the server runs"):
        producer.submit("Hi", model="tiny")


def test_a_stream_survives_an_outage_within_its_bound(
    worker: ScriptedWorker, fake_server: FakeServer, failed_read: threading.Event
) -> None:
    with Producer(connection=FakeRedis(server=fake_server, socket_timeout=0.1)) as producer:
        handle = producer.submit("Hi", model="tiny")
        worker.take()
        stream = handle.stream(timeout_s=60)
        next(stream)

        fake_server.connected = False
        assert failed_read.wait(60)
        fake_server.connected = True
        worker.publish("a", "b")
        worker.finish()

        assert texts_of(stream) == ["a", "b"]


def test_an_outage_past_the_bound_ends_the_stream(
    producer: Producer, fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = producer.submit("Hi", model="tiny")
    _once_it_waits(producer, monkeypatch, lambda: setattr(fake_server, "connected", False))

    with pytest.raises(BrokerUnavailable):
        next(handle.stream(timeout_s=1))  # long enough that it waits at all on a busy machine


def test_a_closed_producer_says_so(fake_server: FakeServer) -> None:
    with Producer(connection=FakeRedis(server=fake_server)) as producer:
        handle = producer.submit("Hi", model="tiny")
    producer.close()

    for use in (lambda: producer.submit("Hi", model="tiny"), handle.result, lambda: next(handle.stream())):
        with pytest.raises(RuntimeError, match="this Producer is closed"):
            use()


def test_closing_ends_the_streams_that_are_read_and_the_thread(fake_server: FakeServer) -> None:
    others = set(threading.enumerate())
    producer = Producer(connection=FakeRedis(server=fake_server))
    handle = producer.submit("Hi", model="tiny")
    ended: list[BaseException] = []

    def follow() -> None:
        try:
            list(handle.stream(timeout_s=60))
        except RuntimeError as error:
            ended.append(error)

    follower = threading.Thread(target=follow)
    follower.start()
    while len(set(threading.enumerate()) - others) < 2:  # the follower and the hub
        time.sleep(0.001)
    producer.close()
    follower.join(60)

    assert "closed" in str(ended[0])
    assert set(threading.enumerate()) <= others


def test_what_cannot_be_sent_to_another_process_says_what_can(producer: Producer) -> None:
    """A pool's worker that returned a handle was told of a lock that cannot be pickled."""
    for thing in (producer, producer.submit("Hi", model="tiny")):
        for send in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match="send their job_id, and make a producer there"):
                send(thing)


def test_a_forked_child_is_told_to_make_its_own(producer: Producer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: -1)

    with pytest.raises(RuntimeError, match="make a new one here"):
        producer.submit("Hi", model="tiny")


def test_a_connection_that_decodes_is_refused(fake_server: FakeServer) -> None:
    with pytest.raises(ValueError, match="decode_responses"):
        Producer(connection=FakeRedis(server=fake_server, decode_responses=True))


def test_the_prefix_keeps_producers_apart(fake_server: FakeServer, client: FakeRedis) -> None:
    with Producer(connection=FakeRedis(server=fake_server), prefix="mine") as producer:
        producer.submit("Hi", model="tiny", job_id="a").cancel()

    assert client.exists("mine:{a}:result")
    assert not client.exists("gen:{a}:result")


def test_arguments_come_before_settings() -> None:
    settings = ProducerSettings.load(redis_url="redis://one", prefix="one", wait_s=5)

    with Producer("redis://two", settings=settings, prefix="two") as producer:
        assert (producer.settings.redis_url, producer.settings.prefix) == ("redis://two", "two")
        assert producer.settings.wait_s == 5


def test_a_foreign_event_is_an_error_and_no_hang(
    producer: Producer, client: FakeRedis, worker: ScriptedWorker
) -> None:
    handle = producer.submit("Hi", model="tiny")
    worker.take()
    stream = handle.stream(timeout_s=60)
    next(stream)
    client.xadd(KEYS.events(handle.job_id), {"type": "tokens", "data": "{}"}, id="1-1")

    with pytest.raises(GenqueueError, match="contract version 1"):
        next(stream)


@pytest.mark.parametrize(
    "fields", [{"type": "tokens", "data": "secret"}, {"data": "{}"}, {"type": b"\xff", "data": "{}"}]
)
def test_whoever_asks_for_a_job_with_a_foreign_event_is_told_so(
    producer: Producer, client: FakeRedis, fields: dict[str, str]
) -> None:
    handle = producer.submit("Hi", model="tiny")
    client.xadd(KEYS.events(handle.job_id), fields, id="1-0")

    for operation in (handle.status, handle.cancel, lambda: handle.result(timeout_s=60)):
        with pytest.raises(GenqueueError, match="entry 1-0 is no event of contract version 1") as told:
            operation()
        assert "secret" not in str(told.value)
        assert told.value.__suppress_context__


def test_what_stands_in_place_of_a_result_is_named_as_such(producer: Producer, client: FakeRedis) -> None:
    client.set(KEYS.result("mine"), "secret")

    for operation in (producer.status, producer.result):
        with pytest.raises(GenqueueError, match="in place of the result of job mine is none"):
            operation("mine")


def test_an_event_of_a_later_version_is_passed_over_by_every_reader(
    producer: Producer, client: FakeRedis, worker: ScriptedWorker
) -> None:
    """Also where it is the last so far, and where the job is ended from here."""
    handle = producer.submit("Hi", model="tiny")
    client.xadd(KEYS.events(handle.job_id), {"type": "planned", "data": '{"steps":1}'}, id="1-0")

    assert handle.status().state == "queued"
    assert handle.cancel() == "cancelled"
    assert [str(event.id) for event in handle.stream(timeout_s=10)] == ["2-1"]
    assert handle.result(timeout_s=10, check=False).status == "cancelled"


def test_a_status_of_a_later_version_is_shown_as_it_is(producer: Producer, client: FakeRedis) -> None:
    result = {"job_id": "a", "status": "paused", "model": "tiny", "finish_reason": "tool", "more": 1}
    client.set(KEYS.result("a"), json.dumps(result))

    assert producer.status("a").state == "paused"
    assert producer.status("a").describe() == "paused"
    assert producer.result("a", check=False).finish_reason == "tool"


# --- many results at once -------------------------------------------------------------------------------------


def _announce_end(client: FakeRedis, job_id: str) -> None:
    """As whoever ends a job does it."""
    for waiter in client.smembers(KEYS.waiters(job_id)):
        client.xadd(waiter, {"ended": job_id})


def test_an_end_that_is_announced_reaches_its_waiter_among_many(
    producer: Producer, client: FakeRedis, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.cold_streams.CHECK_EVERY_S", 3600)  # nobody looks without being told
    handles = producer.submit_many(["Hi"] * 13, model="tiny")
    results: dict[str, str] = {}

    def wait(job_id: str) -> None:
        results[job_id] = producer.result(job_id, timeout_s=60).text

    threads = [threading.Thread(target=wait, args=(handle.job_id,)) for handle in handles]
    for thread in threads:
        thread.start()
    for handle in handles:
        while not client.exists(KEYS.waiters(handle.job_id)):
            time.sleep(0.001)
        assert 0 < client.ttl(KEYS.waiters(handle.job_id)) <= 86_400
    for handle in handles:
        worker.play(handle.job_id, job_id=handle.job_id)
        _announce_end(client, handle.job_id)
    for thread in threads:
        thread.join()

    assert results == {handle.job_id: handle.job_id for handle in handles}


def test_ends_that_nobody_announces_reach_many_waiters(producer: Producer, worker: ScriptedWorker) -> None:
    """Written by a worker that knows of no waiters."""
    handles = producer.submit_many(["Hi"] * 13, model="tiny")
    results: dict[str, str] = {}

    def wait(job_id: str) -> None:
        results[job_id] = producer.result(job_id, timeout_s=60).text

    threads = [threading.Thread(target=wait, args=(handle.job_id,)) for handle in handles]
    for thread in threads:
        thread.start()
    for handle in handles:
        worker.play(handle.job_id, job_id=handle.job_id)
    for thread in threads:
        thread.join()

    assert results == {handle.job_id: handle.job_id for handle in handles}


def test_an_end_just_before_it_is_waited_for_is_not_missed(
    producer: Producer, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look and the announcement: the announcement looks once more."""
    handle = producer.submit("Hi", model="tiny")
    real_announce = producer._waits.announce

    def play_and_announce(job_id: str, wake_key: str) -> object:
        worker.play("ended meanwhile")
        return real_announce(job_id, wake_key)

    monkeypatch.setattr(producer._waits, "announce", play_and_announce)
    monkeypatch.setattr(
        producer._hub, "wait", lambda *_: pytest.fail("it has ended: there is nothing to wait for")
    )

    assert handle.result().text == "ended meanwhile"


def test_a_server_that_refuses_the_announcement_is_waited_on_all_the_same(
    producer: Producer, client: FakeRedis, worker: ScriptedWorker
) -> None:
    """A replica, or a user whose ACL is older."""
    handle = producer.submit("Hi", model="tiny")
    client.set(KEYS.waiters(handle.job_id), "of another kind")  # refused in the same way: an error in its place
    playing = threading.Thread(target=worker.play, args=("a",))
    playing.start()

    assert handle.result(timeout_s=60).text == "a"
    playing.join()
