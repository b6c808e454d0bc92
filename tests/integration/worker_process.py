"""A real worker process, as an operator runs it, for the integration and chaos suites."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import redis

from producer.broker.urls import client as client_of
from producer.contract import Keys
from worker.lives import MEMORY

START_TIMEOUT_S = 300


def engine_of(worker_pid: int) -> int:
    """Process id of a worker's engine."""
    children = Path(f"/proc/{worker_pid}/task/{worker_pid}/children").read_text().split()
    [pid] = [int(pid) for pid in children if b"engine_process.server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return pid


class WorkerProcess:
    """`python -m worker run` with the tiny model on the CPU, its log in a file."""

    def __init__(
        self,
        redis_url: str,
        model_paths: Path,
        log: Path,
        *options: str,
        checkout: Path | None = None,
        **environment: str,
    ) -> None:
        """checkout: of the version to run; None: this one."""
        self.redis_url = redis_url
        self.log = log
        command = [sys.executable, "-m", "worker", "run", "--model-name", "tiny", "--device", "cpu"]
        command += ["--redis-url", redis_url, "--model-paths", str(model_paths), *options]
        self._name = f"w{time.monotonic_ns()}"
        command += ["--name", self._name]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "GENQUEUE_THREADS": "1", **environment},
                cwd=checkout,
            )

    @property
    def name(self) -> str:
        """Its name in RQ."""
        return self._hash_key().rpartition(":")[2]

    def wait_until_ready(self) -> Self:
        """Wait until it says on Redis that its model is loaded."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the worker has ended:\n{self.text()}"
            if self._state() == "ready":
                return self
            time.sleep(0.05)
        raise TimeoutError(f"the worker is not ready:\n{self.text()}")

    def wait_until_idle(self) -> Self:
        """Wait until RQ knows the ends of all its jobs. A result is out before that."""
        deadline = time.monotonic() + START_TIMEOUT_S
        with client_of(self.redis_url, decode_responses=True) as client:
            # In this order: with a job in hand, the state may still be that from before.
            while client.exists(Keys().taken(self.name)) or client.hget(self._hash_key(client), "state") != "idle":
                assert time.monotonic() < deadline, f"the worker is busy:\n{self.text()}"
                time.sleep(0.05)
        return self

    def send(self, number: signal.Signals) -> None:
        """Signal the worker, and not its engine."""
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 30) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(timeout_s)

    def stop(self) -> None:
        """End it, however it is."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        self.hide_process()  # nobody is to bury it: its server ends, too

    def hide_process(self) -> None:
        """From the others on this host, as if it were on another: connections and beats tell of its death."""
        for path in MEMORY.glob(f"genqueue-workers-{os.getuid()}/{self._name}-*"):
            path.unlink()

    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text(errors="replace")

    def engine_pid(self) -> int:
        """Process id of its engine."""
        return engine_of(self.process.pid)

    @contextmanager
    def engine_stopped(self) -> Iterator[None]:
        """Its engine stands still meanwhile."""
        pid = self.engine_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def outlast(self, client: redis.Redis, job_id: str, timeout_s: float) -> None:
        """Stop the engine once the job has tokens, for longer than the job may take.

        However fast a machine decodes, the time-out comes in the middle of the job.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while client.xlen(f"gen:{{{job_id}}}:events") < 3:
            assert time.monotonic() < deadline, "the job has no tokens"
            time.sleep(0.002)
        with self.engine_stopped():
            time.sleep(timeout_s + 0.2)

    def _state(self) -> str | None:
        try:
            with client_of(self.redis_url, decode_responses=True) as client:
                return client.hget(self._hash_key(client), "model_state")
        except (redis.RedisError, LookupError):
            return None

    def _hash_key(self, client: redis.Redis | None = None) -> str:
        client = client or client_of(self.redis_url, decode_responses=True)
        for key in client.smembers("rq:workers"):
            if self._name in key:
                return key
        raise LookupError(self._name)
