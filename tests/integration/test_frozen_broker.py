"""A server that stops answering and closes nothing, as a paused machine does: every bound holds, and nobody hangs.

The upper bounds are far above what is due, a fifth and half a second, and far below what went before.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from producer import AsyncProducer, BrokerUnavailable, JobHandle, Producer, ProducerSettings, WaitTimeout
from producer.broker.bounds import close_now
from producer.broker.connections import connect
from producer.broker.embedded import EmbeddedBroker
from producer.waking import Waker

BOUND_S = 1.0
PATIENCE_S = 8.0
"""Of a test, for what is due after BOUND_S. Without the bounds it took from 20 to 90 s."""


@pytest.fixture
def freezable() -> Iterator[EmbeddedBroker]:
    """A server of the test's own. It may be left frozen."""
    with EmbeddedBroker() as broker:
        yield broker
        os.kill(broker.pid, signal.SIGCONT)


def freeze(broker: EmbeddedBroker) -> None:
    os.kill(broker.pid, signal.SIGSTOP)


def settings(broker: EmbeddedBroker, **overrides: object) -> ProducerSettings:
    bounds = {"socket_timeout_s": 60, "connect_timeout_s": 60, "wait_s": 60, **overrides}
    return ProducerSettings.load(redis_url=broker.url, **bounds)


