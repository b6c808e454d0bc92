"""What stands behind the clients, as processes: a server, workers, two gateways, and a proxy before them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

from producer.broker.embedded import EmbeddedBroker
from producer.contract import Keys
from tests.integration.worker_process import WorkerProcess
from tests.outside import need

LONG_S = 300.0
INSTALL = "apt-get install -y haproxy"
PART = 3
"""Events of an answer that has begun."""
MAX_ATTEMPTS = "1000"
"""Several deaths may meet the same job by chance: one that ends as worker_lost after three has its own test."""
HOSTS = [f"127.0.0.{number}" for number in range(2, 12)]
"""A browser opens six connections to each host."""
PROXY = """
defaults
  mode http
  timeout connect 1s
  timeout client 1h
  timeout server 1h
  timeout queue 5s
  retries 3
  option redispatch
frontend all
{binds}
  default_backend gateways
backend gateways
  balance roundrobin
  option httpchk
  http-check send meth GET uri /health ver HTTP/1.1 hdr Host 127.0.0.1
  default-server check inter 200ms fall 1 rise 1
{servers}
"""


class Gateway:
    """One gateway, at a port of its own, whenever it is started."""

    def __init__(self, redis_url: str, origin: str) -> None:
        self.port = free_port()
        self._command = [sys.executable, "-m", "producer", "serve", "--port", str(self.port)]
        # Grace: for those who come back, however slow this machine is.
        self._command += ["--redis-url", redis_url, "--cors-origin", origin, "--no-page", "--grace-s", "600"]
        self.start()

    def start(self) -> None:
        """Until it answers."""
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL, start_new_session=True)
        until(self.answers, "the gateway answers")

    def answers(self) -> bool:
        """Whether it does."""
        assert self._process.poll() is None
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5),
        ):
            return True
        return False

    def kill(self) -> None:
        """With kill -9."""
        self._process.kill()
        self._process.wait()


class House:
    """All of it. Each method that kills returns once what was killed is back.

    with House(…) as house: ...
    """

    def __init__(self, folder: Path, model_paths: Path, origin: str) -> None:
        self._folder, self._model_paths, self._origin = folder, model_paths, origin
        self._haproxy = need("haproxy", install=INSTALL)
        self.port = free_port()
        self._workers: list[WorkerProcess] = []

    def url(self, host: str = HOSTS[0]) -> str:
        """Of the proxy."""
        return f"http://{host}:{self.port}/v1"

    def kill_worker(self) -> None:
        """One of them, and its engine with it."""
        self._next_worker().send(signal.SIGKILL)
        self._replace_dead()

    def kill_engine(self) -> None:
        """That of one of the workers, which starts another."""
        worker = self._next_worker()
        before = worker.engine_pid()
        os.kill(before, signal.SIGKILL)

        def is_back() -> bool:
            with contextlib.suppress(ValueError):  # there is none yet
                return worker.process.poll() is None and worker.engine_pid() != before
            return worker.process.poll() is not None

        until(is_back, "the engine is back")
        self._replace_dead()

    def kill_gateways(self) -> None:
        """One after the other, so that no stream is left uncut, and in the middle of answers."""
        with self._in_mid_answer():
            for gateway in self._gateways:
                gateway.kill()
                time.sleep(0.5)  # so long the other has all of it
                gateway.start()
                until(self._serves, "the proxy leads to a gateway")

    def kill_server(self) -> None:
        """Redis, which keeps what it has acknowledged."""
        self._broker.kill()
        time.sleep(0.5)
        self._broker.start()

    def __enter__(self) -> "House":
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._broker = stack.enter_context(EmbeddedBroker(append_only=True))
            for _ in range(2):
                self._start_worker()
            stack.callback(self._stop_workers)
            self._gateways = []
            for _ in range(2):
                self._gateways.append(Gateway(self._broker.url, self._origin))
                stack.callback(self._gateways[-1].kill)
            stack.enter_context(self._proxy())
            for worker in self._workers:
                worker.wait_until_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _stop_workers(self) -> None:
        for worker in self._workers:
            worker.stop()

    def _start_worker(self) -> None:
        log = self._folder / f"worker-{len(self._workers)}.log"
        self._workers.append(
            WorkerProcess(self._broker.url, self._model_paths, log, GENQUEUE_MAX_ATTEMPTS=MAX_ATTEMPTS)
        )

    @contextlib.contextmanager
    def _in_mid_answer(self) -> Iterator[None]:
        """Within, the engines stand still, each over an answer of which a part has come."""
        engines = [worker.engine_pid() for worker in self._living()]

        def stand_still() -> bool:
            for pid in engines:
                os.kill(pid, signal.SIGSTOP)
            if all(self._has_part(worker) for worker in self._living()):
                return True
            for pid in engines:
                os.kill(pid, signal.SIGCONT)
            return False

        until(stand_still, "each worker is in the middle of an answer")
        try:
            time.sleep(0.5)  # for what is on its way
            yield
        finally:
            for pid in engines:
                os.kill(pid, signal.SIGCONT)

    def _has_part(self, worker: WorkerProcess) -> bool:
        """Whether some of the answer that the worker makes has come, and not all."""
        with redis.Redis(port=self._broker.port) as client:
            taken = client.lrange(Keys().taken(worker.name), -1, -1)
            stream = Keys().events(taken[0].decode()) if taken else ""
            newest = client.xrevrange(stream, count=1) if taken else []
            return bool(newest) and newest[0][1][b"type"] == b"tokens" and client.xlen(stream) >= PART

    def _living(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers if worker.process.poll() is None]

    def _next_worker(self) -> WorkerProcess:
        """One that lives, the oldest first."""
        alive = self._living()
        self._workers.remove(alive[0])
        self._workers.append(alive[0])
        return alive[0].wait_until_ready()

    def _replace_dead(self) -> None:
        for _ in range(2 - len(self._living())):
            self._start_worker()
        until(self._are_ready, "the workers are ready")

    def _are_ready(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return all(worker._state() == "ready" for worker in self._living())
        return False

    @contextlib.contextmanager
    def _proxy(self) -> Iterator[None]:
        config = self._folder / "haproxy.cfg"
        binds = "\n".join(f"  bind {host}:{self.port}" for host in HOSTS)
        servers = "\n".join(f"  server g{each.port} 127.0.0.1:{each.port}" for each in self._gateways)
        config.write_text(PROXY.format(binds=binds, servers=servers))
        with subprocess.Popen(
            [self._haproxy, "-q", "-db", "-f", str(config)], stderr=subprocess.DEVNULL
        ) as process:
            try:
                until(self._serves, "the proxy leads to a gateway")
                yield
            finally:
                process.kill()

    def _serves(self) -> bool:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://{HOSTS[0]}:{self.port}/health", timeout=5),
        ):
            return True
        return False


def until(condition: Callable[[], Any], what: str) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {LONG_S} s: {what}"
        time.sleep(0.02)


def free_port() -> int:
    """Of this machine, on each of its own addresses."""
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return int(probe.getsockname()[1])
