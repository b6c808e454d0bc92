"""What is waited for and what is not, on fakeredis: nobody waits in vain, and nobody gives up too soon."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import aclosing

import pytest
from fakeredis import FakeAsyncRedis, FakeRedis, FakeServer
from rq.job import Job
from rq.serializers import JSONSerializer

from producer import (
    AsyncProducer,
    BrokerUnavailable,
    InvalidRequest,
    JobCancelled,
    JobHandle,
    JobStatus,
    JobStranded,
    NoSuchJob,
    Producer,
    ProducerSettings,
    PromptTooLong,
    WaitTimeout,
)
from producer.contract import BEFORE_FIRST, ErrorInfo, Keys
from producer.operations import Operation, Operations
from producer.patience import CONFIRM_S, Patience
from producer.subscription import Subscription
from producer.waits import _LINE_END
from producer.waking import ThreadSignal
from tests.scripted_worker import ScriptedWorker

from .conftest import Clock

KEYS = Keys()
WAIT_S = 0.05
BOTH = pytest.mark.parametrize(
    "wait", [lambda handle, **bound: handle.result(**bound), lambda handle, **bound: list(handle.stream(**bound))]
)


@pytest.fixture
def producer(fake_server: FakeServer) -> Iterator[Producer]:
    """In place of the other tests': one that is impatient."""
    settings = ProducerSettings.load(wait_s=WAIT_S)
    with Producer(settings=settings, connection=FakeRedis(server=fake_server)) as producer:
        yield producer


@pytest.fixture
def handle(producer: Producer) -> JobHandle:
    return producer.submit("Hi", model="tiny")


@pytest.fixture
def clock(clock: Clock) -> Clock:
    """It begins at the time of Redis' answers, which go by the real clock: their bounds must not be over."""
    clock.now = time.monotonic()
    return clock


