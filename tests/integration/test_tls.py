"""`rediss://` with a CA of one's own: every part works with it, and refuses a server that another CA vouches for.

The server in the wheel speaks no TLS, so that a proxy in front of it does; what a client sees is the same.
"""

import asyncio
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import redis
from rq import Queue
from rq.job import JobStatus

from producer import AsyncProducer, Producer
from producer.broker.connections import connect_async
from producer.broker.embedded import EmbeddedBroker
from producer.contract import FUNCTION, BrokerUnavailable
from tests.outside import need

from .conftest import joined
from .dashboard_process import dashboard
from .test_worker import wait_for
from .worker_process import WorkerProcess

SHORT = {"prompt": "hi", "max_new_tokens": 3}


class TlsProxy:
    """Ends TLS and passes the rest on to a port of this machine, on a thread with an event loop."""

    def __init__(self, certificate: Path, key: Path, target_port: int) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate, key)
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)  # refused handshakes are what is tested here
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> int:
        """Start. Returns the port."""
        self._thread.start()
        serving = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result(10)
        return self._server.sockets[0].getsockname()[1]

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(100)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            done, pending = await asyncio.wait(
                [
                    asyncio.create_task(self._pump(reader, upstream_writer)),
                    asyncio.create_task(self._pump(upstream_reader, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in pending:
                task.cancel()
            await asyncio.gather(*done, *pending, return_exceptions=True)
        finally:
            writer.close()
            upstream_writer.close()

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def _end(self) -> None:
        self._server.close()
        own = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not own]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # A TLS connection that is closed waits for the other end's goodbye, and of a handshake no task knows. What
        # is open when the loop closes is held against whichever test comes next.
        for transport in list(self._loop._transports.values()):
            transport.abort()
        await asyncio.sleep(0)


class Authority:
    """A certificate authority of the test's own, in a folder, by Debian's `openssl`."""

    KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate = folder / "ca.pem"
        folder.mkdir()
        subject = ("-subj", "/CN=genqueue test CA")
        self._openssl("req", "-x509", *self.KEY, *subject, "-days", "2", "-keyout", "ca.key", "-out", "ca.pem")

    def issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key of a server.  name: as in a certificate, IP:127.0.0.1."""
        (self._folder / "names").write_text(f"subjectAltName={name}\n", encoding="ascii")
        self._openssl("req", *self.KEY, "-subj", "/CN=redis", "-keyout", "server.key", "-out", "request")
        signer = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2")
        self._openssl("x509", "-req", "-in", "request", *signer, "-out", "server.pem")
        return self._folder / "server.pem", self._folder / "server.key"

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, capture_output=True, timeout=100, check=True)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    """The server's CA, and one that has nothing to do with it."""
    need("openssl", install="apt-get install -y openssl")
    folder = tmp_path_factory.mktemp("ca")
    return Authority(folder / "ours"), Authority(folder / "other")


@pytest.fixture(scope="module")
def tls_port(serving_broker: EmbeddedBroker, authorities: tuple[Authority, Authority]) -> Iterator[int]:
    with TlsProxy(*authorities[0].issue("IP:127.0.0.1"), serving_broker.port) as port:
        yield port


@pytest.fixture(scope="module")
def url(tls_port: int, authorities: tuple[Authority, Authority]) -> str:
    """As a user writes it who has a CA of his own."""
    return f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={authorities[0].certificate}"


@pytest.fixture(scope="module")
def tls_worker(url: str, model_paths: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker that knows Redis by that URL alone."""
    worker = WorkerProcess(url, model_paths, tmp_path_factory.mktemp("worker") / "log")
    yield worker.wait_until_ready()
    worker.stop()


@pytest.fixture(params=["another CA", "no CA given", "another host"])
def untrusted(
    request: pytest.FixtureRequest,
    serving_broker: EmbeddedBroker,
    authorities: tuple[Authority, Authority],
    tls_port: int,
) -> Iterator[str]:
    """A URL of a server that cannot prove to be the one that is meant."""
    ours, other = authorities
    if request.param == "another host":
        with TlsProxy(*ours.issue("DNS:elsewhere.example"), serving_broker.port) as port:
            yield f"rediss://:hunter2@127.0.0.1:{port}/0?ssl_ca_certs={ours.certificate}"
    else:
        query = f"?ssl_ca_certs={other.certificate}" if request.param == "another CA" else ""
        yield f"rediss://:hunter2@127.0.0.1:{tls_port}/0{query}"


@pytest.mark.usefixtures("tls_worker")
def test_a_job_streams_over_tls_to_a_sync_and_an_async_producer(url: str) -> None:
    with Producer(url) as producer:
        job = producer.submit(**SHORT, model="tiny")
        text, ids = joined(list(job.stream(timeout_s=100)))

    async def follow() -> str:
        async with AsyncProducer(url) as producer:
            other = await producer.submit(**SHORT, model="tiny")
            return (await other.result(timeout_s=100)).text

    assert len(ids) == 3
    assert asyncio.run(follow()) == text


def test_a_connection_whose_read_is_cancelled_is_closed_at_once(url: str, client: redis.Redis) -> None:
    async def closed() -> bool:
        async with connect_async(url, connect_timeout_s=100, socket_timeout_s=100, blocking=True) as own:
            number = await own.client_id()
            [connection] = own.connection_pool._get_free_connections()
            sock = connection._writer.get_extra_info("socket")
            read = asyncio.create_task(own.xread({"nothing": "0"}, block=4000))
            while "b" not in client.client_list(client_id=[number])[0]["flags"]:
                await asyncio.sleep(0.01)
            for _ in range(10):  # the command is out: its sender may still stand in the way of the read
                await asyncio.sleep(0)
            read.cancel()
            await asyncio.wait((read,))
            await asyncio.sleep(0)
            return bool(sock.fileno() == -1)

    assert asyncio.run(closed())


@pytest.mark.usefixtures("tls_worker")
def test_the_command_lines_use_tls(url: str) -> None:
    options = ("--model-name", "tiny", "--redis-url", url)
    assert python_m("producer", "submit", "hi", "--wait", "--max-new-tokens", "3", *options).returncode == 0
    assert python_m("worker", "check", *options).returncode == 0


@pytest.mark.usefixtures("tls_worker")
def test_plain_rq_and_the_workers_scheduler_use_tls(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        # RQ's scheduler makes a connection of its own out of the worker's.
        queue = Queue("generate.tiny", connection=client, serializer="json")
        job = queue.enqueue_in(timedelta(seconds=0), FUNCTION, request=SHORT)
        wait_for(lambda: job.get_status() == JobStatus.FINISHED, "the scheduler")
        assert len(job.return_value()["token_ids"]) == 3


def test_the_dashboard_uses_tls(url: str, tls_worker: WorkerProcess) -> None:
    with dashboard(url) as address, urlopen(f"{address}/0/data/workers.json", timeout=100) as response:
        assert tls_worker.name in response.read().decode()


def test_a_producer_refuses_a_server_that_it_cannot_trust(untrusted: str) -> None:
    with Producer(untrusted) as producer, pytest.raises(BrokerUnavailable, match=r"not trusted.*ssl_ca_certs"):
        producer.submit(**SHORT, model="tiny")

    async def submit() -> None:
        async with AsyncProducer(untrusted) as producer:
            await producer.submit(**SHORT, model="tiny")

    with pytest.raises(BrokerUnavailable, match=r"not trusted.*ssl_ca_certs"):
        asyncio.run(submit())


@pytest.mark.parametrize(
    "command",
    [
        ("producer", "submit", "hi", "--model-name", "tiny"),
        ("worker", "check", "--model-name", "tiny"),
        ("worker", "run", "--model-name", "tiny", "--device", "cpu"),
    ],
    ids=["producer", "worker check", "worker"],
)
def test_a_command_that_cannot_trust_the_server_says_so_and_exits_with_3(
    untrusted: str, command: tuple[str, ...], model_paths: Path
) -> None:
    paths = ("--model-paths", str(model_paths)) if "run" in command else ()
    done = python_m(*command, *paths, "--redis-url", untrusted)
    assert done.returncode == 3, done.stderr
    assert "certificate verify failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_a_dashboard_that_cannot_trust_the_server_says_so(untrusted: str) -> None:
    with dashboard(untrusted) as address:
        with pytest.raises(HTTPError) as caught:
            urlopen(f"{address}/0/data/queues.json", timeout=100)
        with caught.value as response:
            page = response.read().decode()
    assert caught.value.code == 503
    assert "certificate verify failed" in page
    assert "hunter2" not in page


def python_m(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        start_new_session=True,
        # Longer than we wait for its end: it must not wait for what does not pass.
        env={**os.environ, "GENQUEUE_BROKER_WAIT_S": "1000"},
    )
