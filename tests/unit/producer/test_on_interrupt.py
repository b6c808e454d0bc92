"""Ctrl-C that leaves the block of a producer, on fakeredis: what it cancels, and what it leaves alone."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from fakeredis import FakeAsyncRedis, FakeRedis, FakeServer

from producer import AsyncProducer, InvalidRequest, JobHandle, Producer, as_completed, gather, submitted
from producer.interrupts import CtrlC
from producer.operations import Operation
from tests.scripted_worker import ScriptedWorker


def state(client: FakeRedis, handle: JobHandle) -> str:
    with Producer(connection=client) as producer:
        return producer.status(handle.job_id).state


@contextmanager
def left(server: FakeServer, error: type[BaseException], **options: str) -> Iterator[Producer]:
    """A producer whose block is left by that error, at its end; it goes on."""
    producer = Producer(connection=FakeRedis(server=server), **options)
    with producer:
        yield producer
        assert not producer.__exit__(error, error(), None)


def test_what_waits_is_cancelled_and_what_runs_is_asked_to_end(
    fake_server: FakeServer, client: FakeRedis, worker: ScriptedWorker
) -> None:
    with left(fake_server, KeyboardInterrupt, on_interrupt="cancel") as producer:
        ended, running, started, *waiting = producer.submit_many(["a", "b", "c", "d", "e"], model="tiny")
        worker.play("a")
        worker.take()
        worker.publish("a")
        dying = ScriptedWorker(client, name="w2")
        dying.take(started.job_id)
        dying.publish("half")
        dying.put_back()

    assert state(client, ended) == "finished"
    assert state(client, running) == "running"
    assert client.exists(worker.keys.cancel(running.job_id))
    assert {state(client, handle) for handle in (started, *waiting)} == {"cancelled"}
    with Producer(connection=client) as other:
        assert other.result(started.job_id, check=False).text == "half"


@pytest.mark.parametrize(
    ("options", "error"), [({}, KeyboardInterrupt), ({"on_interrupt": "cancel"}, ZeroDivisionError)]
)
def test_nothing_is_cancelled_that_was_not_to_be(
    fake_server: FakeServer, client: FakeRedis, options: dict, error: type[BaseException]
) -> None:
    with left(fake_server, error, **options) as producer:
        handle = producer.submit("a", model="tiny")

    assert state(client, handle) == "queued"


def test_a_job_of_somebody_else_is_left_alone(
    fake_server: FakeServer, client: FakeRedis, producer: Producer
) -> None:
    """It was submitted here as well, and was there already."""
    other = producer.submit("a", model="tiny", job_id="shared")
    with left(fake_server, KeyboardInterrupt, on_interrupt="cancel") as interrupted:
        own = interrupted.submit("b", model="tiny", job_id="own")
        assert not interrupted.submit("a", model="tiny", job_id="shared").created

    assert (state(client, own), state(client, other)) == ("cancelled", "queued")


def test_a_job_that_is_gone_is_not_made_again(fake_server: FakeServer, client: FakeRedis) -> None:
    with left(fake_server, KeyboardInterrupt, on_interrupt="cancel") as producer:
        producer.submit("a", model="tiny")
        client.flushall()

    assert client.keys() == []


def test_what_is_waited_for_is_left_at_once_and_not_when_the_traceback_goes(producer: Producer) -> None:
    ended = []

    def press(_: object) -> None:
        raise KeyboardInterrupt

    def operation() -> Operation[None]:
        try:
            yield press
        finally:
            ended.append(True)

    with pytest.raises(KeyboardInterrupt) as held:
        producer._run(operation())

    assert ended
    assert held.tb  # it holds the frames


def test_a_job_whose_worker_says_something_meanwhile_is_cancelled_all_the_same(
    fake_server: FakeServer, client: FakeRedis, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at its events and the step that ends it."""
    real: Callable = submitted._read

    def read(*arguments: object) -> object:
        reply = real(*arguments)
        worker.take()
        worker.publish("a")
        worker.put_back()
        return reply

    monkeypatch.setattr(submitted, "_read", read)
    with left(fake_server, KeyboardInterrupt, on_interrupt="cancel") as producer:
        handle = producer.submit("a", model="tiny")

    assert state(client, handle) == "cancelled"