class Looks:
    """Counts them, and lets something happen before the first, the second and so on."""

    def __init__(self, operations: Operations, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of = Counter[str]()
        self._happenings: list[Callable[[], object]] = []
        real = operations.look

        def look(job_id: str, **how: float) -> Operation[object]:
            self.of[job_id] += 1
            if self._happenings:
                self._happenings.pop(0)()
            return (yield from real(job_id, **how))

        monkeypatch.setattr(operations, "look", look)

    def before_each(self, *happenings: Callable[[], object]) -> None:
        self._happenings += happenings


@pytest.fixture
def looks(producer: Producer, monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(producer._operations, monkeypatch)


def nothing() -> None:
    """Happens."""


@BOTH
def test_a_job_in_line_behind_a_live_worker_is_not_silent(
    handle: JobHandle, worker: ScriptedWorker, looks: Looks, wait: Callable[..., object]
) -> None:
    worker.register()
    looks.before_each(nothing, nothing, nothing, lambda: worker.play("a"))

    wait(handle)

    assert looks.of[handle.job_id] >= 4
    assert handle.result().text == "a"


@BOTH
def test_a_job_that_is_paused_for_another_is_not_silent(
    handle: JobHandle, worker: ScriptedWorker, client: FakeRedis, looks: Looks, wait: Callable[..., object]
) -> None:
    """It stays with its worker, and says nothing until the other has ended."""
    worker.register()
    worker.take(handle.job_id)
    client.hset(f"rq:job:{handle.job_id}", "meta", json.dumps({"phase": "paused", "tokens": 0}))
    looks.before_each(nothing, nothing, nothing, nothing, worker.finish)

    wait(handle)

    assert looks.of[handle.job_id] >= 5


@BOTH
def test_a_queue_that_nobody_serves_is_named_first(handle: JobHandle, wait: Callable[..., object]) -> None:
    with pytest.raises(WaitTimeout) as waited:
        wait(handle)

    assert str(waited.value).startswith(
        "no live worker serves tiny: start one, as `genqueue-worker run --model-name"
    )
    assert "queued, 1st in line" in str(waited.value)
    assert (waited.value.code, waited.value.job_id) == ("wait_timeout", handle.job_id)
    assert waited.value.hint.startswith("start one")


def test_that_nobody_serves_a_model_is_said_at_once_and_once(
    producer: Producer, worker: ScriptedWorker, caplog: pytest.LogCaptureFixture
) -> None:
    handles = producer.submit_many(["a", "b"], model="tiny")
    for handle in handles:
        stream = handle.stream()
        assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
            "no live worker serves tiny"
        ]
        stream.close()


@pytest.fixture
def fresh_rosters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look asks who serves the model."""
    monkeypatch.setattr("producer.waits.ROSTER_AGE_S", 0)


@BOTH
@pytest.mark.usefixtures("fresh_rosters")
def test_a_worker_that_restarts_just_at_the_first_look_is_waited_for(
    handle: JobHandle, worker: ScriptedWorker, client: FakeRedis, looks: Looks, wait: Callable[..., object]
) -> None:
    """Its record lives for seconds only. The wait has seen it, and does not begin with the worst."""
    worker.register()
    looks.before_each(lambda: client.delete("rq:worker:w1"), worker.register, lambda: worker.play("a"))

    wait(handle)

    assert handle.result().text == "a"


def test_a_thousand_waits_ask_once_who_serves_their_model(
    producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody does."""
    asked = []
    real = producer._operations.workers
    monkeypatch.setattr(producer._operations, "workers", lambda model: asked.append(model) or real(model))
    monkeypatch.setattr("producer.operations.time.monotonic", lambda: 1000.0)

    for handle in producer.submit_many(["a"] * 10, model="tiny"):
        handle.stream().close()

    assert asked == ["tiny"]


def test_where_somebody_serves_a_model_nothing_is_said(
    handle: JobHandle, worker: ScriptedWorker, caplog: pytest.LogCaptureFixture
) -> None:
    worker.register("loading")
    handle.stream().close()

    assert caplog.records == []


@BOTH
def test_a_job_that_runs_and_says_nothing_is_given_up(
    handle: JobHandle, worker: ScriptedWorker, wait: Callable[..., object]
) -> None:
    worker.register()
    worker.take()
    worker.publish("a")

    with pytest.raises(WaitTimeout, match="running on w1"):
        wait(handle)


@BOTH
def test_a_job_whose_only_worker_was_killed_is_not_said_to_go_on(
    handle: JobHandle, worker: ScriptedWorker, wait: Callable[..., object]
) -> None:
    """It stays in the dead worker's list until another comes."""
    worker.take()

    with pytest.raises(WaitTimeout, match="was with w1, which is not among the live workers") as waited:
        wait(handle)

    assert str(waited.value).startswith("no live worker serves tiny: start one")
    assert "goes on" not in str(waited.value)
    assert waited.value.hint.startswith("start one")


@BOTH
def test_a_job_that_runs_and_says_something_is_waited_for(
    handle: JobHandle, worker: ScriptedWorker, looks: Looks, wait: Callable[..., object]
) -> None:
    worker.take()
    looks.before_each(*(lambda: worker.publish("a") for _ in range(5)), worker.finish)

    wait(handle)

    assert handle.result().text == "aaaaa"


@BOTH
def test_nothing_is_asked_while_there_is_an_answer(
    fake_server: FakeServer, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch, wait: Callable[..., object]
) -> None:
    with Producer(connection=FakeRedis(server=fake_server)) as patient:
        looks = Looks(patient._operations, monkeypatch)
        handle = patient.submit("Hi", model="tiny")
        worker.play("a", "b")

        wait(handle)

    assert looks.of == {}


@BOTH
def test_a_wait_without_bound_goes_on_where_nobody_serves(
    handle: JobHandle, worker: ScriptedWorker, looks: Looks, wait: Callable[..., object]
) -> None:
    looks.before_each(nothing, nothing, nothing, lambda: worker.play("a"))

    wait(handle, timeout_s=float("inf"))

    assert looks.of[handle.job_id] >= 4


@BOTH
def test_an_outage_at_the_moment_of_a_look_is_survived(
    handle: JobHandle, worker: ScriptedWorker, fake_server: FakeServer, looks: Looks, wait: Callable[..., object]
) -> None:
    worker.register()

    def come_back() -> None:
        fake_server.connected = True
        worker.play("a")

    looks.before_each(lambda: setattr(fake_server, "connected", False), come_back)

    wait(handle)

    assert handle.result().text == "a"


def test_an_outage_that_lasts_ends_the_wait(handle: JobHandle, fake_server: FakeServer, looks: Looks) -> None:
    looks.before_each(lambda: setattr(fake_server, "connected", False))

    with pytest.raises(BrokerUnavailable) as raised:
        handle.result()
    assert raised.value.job_id == handle.job_id
    fake_server.connected = True


@BOTH
@pytest.mark.parametrize("timeout_s", [-1, float("nan"), "60"])
def test_what_is_no_time_is_refused_before_anything_is_asked(
    handle: JobHandle, wait: Callable[..., object], timeout_s: object
) -> None:
    with pytest.raises(InvalidRequest, match="timeout_s must be a number of seconds"):
        wait(handle, timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("bounds", "life_s"),
    [
        (("61000", "30"), 90),
        (("", "30"), 86_430),
        (("61000", "-1"), 660),
        (("soon", ""), 87_000),
        (("1", "30"), 86_430),
    ],
)
def test_a_jobs_life_is_read_from_the_job(
    producer: Producer, handle: JobHandle, client: FakeRedis, bounds: tuple[str, str], life_s: float
) -> None:
    """What its hash does not say comes from the settings."""
    fields = {"queued_at_ms": "1000", "expires_at_ms": bounds[0], "timeout": bounds[1]}
    client.hset(f"rq:job:{handle.job_id}", mapping=fields)

    standing = producer._link.run(producer._operations.standing(handle.job_id))

    assert producer._waits._life_s(standing) == life_s


def _publishing(producer: Producer, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token comes whenever somebody begins to wait, and not before."""
    real_wait = producer._hub.wait

    def publish_and_wait(subscription: Subscription, timeout_s: float) -> None:
        worker.publish("a")
        real_wait(subscription, timeout_s)

    monkeypatch.setattr(producer._hub, "wait", publish_and_wait)


def test_a_streams_bound_is_that_of_each_event(
    producer: Producer, handle: JobHandle, worker: ScriptedWorker, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.take()
    _publishing(producer, worker, monkeypatch)
    stream = handle.stream("1-0", timeout_s=100)

    for _ in range(5):
        next(stream)
        clock.turn(90)


def test_a_streams_bound_begins_when_it_is_read(
    producer: Producer, handle: JobHandle, worker: ScriptedWorker, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.take()
    _publishing(producer, worker, monkeypatch)
    stream = handle.stream("1-0", timeout_s=100)
    clock.turn(1000)

    assert next(stream).event.type == "tokens"


def test_events_that_no_read_has_brought_are_taken_before_a_wait_is_given_up(
    producer: Producer, handle: JobHandle, worker: ScriptedWorker
) -> None:
    """The wake that would have told the hub of the stream may have got lost."""
    worker.play("a")
    subscription, patience = Subscription(handle.job_id, BEFORE_FIRST, ThreadSignal()), Patience(0, WAIT_S)

    def next_event() -> str:
        operation = producer._waits.next_event(subscription, producer._hub.wait, patience)
        return str(producer._link.run(operation).event.type)

    assert [next_event() for _ in range(3)] == ["started", "tokens", "finished"]


def test_what_is_of_no_known_type_is_no_event_for_a_wait_to_go_on_for(
    producer: Producer, handle: JobHandle, worker: ScriptedWorker, client: FakeRedis
) -> None:
    worker.take()
    client.delete(KEYS.events(handle.job_id))
    client.xadd(KEYS.events(handle.job_id), {"type": "planned", "data": "{}"}, id="1-0")
    subscription = Subscription(handle.job_id, BEFORE_FIRST, ThreadSignal())

    with pytest.raises(WaitTimeout):
        producer._link.run(producer._waits.next_event(subscription, producer._hub.wait, Patience(0, WAIT_S)))


# --- whom nobody will end -------------------------------------------------------------------------------------


@BOTH
def test_a_job_that_was_cancelled_through_rq_is_not_waited_for(
    handle: JobHandle, client: FakeRedis, wait: Callable[..., object]
) -> None:
    Job.fetch(handle.job_id, connection=client, serializer=JSONSerializer).cancel()

    with pytest.raises(JobStranded, match="cancelled through RQ") as raised:
        wait(handle, timeout_s=1000)

    assert (raised.value.code, raised.value.job_id) == ("job_stranded", handle.job_id)
    assert "cancel it" in raised.value.hint


@BOTH
def test_a_job_that_was_taken_out_of_its_queue_is_not_waited_for(
    handle: JobHandle, client: FakeRedis, wait: Callable[..., object]
) -> None:
    client.lrem("rq:queue:generate.tiny", 0, handle.job_id)

    with pytest.raises(JobStranded, match="in no queue and with no live worker"):
        wait(handle, timeout_s=1000)
    assert handle.cancel() == "cancelled"


def test_a_job_that_is_lost_while_it_is_waited_for_is_found_out(
    handle: JobHandle, client: FakeRedis, worker: ScriptedWorker, looks: Looks
) -> None:
    worker.register()
    looks.before_each(nothing, lambda: client.lrem("rq:queue:generate.tiny", 0, handle.job_id))

    with pytest.raises(JobStranded):
        handle.result()


@pytest.mark.parametrize("when", ["before", "while it is waited for"])
def test_a_job_that_was_in_nobodys_hands_for_a_moment_is_not_lost(
    handle: JobHandle, client: FakeRedis, worker: ScriptedWorker, looks: Looks, when: str
) -> None:
    """As with a worker of another make, or RQ's own steps."""
    worker.register()

    def lose() -> None:
        client.lrem("rq:queue:generate.tiny", 0, handle.job_id)

    if when == "before":
        lose()
        looks.before_each(nothing)
    else:
        looks.before_each(nothing, lose)
    looks.before_each(lambda: worker.play("a", job_id=handle.job_id))

    assert handle.result().text == "a"


def test_a_job_that_is_missing_in_its_queue_is_looked_at_at_once_and_again_soon(
    producer: Producer, handle: JobHandle, client: FakeRedis, looks: Looks
) -> None:
    client.lrem("rq:queue:generate.tiny", 0, handle.job_id)
    patience = Patience(None, wait_s=60)

    producer._link.run(producer._waits.open_result(handle.job_id, patience))

    assert looks.of[handle.job_id] == 1
    assert patience.left_s <= CONFIRM_S


@pytest.mark.parametrize("others", [0, 5, _LINE_END, 3 * _LINE_END])
def test_a_job_in_a_queue_of_any_length_is_waited_for_without_a_look(
    producer: Producer, handle: JobHandle, client: FakeRedis, looks: Looks, others: int
) -> None:
    if others:
        client.rpush("rq:queue:generate.tiny", *(f"other-{number}" for number in range(others)))
    patience = Patience(None, wait_s=60)

    producer._link.run(producer._waits.open_result(handle.job_id, patience))

    assert looks.of == {}
    assert patience.left_s > CONFIRM_S


@pytest.mark.parametrize(("others", "is_stranded"), [(_LINE_END - 5, True), (_LINE_END + 5, False)])
def test_a_look_searches_the_end_of_a_long_queue_and_believes_the_rest(
    producer: Producer, handle: JobHandle, client: FakeRedis, others: int, is_stranded: bool
) -> None:
    """A thousand waits look at the same time: each costs Redis no more for those who wait before it."""
    queue = "rq:queue:generate.tiny"

    def look() -> JobStatus:
        return producer._link.run(producer._operations.look(handle.job_id, line_end=_LINE_END))[0]

    client.rpush(queue, *(f"other-{number}" for number in range(others)))
    assert (look().position, look().is_stranded) == (None if others > _LINE_END else 0, False)
    client.lrem(queue, 0, handle.job_id)
    assert look().is_stranded is is_stranded
    assert handle.status().is_stranded

    client.rpush(queue, handle.job_id)
    assert look().position == others


@pytest.mark.parametrize("status", ["failed", "finished", "canceled"])
def test_what_rq_says_of_a_job_that_a_worker_has_ends_no_wait(
    handle: JobHandle, client: FakeRedis, worker: ScriptedWorker, looks: Looks, status: str
) -> None:
    """RQ's upkeep on a host with a wrong clock fails jobs that run: only an event of ours ends one."""
    worker.take()
    client.hset(f"rq:job:{handle.job_id}", "status", status)

    assert handle.status().state == "running"
    assert not handle.status().is_stranded
    looks.before_each(lambda: worker.publish("a"), worker.finish)
    assert handle.result().text == "a"


@pytest.mark.parametrize("is_alive", [True, False])
def test_a_running_job_whose_workers_list_is_lost_goes_on_where_the_worker_lives(
    handle: JobHandle, client: FakeRedis, worker: ScriptedWorker, is_alive: bool
) -> None:
    worker.take()
    client.delete(KEYS.taken(worker.name))
    if is_alive:
        worker.register()

    assert handle.status().is_stranded is not is_alive


def test_a_job_that_is_taken_between_two_questions_is_not_lost(
    producer: Producer, handle: JobHandle, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the list of a worker that the first answer did not name: it is asked once more."""
    real = producer._operations._read_job

    def read_and_take(job_id: str) -> Operation[object]:
        fields = yield from real(job_id)
        worker.take()
        return fields

    monkeypatch.setattr(producer._operations, "_read_job", read_and_take)

    assert not handle.status().is_stranded


@pytest.mark.parametrize("status", ["deferred", "scheduled", "created", "ready"])
def test_a_job_in_one_of_rqs_registries_is_not_lost(handle: JobHandle, client: FakeRedis, status: str) -> None:
    client.lrem("rq:queue:generate.tiny", 0, handle.job_id)
    client.hset(f"rq:job:{handle.job_id}", "status", status)

    assert not handle.status().is_stranded


@BOTH
def test_a_job_whose_record_goes_is_not_waited_for(
    handle: JobHandle, client: FakeRedis, looks: Looks, wait: Callable[..., object]
) -> None:
    looks.before_each(client.flushall)

    with pytest.raises(NoSuchJob) as raised:
        wait(handle)
    assert raised.value.job_id == handle.job_id


@BOTH
def test_a_job_that_its_worker_writes_again_after_redis_came_back_empty_is_not_gone(
    handle: JobHandle, client: FakeRedis, worker: ScriptedWorker, looks: Looks, wait: Callable[..., object]
) -> None:
    """A look may fall between the loss and the worker's next event."""
    worker.take()
    entries = client.xrange(KEYS.events(handle.job_id))

    def fill_again() -> None:
        for entry_id, fields in entries:
            client.xadd(KEYS.events(handle.job_id), fields, id=entry_id)
        worker.finish()

    looks.before_each(client.flushall, fill_again)

    wait(handle)

    assert handle.result().text == ""


def test_the_result_is_enough_where_the_events_are_evicted_during_a_wait(
    handle: JobHandle, client: FakeRedis, worker: ScriptedWorker, looks: Looks
) -> None:
    def end_and_evict() -> None:
        client.delete(KEYS.events(handle.job_id))
        client.set(KEYS.result(handle.job_id), worker._result([], "finished", "stop").model_dump_json())

    worker.take()
    looks.before_each(end_and_evict)

    assert handle.result().status == "finished"


def test_a_stream_whose_events_are_evicted_says_so(
    handle: JobHandle, client: FakeRedis, worker: ScriptedWorker, looks: Looks
) -> None:
    def evict() -> None:
        client.delete(KEYS.events(handle.job_id))
        client.set(KEYS.result(handle.job_id), worker._result([], "finished", "stop").model_dump_json())

    worker.take()
    looks.before_each(evict)

    with pytest.raises(NoSuchJob, match="its result is still there") as raised:
        list(handle.stream())
    assert (raised.value.job_id, raised.value.hint) == (handle.job_id, "ask for its result")


def test_a_stream_that_was_followed_beyond_the_end_says_so(
    handle: JobHandle, worker: ScriptedWorker, looks: Looks
) -> None:
    """Its cursor is that of an earlier life, which Redis has lost."""
    worker.take()
    looks.before_each(lambda: worker.publish("a"), worker.finish)

    with pytest.raises(NoSuchJob, match="has ended with event 1-2, and its stream was followed from 1-50"):
        list(handle.stream("1-50"))


def test_a_job_that_ends_between_two_questions_is_not_lost(
    producer: Producer, handle: JobHandle, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it has ended is asked together with where it is."""
    worker.take()
    real = producer._operations._read_job

    def end_and_read(job_id: str) -> Operation[object]:
        fields = yield from real(job_id)
        if worker.job_id:
            worker.finish()
        worker.job_id = ""
        return fields

    monkeypatch.setattr(producer._operations, "_read_job", end_and_read)

    assert not handle.status().is_stranded


# --- how a job ended ------------------------------------------------------------------------------------------


def test_what_another_wrote_into_a_jobs_hash_harms_nobody(
    handle: JobHandle, client: FakeRedis, worker: ScriptedWorker
) -> None:
    client.hset(f"rq:job:{handle.job_id}", "enqueued_at", "2026-01-31T12:00:00+00:00")
    assert handle.status().enqueued_at is None
    client.hset(f"rq:job:{handle.job_id}", "origin", "generate.x y")

    with pytest.raises(NoSuchJob, match=r"'generate\.x y', and not ours"):
        handle.status()


def test_a_failed_jobs_result_raises_its_error(
    producer: Producer, handle: JobHandle, worker: ScriptedWorker
) -> None:
    worker.take()
    worker.publish("so far")
    worker.finish("failed", "error", ErrorInfo(code="prompt_too_long", message="too long: shorten it"))

    with pytest.raises(PromptTooLong, match="too long: shorten it") as raised:
        handle.result()

    assert (raised.value.code, raised.value.job_id) == ("prompt_too_long", handle.job_id)
    assert raised.value.hint == "shorten the prompt"
    assert handle.result(check=False).text == producer.result(handle.job_id, check=False).text == "so far"


def test_a_cancelled_jobs_result_raises(handle: JobHandle) -> None:
    handle.cancel()

    with pytest.raises(JobCancelled) as raised:
        handle.result()

    assert raised.value.job_id == handle.job_id
    assert handle.result(check=False).status == "cancelled"


def test_a_result_that_was_cut_off_says_so(producer: Producer, handle: JobHandle, worker: ScriptedWorker) -> None:
    worker.take()
    worker.publish("so far")
    worker.finish("finished", "length")

    assert handle.result().truncated
    other = producer.submit("Hi", model="tiny")
    worker.play("all of it")
    assert not other.result().truncated


# --- asyncio --------------------------------------------------------------------------------------------------


async def test_the_other_shell_waits_in_the_same_way(
    fake_server: FakeServer, client: FakeRedis, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = FakeAsyncRedis(server=fake_server)
    settings = ProducerSettings.load(wait_s=WAIT_S)
    async with AsyncProducer(settings=settings, connection=connection) as producer:
        looks = Looks(producer._operations, monkeypatch)
        job, lost, cancelled, unserved = [
            await producer.submit("Hi", model=model) for model in ("tiny", "tiny", "tiny", "other")
        ]
        worker.register()
        client.lrem("rq:queue:generate.tiny", 0, lost.job_id)
        await cancelled.cancel()
        with pytest.raises(JobStranded):
            await lost.result()
        with pytest.raises(JobStranded):
            _ = [event async for event in lost.stream()]
        with pytest.raises(JobCancelled):
            await cancelled.result()
        assert (await cancelled.result(check=False)).status == "cancelled"
        with pytest.raises(WaitTimeout, match=r"^no live worker serves other"):
            await unserved.result()
        looks.before_each(nothing, nothing, lambda: worker.play("a"))
        assert (await job.result()).text == "a"
    await connection.aclose()


async def test_the_other_shells_stream_is_bounded_for_each_event(
    fake_server: FakeServer, worker: ScriptedWorker, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = FakeAsyncRedis(server=fake_server)
    async with AsyncProducer(connection=connection) as producer:
        handle = await producer.submit("Hi", model="tiny")
        worker.take()
        real_wait = producer._hub.wait

        async def publish_and_wait(subscription: Subscription, timeout_s: float) -> None:
            worker.publish("a")
            await real_wait(subscription, timeout_s)

        monkeypatch.setattr(producer._hub, "wait", publish_and_wait)
        async with aclosing(handle.stream("1-0", timeout_s=100)) as stream:
            for _ in range(5):
                await anext(stream)
                clock.turn(90)
    await connection.aclose()


async def test_many_jobs_that_are_all_awaited_at_once_are_all_answered(
    fake_server: FakeServer, client: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody gives up because others are served before, nor where nobody announces an end: a look finds it.

    test_producer.py has 900 on a real server.
    """
    monkeypatch.setattr("producer.cold_streams.CHECK_EVERY_S", 3600)
    connection = FakeAsyncRedis(server=fake_server)
    workers = [ScriptedWorker(client, name=name) for name in ("w1", "w2")]
    for worker in workers:
        worker.register()
    settings = ProducerSettings.load(wait_s=WAIT_S)
    async with AsyncProducer(settings=settings, connection=connection) as producer:
        looks = Looks(producer._operations, monkeypatch)
        handles = await producer.submit_many([f"prompt {number}" for number in range(50)], model="tiny")
        waiting = [asyncio.create_task(handle.result()) for handle in handles]
        while min(looks.of[handle.job_id] for handle in handles) < 2:
            await asyncio.sleep(0.01)
        for number, handle in enumerate(handles):
            workers[number % 2].play(handle.job_id, job_id=handle.job_id)
            await asyncio.sleep(0)
        results = await asyncio.gather(*waiting)
    assert [result.text for result in results] == [handle.job_id for handle in handles]
    await connection.aclose()
