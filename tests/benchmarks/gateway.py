"""Open streams through one gateway: from the worker's append to the client's socket.

    python -m tests.benchmarks.gateway [--streams 1000] [--rate 300] [--seconds 20]

A simulated worker appends tokens to all streams in turn, so many a second in all; each says when. Server, gateway,
worker and clients share this machine, and its cores: what is measured is all of them. The last line is JSON.
"""

import argparse
import asyncio
import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import redis

from producer.broker.embedded import EmbeddedBroker
from producer.contract import BEFORE_FIRST, Entry, EventId, Keys, Started, StartedData, Tokens, TokensData
from producer.ledger.stream import Appender
from tests.instant_worker import InstantWorker

SAID = re.compile(rb'"content":"(\d+)\.')
KEEP_S = 600
BODY = {"model": "tiny", "stream": True, "store": True, "messages": [{"role": "user", "content": "Hi"}]}


class Writer:
    """Appends tokens to all jobs in turn, on a thread."""

    def __init__(self, client: redis.Redis, job_ids: list[str], rate: float) -> None:
        self._client, self._jobs, self._rate = client, job_ids, rate
        self._over = threading.Event()
        self._last = dict.fromkeys(job_ids, BEFORE_FIRST)
        self._thread = threading.Thread(target=self._run)
        self.behind_s = 0.0
        """How far it has been behind its own rate, at most."""

    def begin_all(self) -> None:
        """Every job has a worker."""
        for job_id in self._jobs:
            said = StartedData(attempt=1, worker="w", model="tiny", prompt_tokens=1, seed=7)
            self._append(job_id, Started(data=said))

    def _append(self, job_id: str, event: Started | Tokens) -> None:
        last = self._last[job_id]
        event_id = EventId(1, last.seq + 1 if last.attempt else 0)
        appender = Appender(Keys(), job_id, "w", as_owner=False)
        appender.append(last, [Entry.of(event_id, event)], ttl_s=KEEP_S).run(self._client)
        self._last[job_id] = event_id

    def _run(self) -> None:
        began = time.monotonic()
        for number in range(sys.maxsize):
            due = began + number / self._rate
            if self._over.wait(max(0.0, due - time.monotonic())):
                return
            self.behind_s = max(self.behind_s, time.monotonic() - due)
            job_id = self._jobs[number % len(self._jobs)]
            data = TokensData(index=number, ids=(1,), text=f"{time.monotonic_ns()}.")
            self._append(job_id, Tokens(data=data))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Within."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()


class Client:
    """Streams of one event loop."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self.latencies_ms: list[float] = []

    async def open(self) -> asyncio.StreamReader:
        """One of them."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        body = json.dumps(BODY).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        reader._keep = writer  # type: ignore[attr-defined]
        return reader

    async def read(self, reader: asyncio.StreamReader) -> None:
        """To its end, which does not come."""
        while data := await reader.read(65536):
            now = time.monotonic_ns()
            self.latencies_ms += [(now - int(said)) / 1e6 for said in SAID.findall(data)]


@contextlib.contextmanager
def gateway(url: str) -> Iterator[tuple[psutil.Process, int]]:
    """One process, and its port."""
    command = [sys.executable, "-m", "producer", "serve", "--port", "0", "--redis-url", url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = process.stderr.readline()
            yield psutil.Process(process.pid), int(said.rpartition(":")[2].removesuffix("/v1\n"))
        finally:
            process.kill()


def job_ids_of(client: redis.Redis) -> list[str]:
    """Of all jobs in the queue."""
    return [raw.decode() for raw in client.lrange("rq:queue:generate.tiny", 0, -1)]


async def measure(url: str, port: int, process: psutil.Process, options: argparse.Namespace) -> dict[str, object]:
    """All figures."""
    client, streams = redis.Redis.from_url(url), Client("127.0.0.1", port)
    before = process.memory_info().rss
    readers = []
    for at in range(0, options.streams, 100):
        readers += await asyncio.gather(*(streams.open() for _ in range(min(100, options.streams - at))))
        while client.llen("rq:queue:generate.tiny") < len(readers):
            await asyncio.sleep(0.05)
    writer = Writer(client, job_ids_of(client), options.rate)
    reading = [asyncio.create_task(streams.read(reader)) for reader in readers]
    await asyncio.to_thread(writer.begin_all)
    await asyncio.sleep(2)
    with writer.writing():
        await asyncio.sleep(2)
        streams.latencies_ms.clear()
        cpu_s = sum(process.cpu_times()[:2])
        await asyncio.sleep(options.seconds)
        cpu_s = sum(process.cpu_times()[:2]) - cpu_s
        latencies = sorted(streams.latencies_ms)
    blocked = [each for each in client.client_list() if each["cmd"] == "xread"]
    for task in reading:
        task.cancel()
    return {
        "streams": options.streams,
        "rate": options.rate,
        "tokens": len(latencies),
        "p50_ms": round(latencies[len(latencies) // 2], 2),
        "p99_ms": round(latencies[len(latencies) * 99 // 100], 2),
        "cpu_ms_per_token": round(1000 * cpu_s / len(latencies), 3),
        "cpu_share": round(cpu_s / options.seconds, 2),
        "kib_per_stream": round((process.memory_info().rss - before) / 1024 / options.streams, 1),
        "reading_connections": len(blocked),
        "writer_behind_ms": round(1000 * writer.behind_s, 1),
    }


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=300)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    with EmbeddedBroker() as broker, gateway(broker.url) as (process, port):
        InstantWorker(redis.Redis.from_url(broker.url)).register()
        print(json.dumps(asyncio.run(measure(broker.url, port, process, options))))


if __name__ == "__main__":
    main()
