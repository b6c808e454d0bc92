"""The storm's second part: a server without AOF that is killed and comes back empty, with jobs in flight.

What waited in its queues is lost, and nobody can promise otherwise. What a live worker had in its hands is not:
its stream is rebuilt, and it ends whole.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from producer import Producer
from producer.broker.embedded import EmbeddedBroker
from producer.contract import BrokerUnavailable
from tests.integration.worker_process import WorkerProcess

from .checker import Expected, Violation, check
from .report import Report
from .workload import Workload

WAIT_S = 60.0


class Amnesia:
    """Jobs in flight, a server that forgets them, again and again."""

    def __init__(
        self,
        broker: EmbeddedBroker,
        workload: Workload,
        folder: Path,
        paths: Path,
        *,
        workers: int,
        rounds: int,
    ) -> None:
        self._broker, self._workload, self._rounds = broker, workload, rounds
        self._client = redis.Redis(port=broker.port)
        self._workers = [
            WorkerProcess(broker.url, paths, folder / f"worker-{number}.log") for number in range(workers)
        ]

    def run(self) -> Report:
        """All rounds."""
        report = Report()
        with Producer(self._broker.url) as producer, contextlib.ExitStack() as stack:
            for worker in self._workers:
                stack.callback(worker.stop)
            for worker in self._workers:
                worker.wait_until_ready()
            for number in range(self._rounds):
                report += self._round(producer, number)
        return report

    def _round(self, producer: Producer, number: int) -> Report:
        requests = {
            f"amnesia-{number}-{each}": self._workload.long(seed=each) for each in range(len(self._workers))
        }
        for job_id, request in requests.items():
            producer.submit(**request, model="tiny", job_id=job_id)
        self._wait("tokens", lambda: all(self._client.xlen(f"gen:{{{job_id}}}:events") > 5 for job_id in requests))
        self._broker.kill()
        self._broker.start()
        report = Report(jobs=len(requests), server_kills=1)
        try:
            self._wait("results", lambda: all(self._client.exists(f"gen:{{{j}}}:result") for j in requests))
            expected = [Expected(j, *self._workload.reference(r, r["seed"])) for j, r in requests.items()]
            self._wait("an end without a fault", lambda: not check(self._client, expected))
        except TimeoutError as error:
            report.violations += check(self._client, self._expected(requests)) or [
                Violation("-", "end", str(error))
            ]
        return report

    def _expected(self, requests: dict[str, dict[str, Any]]) -> list[Expected]:
        return [
            Expected(j, *self._workload.reference(request, request["seed"])) for j, request in requests.items()
        ]

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(redis.RedisError, BrokerUnavailable):
                if condition():
                    return
            time.sleep(0.02)
        raise TimeoutError(f"waited for {what}")