@contextlib.contextmanager
def taking_less_than(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@pytest.mark.parametrize("bound", ["socket_timeout_s", "connect_timeout_s"])
@pytest.mark.parametrize(
    "call",
    [
        lambda producer: producer.submit("Hi", model="tiny"),
        lambda producer: producer.status("a"),
        lambda producer: producer.cancel("a"),
        lambda producer: producer.workers("tiny"),
        lambda producer: producer.result("a"),
        lambda producer: next(producer.stream("a")),
    ],
    ids=["submit", "status", "cancel", "workers", "result", "stream"],
)
def test_a_command_is_bounded_with_its_connection_and_its_retries(
    freezable: EmbeddedBroker, bound: str, call: Callable[[Producer], object]
) -> None:
    """The kernel accepts the connection; the server answers no greeting."""
    freeze(freezable)
    with (
        Producer(settings=settings(freezable, **{bound: BOUND_S})) as producer,
        taking_less_than(PATIENCE_S),
        pytest.raises(BrokerUnavailable, match="does not answer"),
    ):
        call(producer)


def test_an_established_connection_is_bounded_too(freezable: EmbeddedBroker) -> None:
    with Producer(settings=settings(freezable, socket_timeout_s=BOUND_S)) as producer:
        handle = producer.submit("Hi", model="tiny")
        freeze(freezable)
        with taking_less_than(PATIENCE_S), pytest.raises(BrokerUnavailable, match="does not answer"):
            handle.status()


@pytest.mark.parametrize("is_open", [False, True], ids=["frozen before", "frozen while it waits"])
@pytest.mark.parametrize(
    "wait",
    [lambda handle: handle.result(timeout_s=BOUND_S), lambda handle: next(handle.stream(timeout_s=BOUND_S))],
    ids=["result", "stream"],
)
def test_a_wait_ends_with_its_own_bound_and_says_why(
    freezable: EmbeddedBroker, wait: Callable[[JobHandle], object], is_open: bool
) -> None:
    with Producer(settings=settings(freezable)) as producer:
        handle = producer.submit("Hi", model="tiny")
        if is_open:
            timer = threading.Timer(0.3, freeze, (freezable,))
            timer.start()
        else:
            freeze(freezable)
        with taking_less_than(PATIENCE_S), pytest.raises(WaitTimeout, match="Redis does not answer"):
            wait(handle)


def test_leaving_a_stream_and_closing_wait_for_no_answer(freezable: EmbeddedBroker) -> None:
    others = set(threading.enumerate())
    producer = Producer(settings=settings(freezable))
    handle = producer.submit("Hi", model="tiny")
    handle.cancel()
    other = producer.submit("Ho", model="tiny")
    stream = handle.stream()
    next(stream)

    def wait() -> None:
        with pytest.raises(RuntimeError, match="closed"):
            other.result()

    waiting = threading.Thread(target=wait)
    waiting.start()
    freeze(freezable)

    with taking_less_than(PATIENCE_S):
        stream.close()
        producer.close()
        waiting.join()

    deadline = time.monotonic() + PATIENCE_S
    while set(threading.enumerate()) - others and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= others, "a thread that waits for Redis is left"


def test_a_wake_that_is_still_to_be_sent_goes_with_the_producer(freezable: EmbeddedBroker) -> None:
    """It would make a connection after all others were closed, and wait for its greeting."""
    client = connect(freezable.url, connect_timeout_s=60, socket_timeout_s=60)
    waker = Waker(client, "a")
    others = set(threading.enumerate())
    freeze(freezable)
    waker.wake()
    while not waker._requests.empty():  # until the first is sent
        time.sleep(0.001)
    waker.wake()
    (thread,) = set(threading.enumerate()) - others

    waker.close()
    close_now(client)

    thread.join(PATIENCE_S)
    assert not thread.is_alive()


async def test_cancellation_and_closing_come_at_once_in_asyncio(freezable: EmbeddedBroker) -> None:
    async def first_event() -> None:
        async for _ in handle.stream():
            return

    with taking_less_than(3 * PATIENCE_S):
        async with AsyncProducer(settings=settings(freezable)) as producer:
            handle = await producer.submit("Hi", model="tiny")
            following = asyncio.create_task(first_event())
            while not producer._hub._subscriptions._by_stream:
                await asyncio.sleep(0)
            freeze(freezable)
            for call in (following, handle.result(), producer.submit("Ho", model="tiny")):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(BOUND_S):
                        await call


async def test_bounds_hold_in_asyncio(freezable: EmbeddedBroker) -> None:
    async with (
        AsyncProducer(settings=settings(freezable)) as producer,
        AsyncProducer(settings=settings(freezable, socket_timeout_s=BOUND_S)) as hasty,
        AsyncProducer(settings=settings(freezable, connect_timeout_s=BOUND_S)) as connecting,
    ):
        handle = await producer.submit("Hi", model="tiny")
        freeze(freezable)
        with taking_less_than(PATIENCE_S), pytest.raises(WaitTimeout, match="Redis does not answer"):
            await handle.result(timeout_s=BOUND_S)
        with taking_less_than(PATIENCE_S), pytest.raises(WaitTimeout, match="Redis does not answer"):
            await anext(handle.stream(timeout_s=BOUND_S))
        for bounded in (hasty, connecting):
            with taking_less_than(PATIENCE_S), pytest.raises(BrokerUnavailable, match="does not answer"):
                await bounded.status(handle.job_id)


def test_ctrl_c_ends_a_command_at_once(freezable: EmbeddedBroker) -> None:
    with Producer(freezable.url) as producer:
        handle = producer.submit("Hi", model="tiny")
    command = [sys.executable, "-m", "producer", "result", handle.job_id, "--redis-url", freezable.url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True) as process:
        with contextlib.closing(Producer(freezable.url)) as producer:
            while not any(client["cmd"] == "xread" for client in producer._link.client.client_list()):
                time.sleep(0.01)
        freeze(freezable)
        process.send_signal(signal.SIGINT)
        with taking_less_than(PATIENCE_S):
            _, said = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in said) == (130, False), said


def test_a_server_that_answers_again_is_followed_on(freezable: EmbeddedBroker) -> None:
    with Producer(settings=settings(freezable)) as producer:
        handle = producer.submit("Hi", model="tiny")
        threading.Timer(0.2, freeze, (freezable,)).start()
        with pytest.raises(WaitTimeout):
            handle.result(timeout_s=BOUND_S)
        os.kill(freezable.pid, signal.SIGCONT)

        assert handle.cancel() == "cancelled"
        assert handle.result(check=False).status == "cancelled"


def test_an_address_that_drops_everything_is_bounded() -> None:
    """A listener whose queue is full answers no handshake, as a blackholed route does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        with contextlib.ExitStack() as stack:
            for _ in range(4):  # fill it
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(address)
            url = f"redis://127.0.0.1:{address[1]}/0"
            producer = stack.enter_context(
                Producer(url, settings=ProducerSettings.load(connect_timeout_s=BOUND_S))
            )
            with taking_less_than(PATIENCE_S), pytest.raises(BrokerUnavailable, match="does not answer"):
                producer.submit("Hi", model="tiny")
