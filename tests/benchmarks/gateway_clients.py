"""Clients of the gateway's benchmark, in a process of their own: many sockets that read streams, and cost little.

    python -m tests.benchmarks.gateway_clients PORT

Takes a command a line on stdin, `[name, arguments…]` as JSON, and answers each with a line: `open` so many
streams, `open_slow` so many that read nothing until `read_slow`, `clear` what was seen so far, `report` it.
"""

import asyncio
import json
import re
import socket
import sys
import time

ID = re.compile(rb"id: (\d+)\n")
SAID = re.compile(rb'"content":"(\d+)\.')
BODY = {"model": "tiny", "stream": True, "store": True, "messages": [{"role": "user", "content": "Hi"}]}
HOST = "127.0.0.1"
SLOW_BYTES = 8192
"""What the system takes for a slow client."""


class Clients:
    """All of them, and what they have seen."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.latencies_ms: list[float] = []
        self.faults = 0
        """Events that did not follow on the one before, and connections that were closed."""
        self.slow: list[Stream] = []
        self.begun = 0
        """Streams of which something has come."""

    async def open(self, count: int, *, is_slow: bool = False) -> None:
        """So many streams more."""
        loop = asyncio.get_running_loop()
        for _ in range(count):
            client = socket.socket()
            client.setblocking(False)
            if is_slow:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BYTES)
            await loop.sock_connect(client, (HOST, self.port))
            _, stream = await loop.create_connection(lambda: Stream(self, is_slow=is_slow), sock=client)
            if is_slow:
                self.slow.append(stream)

    def read_slow(self) -> None:
        """Let the slow ones read."""
        for stream in self.slow:
            stream.transport.resume_reading()

    def clear(self) -> None:
        """Forget the latencies."""
        self.latencies_ms.clear()

    def report(self) -> dict[str, object]:
        """What was seen since."""
        seen = sorted(self.latencies_ms)
        at = {f"p{part}_ms": round(seen[len(seen) * part // 100], 2) for part in (50, 99) if seen}
        slow_events = [stream.events for stream in self.slow]
        return {"tokens": len(seen), **at, "begun": self.begun, "faults": self.faults, "slow_events": slow_events}


class Stream(asyncio.Protocol):
    """One stream."""

    def __init__(self, clients: Clients, *, is_slow: bool) -> None:
        self._clients = clients
        self._is_slow = is_slow
        self._rest = b""
        self.events = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Ask."""
        self.transport = transport
        body = json.dumps(BODY).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        transport.write(head.encode() + body)
        if self._is_slow:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Some events."""
        now = time.monotonic_ns()
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            if (event_id := ID.search(event)) is None:
                continue
            self._clients.faults += int(event_id[1]) != self.events
            self._clients.begun += self.events == 0
            self.events += 1
            if (said := SAID.search(event)) and not self._is_slow:
                self._clients.latencies_ms.append((now - int(said[1])) / 1e6)

    def connection_lost(self, _: Exception | None) -> None:
        """It is not to be."""
        self._clients.faults += 1


async def main(port: int) -> None:
    """Until stdin ends."""
    clients = Clients(port)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        answer: object = None
        match json.loads(line):
            case ["open", count]:
                await clients.open(count)
            case ["open_slow", count]:
                await clients.open(count, is_slow=True)
            case ["read_slow"]:
                clients.read_slow()
            case ["clear"]:
                clients.clear()
            case ["report"]:
                answer = clients.report()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