def test_a_redis_that_is_away_is_said_and_hides_no_ctrl_c(
    fake_server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    with left(fake_server, KeyboardInterrupt, on_interrupt="cancel") as producer:
        producer.submit_many(["a", "b"], model="tiny")
        fake_server.connected = False

    assert "of 2 jobs, 2 may go on" in caplog.text
    fake_server.connected = True


def test_there_is_no_more_time_for_it_than_its_bound(
    fake_server: FakeServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitted, "AT_ONCE", 1)
    monkeypatch.setattr(submitted, "time", SimpleNamespace(monotonic=iter([1.0, 7.0]).__next__))
    with Producer(connection=FakeRedis(server=fake_server), on_interrupt="cancel") as producer:
        handles = producer.submit_many(["a", "b"], model="tiny")
        steps = submitted.cancel_submitted(producer._operations, producer._submitted, deadline=6.0)
        producer._link.run(steps)

        assert [handle.status().state for handle in handles] == ["queued", "cancelled"]
    assert "of 2 jobs, 1 may go on: there was no time" in caplog.text


def test_what_has_ended_is_forgotten(fake_server: FakeServer, worker: ScriptedWorker) -> None:
    with Producer(connection=FakeRedis(server=fake_server), on_interrupt="cancel") as producer:
        first, second, third, fourth, _ = producer.submit_many([*"abcde"], model="tiny")
        for _ in range(4):
            worker.play("a")
        first.result()
        list(second.stream())
        gather([third])
        list(as_completed([fourth]))

        assert len(producer._submitted.newest_first()) == 1


def test_so_many_are_remembered_and_no_more(fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitted, "KEPT", 2)
    with Producer(connection=FakeRedis(server=fake_server), on_interrupt="cancel") as producer:
        handles = producer.submit_many([*"abc"], model="tiny")
        assert producer._submitted.newest_first() == [handles[2].job_id, handles[1].job_id]
    with Producer(connection=FakeRedis(server=fake_server)) as producer:
        producer.submit("a", model="tiny")
        assert producer._submitted.newest_first() == []


def test_anything_else_is_refused() -> None:
    with pytest.raises(InvalidRequest, match='on_interrupt is "leave" or "cancel", and not \'stop\''):
        Producer(on_interrupt="stop")


@pytest.mark.parametrize("pressed", [True, False])
def test_a_loop_that_ctrl_c_ends_is_told_from_a_task_that_is_cancelled(
    fake_server: FakeServer, client: FakeRedis, pressed: bool
) -> None:
    handles = []
    before = signal.getsignal(signal.SIGINT)

    async def main() -> None:
        connection = FakeAsyncRedis(server=fake_server)
        async with AsyncProducer(connection=connection, on_interrupt="cancel") as producer:
            handles.extend(await producer.submit_many(["a", "b"], model="tiny"))
            if pressed:
                os.kill(os.getpid(), signal.SIGINT)
            else:
                asyncio.current_task().cancel()
            await gather(handles)

    with pytest.raises(KeyboardInterrupt if pressed else asyncio.CancelledError):
        asyncio.run(main())

    assert {state(client, handle) for handle in handles} == {"cancelled" if pressed else "queued"}
    assert signal.getsignal(signal.SIGINT) is before


def test_whoever_handled_ctrl_c_before_has_it_back_in_whatever_order_they_end() -> None:
    before = signal.getsignal(signal.SIGINT)
    first, second = CtrlC(), CtrlC()
    first.begin()
    second.begin()

    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    first.end()
    second.end()

    assert first.was_pressed
    assert second.was_pressed
    assert signal.getsignal(signal.SIGINT) is before


def test_how_many_were_cancelled_is_in_the_log(fake_server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "producer")
    with left(fake_server, KeyboardInterrupt, on_interrupt="cancel") as producer:
        producer.submit_many(["a"] * 3, model="tiny")

    assert "Ctrl-C: 3 jobs were cancelled, or had ended" in caplog.text
