"""A fail-over behind one address, as managed services make it: the name leads new connections to the new primary,
and the old server keeps the old ones open, read-only and cut off.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import redis

from producer import AsyncProducer, Producer
from producer.broker.embedded import EmbeddedBroker
from tests.scripted_worker import ScriptedWorker


class Forwarder:
    """One address. Each new connection goes to `target`; those that exist stay where they are."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._sockets = [self._listener]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, target: object, *args: socket.socket) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                ours, _ = self._listener.accept()
                theirs = socket.create_connection(("127.0.0.1", self.target))
                self._sockets += [ours, theirs]
                self._start(self._pump, ours, theirs)
                self._start(self._pump, theirs, ours)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End every connection."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for each in self._sockets:
            each.close()


class Pair:
    """A primary and its replica, and the address that leads to whichever is primary."""

    def __init__(self, old: redis.Redis, new: redis.Redis, forwarder: Forwarder, new_port: int) -> None:
        self.old, self.new = old, new
        self.forwarder = forwarder
        self._new_port = new_port

    def fail_over(self, *, demote: bool = True) -> None:
        """Promote the replica. The old primary keeps its connections, and hears of nothing any more.

        demote: it becomes a replica, of nothing that is there; else it does not know that it is none any more.
        """
        self.new.replicaof("no", "one")
        if demote:
            self.old.replicaof("127.0.0.1", 1)
        self.forwarder.target = self._new_port


@pytest.fixture
def pair() -> Iterator[Pair]:
    with (
        EmbeddedBroker(options=("--repl-diskless-sync-delay", "0")) as first,
        EmbeddedBroker() as second,
        redis.Redis(port=first.port) as old,
        redis.Redis(port=second.port) as new,
    ):
        new.replicaof("127.0.0.1", first.port)
        while new.info("replication")["master_link_status"] != "up":
            time.sleep(0.02)
        forwarder = Forwarder(first.port)
        yield Pair(old, new, forwarder, second.port)
        forwarder.close()


def caught_up(pair: Pair, job_id: str) -> None:
    """Wait until the replica has the job."""
    while not pair.new.exists(f"rq:job:{job_id}"):
        time.sleep(0.02)


def test_a_producer_goes_on_at_the_new_primary(pair: Pair) -> None:
    """Its connections stayed with the old one, which answers READONLY for ever."""
    with Producer(pair.forwarder.url) as producer:
        before = producer.submit("Hi", model="tiny")
        caught_up(pair, before.job_id)
        pair.fail_over()

        after = producer.submit("Ho", model="tiny")

        assert pair.new.exists(f"rq:job:{after.job_id}")
        assert before.cancel() == "cancelled"


@pytest.mark.parametrize("demote", [True, False])
@pytest.mark.parametrize("wait", ["stream", "result"])
def test_a_follower_goes_on_although_the_old_server_stays_silent(pair: Pair, wait: str, demote: bool) -> None:
    with Producer(pair.forwarder.url) as producer:
        handle = producer.submit("Hi", model="tiny")
        caught_up(pair, handle.job_id)
        seen: list[str] = []

        def follow() -> None:
            if wait == "stream":
                seen.extend(event.event.type for event in handle.stream(timeout_s=40))
            else:
                seen.append(handle.result(timeout_s=40).status)

        follower = threading.Thread(target=follow)
        follower.start()
        ScriptedWorker(pair.old).wait_for_reader()
        pair.fail_over(demote=demote)
        ScriptedWorker(pair.new).play("a")
        follower.join()

        assert seen[-1] == "finished"


async def test_an_async_producer_goes_on_at_the_new_primary(pair: Pair) -> None:
    async with AsyncProducer(pair.forwarder.url) as producer:
        handle = await producer.submit("Hi", model="tiny")
        await asyncio.to_thread(caught_up, pair, handle.job_id)
        waiting = asyncio.create_task(handle.result(timeout_s=40))
        await asyncio.to_thread(ScriptedWorker(pair.old).wait_for_reader)
        await asyncio.to_thread(pair.fail_over)

        assert (await producer.submit("Ho", model="tiny")).created
        await asyncio.to_thread(ScriptedWorker(pair.new).play, "a", job_id=handle.job_id)
        assert (await waiting).text == "a"
