"""A live subscriber: follows every job it is told of from its first event to its end, and logs what it sees.

It leaves of its own accord now and then and comes back with its cursor, as it does after any error. Job ids come
as lines on stdin; the log has one JSON line an event: job, id, type, data, and when it was seen by
`time.monotonic()`, one clock for all processes. It ends when stdin is closed and all jobs have ended.

    python -m tests.chaos.subscriber raw    URL LOG SEED     XREAD, by redis-py alone
    python -m tests.chaos.subscriber client URL LOG SEED     as a user of the package: AsyncProducer.stream
"""

import asyncio
import contextlib
import json
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import redis

from producer import AsyncProducer
from producer.contract import EventId, GenqueueError

TERMINAL = ("finished", "failed", "cancelled")
RETRY_S = 0.05


class Log:
    """What was seen, a line an event."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def write(self, job_id: str, event_id: str, event_type: str, data: str) -> None:
        """Note an event. data: JSON."""
        head = json.dumps({"job": job_id, "id": event_id, "type": event_type, "at": time.monotonic()})
        self._output.write(f'{head[:-1]}, "data": {data}}}\n')


class RawSubscriber:
    """One connection, one XREAD over all the streams that it follows."""

    def __init__(self, url: str, log: Log, rng: random.Random) -> None:
        self._url, self._log, self._rng = url, log, rng
        self._cursors: dict[str, str] = {}
        self._told_all = False

    def run(self) -> None:
        """Follow until there is nothing left to follow."""
        threading.Thread(target=self._listen, daemon=True).start()
        while not self._told_all or self._cursors:
            with contextlib.suppress(redis.RedisError), self._connect() as client:
                for _ in range(self._rng.randint(5, 100)):
                    self._read(client)
            time.sleep(RETRY_S)

    def _listen(self) -> None:
        for line in sys.stdin:
            self._cursors[line.strip()] = "0-0"
        self._told_all = True

    def _connect(self) -> redis.Redis:
        return redis.Redis.from_url(self._url, socket_timeout=5, retry=None)

    def _read(self, client: redis.Redis) -> None:
        streams = {f"gen:{{{job_id}}}:events": cursor for job_id, cursor in dict(self._cursors).items()}
        if not streams:
            time.sleep(RETRY_S)
            return
        for key, entries in client.xread(streams, block=100) or ():
            job_id = key.decode()[len("gen:{") : -len("}:events")]
            for entry_id, fields in entries:
                self._see(job_id, entry_id.decode(), fields[b"type"].decode(), fields[b"data"].decode())

    def _see(self, job_id: str, event_id: str, event_type: str, data: str) -> None:
        self._log.write(job_id, event_id, event_type, data)
        self._cursors[job_id] = event_id
        if event_type in TERMINAL:
            del self._cursors[job_id]


class ClientSubscriber:
    """One AsyncProducer, one task a job."""

    def __init__(self, url: str, log: Log, rng: random.Random) -> None:
        self._producer = AsyncProducer(url)
        self._log, self._rng = log, rng

    async def run(self) -> None:
        """Follow until there is nothing left to follow."""
        async with self._producer, asyncio.TaskGroup() as tasks:
            while job_id := (await asyncio.to_thread(sys.stdin.readline)).strip():
                tasks.create_task(self._follow(job_id), name=job_id)

    async def _follow(self, job_id: str) -> None:
        cursor: EventId | None = None
        ended = False
        while not ended:
            try:
                async with contextlib.aclosing(self._some_of(job_id, cursor)) as events:  # type: ignore[type-var]
                    async for streamed in events:
                        cursor, ended = streamed.id, streamed.is_terminal
                        event = json.loads(streamed.to_json())
                        self._log.write(job_id, event["id"], event["type"], json.dumps(event["data"]))
            except GenqueueError:
                await asyncio.sleep(RETRY_S)

    async def _some_of(self, job_id: str, cursor: EventId | None) -> Any:
        """The next events, up to a number after which this subscriber leaves."""
        left = self._rng.randint(1, 300)
        async with contextlib.aclosing(self._producer.stream(job_id, cursor)) as events:  # type: ignore[type-var]
            async for streamed in events:
                yield streamed
                left -= 1
                if left == 0:
                    return


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log, in the order in which they were seen."""
    with path.open() as lines:
        yield from map(json.loads, lines)


def main(kind: str, url: str, log_path: str, seed: str) -> None:
    """Follow until stdin ends and every job has ended."""
    rng = random.Random(seed)
    with Path(log_path).open("w") as output:
        if kind == "raw":
            RawSubscriber(url, Log(output), rng).run()
        else:
            asyncio.run(ClientSubscriber(url, Log(output), rng).run())


if __name__ == "__main__":
    main(*sys.argv[1:])
