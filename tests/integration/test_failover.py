"""A fail-over during a generation: one primary, one replica, three Sentinels, and kill -9 for the primary."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from rq import Queue
from rq.job import JobStatus

from producer import AsyncProducer, Producer
from producer.broker import urls as redis_url
from producer.broker.embedded import EmbeddedBroker, _free_port, _server_binary
from producer.contract import FUNCTION

from .conftest import joined
from .test_survival import Follower, undisturbed  # noqa: F401 - a fixture
from .test_worker import LONG, wait_for, wait_for_tokens
from .worker_process import WorkerProcess

SERVICE = "genqueue"
SENTINEL_CONFIG = """
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {service} 127.0.0.1 {primary} 2
sentinel down-after-milliseconds {service} 500
sentinel failover-timeout {service} 3000
"""


@dataclass
class Guarded:
    """A primary with its replica, and the Sentinels that watch over them."""

    primary: EmbeddedBroker
    replica: EmbeddedBroker
    sentinel_ports: list[int]

    @property
    def url(self) -> str:
        """As a user writes it."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    def is_settled(self) -> bool:
        """Whether each Sentinel knows of the replica and of the two others: before that none fails over."""
        states = (self._state(port) for port in self.sentinel_ports)
        return all(state and (state["num-slaves"], state["num-other-sentinels"]) == (1, 2) for state in states)

    @staticmethod
    def _state(port: int) -> dict | None:
        with contextlib.suppress(redis.ConnectionError), redis.Redis(port=port) as sentinel:
            return sentinel.sentinel_masters()[SERVICE]
        return None


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """For all tests of the module: the one that kills the primary is the last."""
    folder = tmp_path_factory.mktemp("sentinels")
    with contextlib.ExitStack() as stack:
        # Without the delay in which a primary waits for more replicas.
        primary = stack.enter_context(EmbeddedBroker(options=("--repl-diskless-sync-delay", "0")))
        replica = stack.enter_context(EmbeddedBroker(options=("--replicaof", "127.0.0.1", str(primary.port))))
        ports = [stack.enter_context(sentinel(folder / f"sentinel-{n}", primary.port)) for n in range(3)]
        servers = Guarded(primary, replica, ports)
        wait_for(servers.is_settled, "the Sentinels to find each other and the replica")
        yield servers


@contextlib.contextmanager
def sentinel(folder: Path, primary_port: int) -> Iterator[int]:
    """A Sentinel process. Gives its port."""
    folder.mkdir()
    port = _free_port()
    config = folder / "sentinel.conf"
    config.write_text(
        SENTINEL_CONFIG.format(port=port, folder=folder, service=SERVICE, primary=primary_port), encoding="utf-8"
    )
    with (folder / "log").open("wb") as log:
        command = [_server_binary(), str(config), "--sentinel"]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def guarded_worker(
    guarded: Guarded, model_paths: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(guarded.url, model_paths, tmp_path_factory.mktemp("worker") / "log")
    yield worker.wait_until_ready()
    worker.stop()


def test_every_part_finds_the_primary_through_the_sentinels(
    guarded: Guarded, guarded_worker: WorkerProcess
) -> None:
    python_m("worker", "check", "--model-name", "tiny", "--redis-url", guarded.url)
    options = ("--model-name", "tiny", "--max-new-tokens", "2", "--redis-url", guarded.url)
    assert python_m("producer", "submit", "hi", "--wait", *options)
    with redis_url.client(guarded.url) as client:
        # RQ's scheduler makes a connection of its own out of the worker's.
        queue = Queue("generate.tiny", connection=client, serializer="json")
        request = {"prompt": "hi", "max_new_tokens": 1}
        scheduled = queue.enqueue_in(timedelta(seconds=0), FUNCTION, request=request)
        wait_for(lambda: scheduled.get_status() == JobStatus.FINISHED, "the scheduler")
        wait_for(lambda: connections(guarded.sentinel_ports) == 0, "the last question to a Sentinel to be over")


def test_a_fail_over_during_a_generation_leaves_the_stream_whole(
    guarded: Guarded,
    guarded_worker: WorkerProcess,
    undisturbed: tuple[str, list[int]],  # noqa: F811
) -> None:
    with Producer(guarded.url) as producer, redis.Redis(port=guarded.replica.port) as replica:
        job = producer.submit(**LONG, model="tiny")
        follower = Follower(producer, job.job_id)
        # On the replica: what Redis had not replicated when it died, a submission among it, is nobody's promise.
        wait_for_tokens(replica, job.job_id)
        guarded.primary.kill()
        assert not any(streamed.is_terminal for streamed in follower.events), (
            "it died too late to disturb anything"
        )
        assert joined(follower.all()) == undisturbed
        assert replica.role()[0] == b"master"
        assert job.result().attempts == 1
        assert guarded_worker.process.poll() is None
        assert asyncio.run(result_of(guarded.url, job.job_id)) == undisturbed[0]
        wait_for(lambda: job.status().state == "finished", "RQ's bookkeeping on the new primary")


def test_sentinels_that_name_no_primary_are_said_to_be_at_fault() -> None:
    url = f"redis+sentinel://127.0.0.1:{_free_port()}/{SERVICE}"
    done = subprocess.run(
        [sys.executable, "-m", "producer", "submit", "hi", "--model-name", "tiny", "--redis-url", url],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 3
    assert f"the primary of '{SERVICE}'" in done.stderr
    assert "Traceback" not in done.stderr


async def result_of(url: str, job_id: str) -> str:
    async with AsyncProducer(url) as producer:
        return (await producer.result(job_id)).text


def python_m(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def connections(sentinel_ports: list[int]) -> int:
    """Connections to Sentinels that are neither another Sentinel's nor the one that asks."""
    return sum(len(strangers(port)) for port in sentinel_ports)


def strangers(port: int) -> list[dict]:
    with redis.Redis(port=port) as client:
        own = client.client_id()
        return [each for each in client.client_list() if int(each["id"]) != own and "sentinel" not in each["name"]]
