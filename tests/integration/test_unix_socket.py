"""A server that listens on a socket in the file system alone: every way to it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from producer import AsyncProducer, Producer
from producer.broker.embedded import EmbeddedBroker
from producer.dashboard import make_app


@pytest.fixture
def unix_url(tmp_path: Path) -> Iterator[str]:
    """URL of a database of the server."""
    path = tmp_path / "redis.sock"
    with EmbeddedBroker(options=("--unixsocket", str(path))):
        yield f"unix://{path}?db=1"


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GENQUEUE_")}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], env=environment, capture_output=True, text=True, check=False
    )


async def test_every_client_reaches_it(unix_url: str) -> None:
    """Options of TCP were handed to the connection: a TypeError."""
    with Producer(unix_url) as producer:
        handle = producer.submit("Hi", model="tiny")
        assert handle.status().position == 0
        assert handle.cancel() == "cancelled"
        assert [event.event.type for event in handle.stream()] == ["cancelled"]
    async with AsyncProducer(unix_url) as producer:
        assert (await producer.result(handle.job_id, check=False)).status == "cancelled"
        assert (await (await producer.submit("Ho", model="tiny")).status()).position == 0

    done = run("producer", "submit", "Hi", "--model-name", "tiny", "--redis-url", unix_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert run("worker", "check", "--model-name", "tiny", "--redis-url", unix_url).returncode == 1

    queues = make_app(unix_url).test_client().get("/0/data/queues.json").get_json()["queues"]
    assert [(queue["name"], queue["count"]) for queue in queues] == [("generate.tiny", 2)]
    with redis.Redis.from_url(unix_url) as client:
        assert client.llen("rq:queue:generate.tiny") == 2


@pytest.mark.parametrize("module", ["producer", "worker"])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://127.0.0.1:1/0?protocol=3", "RQ does not work with RESP3"),
        ("redis://:12345#hunter2@127.0.0.1/0", "percent-encoded"),
        ("redis://127.0.0.1:1/0?unknown=1", "not known"),
        ("valkey://127.0.0.1", "begin it with redis://"),
        ("", "it is empty"),
    ],
)
def test_a_url_that_cannot_work_is_exit_code_2_for_both(module: str, url: str, said: str) -> None:
    command = ["submit", "Hi"] if module == "producer" else ["check"]
    done = run(module, *command, "--model-name", "tiny", "--redis-url", url)

    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert not any(word in done.stderr for word in ("Traceback", "hunter2", "12345"))


def test_a_socket_that_is_not_there_is_exit_code_3(tmp_path: Path) -> None:
    done = run("producer", "submit", "Hi", "--model-name", "tiny", "--redis-url", f"unix://{tmp_path}/none.sock")

    assert done.returncode == 3
    assert f"Redis at unix://{tmp_path}/none.sock cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
