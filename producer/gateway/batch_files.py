"""A batch's files: its input, for threads that read it, and its outputs, which say which rows are done.

The outputs are all that is known of the rows that have their answer. Whoever takes a batch over reads them, as
`genqueue batch` reads its output, and a line is written together with nothing else: so each row stands there once.
"""

import asyncio
import hashlib
import io
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any, Literal, TypeVar

from ..batch.done import Done
from ..batch.identity import read_job_id
from ..batch.output import encode, read_line
from ..contract import BrokerUnavailable, GenqueueError
from ..ledger.batches import run_of
from .stored_batches import CLOSING_S, Lease, StoredBatch
from .stored_files import PART_BYTES, FileStore, StoredFile

T = TypeVar("T")

AGAIN_S = 1.0
"""Between two tries while Redis is away."""
Kind = Literal["output", "error"]


class InputGoneError(GenqueueError):
    """The input of a batch is not kept any more: somebody has deleted it."""


class LostError(Exception):
    """Another gateway runs the batch."""


async def through_outages(call: Callable[[], Awaitable[T]]) -> T:
    """What the call returns, once Redis is there."""
    while True:
        try:
            return await call()
        except BrokerUnavailable:
            await asyncio.sleep(AGAIN_S)


class Input(io.RawIOBase):
    """The input, for a thread beside the event loop that makes it. Read a few parts ahead, and no more."""

    def __init__(self, files: FileStore, owner: str, file: StoredFile) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._files, self._owner, self._file = files, owner, file
        self._next = 0
        self._came: list[bytes] = []
        self._asking: Future[list[bytes]] | None = None
        self._is_over = False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises InputGoneError, and CancelledError once it was abandoned."""
        while not self._came and self._next < self._file.parts:
            self._came = [part for part in reversed(self._ask()) if part]
        if not self._came:
            return 0
        part = self._came.pop()
        count = min(len(buffer), len(part))
        buffer[:count] = part[:count]
        if count < len(part):
            self._came.append(part[count:])
        return count

    def abandon(self) -> None:
        """Of the event loop: whoever reads it reads no more."""
        self._is_over = True
        if self._asking is not None:
            self._asking.cancel()

    def _ask(self) -> list[bytes]:
        if self._is_over:
            raise CancelledError
        parts = through_outages(lambda: self._files.parts(self._owner, self._file.id, self._next))
        self._asking = asyncio.run_coroutine_threadsafe(parts, self._loop)
        if self._is_over:
            self._asking.cancel()
        came = self._asking.result()
        if not came:
            raise InputGoneError(f"the file {self._file.id} was deleted while its batch ran")
        self._next += len(came)
        return came


class Outputs:
    """What a run of a batch writes.  `put` and `flush` are of one event loop."""

    def __init__(self, files: FileStore, batch: StoredBatch, lease: Lease) -> None:
        self._files = files
        self._batch = batch
        self._run = run_of(lease.owner, lease.batch_id, lease.runner)
        self._kept: Mapping[Kind, _Written] = {
            kind: _Written(batch.asked.id, kind) for kind in ("output", "error")
        }
        self._lock = asyncio.Lock()
        self.done = Done()
        self.counts = self._counts_now()
        """Fields of the batch, of what is written: what is not is asked again where this gateway dies."""

    def _counts_now(self) -> dict[str, str | int]:
        return {"completed": self.done.rows - self.done.failed, "failed": self.done.failed}

    async def recover(self) -> None:
        """Learn what was written before."""
        for kind, kept in self._kept.items():
            while parts := await through_outages(lambda kept=kept: self._parts(kept)):  # type: ignore[misc]
                await asyncio.to_thread(self._read, parts, failed=kind == "error")
                kept.parts += len(parts)
                kept.bytes += sum(map(len, parts))
        self.counts = self._counts_now()

    def put(self, job_id: str, line: Mapping[str, Any], *, failed: bool) -> None:
        """The line of a row, which is written soon."""
        name = read_job_id(job_id)
        assert name is not None
        self.done.add(name, failed=failed)
        self._kept["error" if failed else "output"].pending += encode(line)

    async def flush(self) -> None:
        """Write what is there.  Raises LostError."""
        async with self._lock:
            counts = self._counts_now()
            for kept in self._kept.values():
                while kept.pending:
                    data = kept.next_part()
                    await self._write(kept, data)
                    del kept.pending[: len(data)]
            self.counts = counts

    async def publish(self) -> dict[str, str | int]:
        """Have the files seen that have lines.  Returns their ids, as fields of the batch.  Raises LostError."""
        await self.flush()
        published: dict[str, str | int] = {}
        for kind, kept in self._kept.items():
            if kept.parts:
                await self._write(kept, b"", kept.file(self._batch.asked.output_ttl_s).model_dump_json())
                published[f"{kind}_file_id"] = kept.id
        return published

    async def _parts(self, kept: "_Written") -> list[bytes]:
        return await self._files.parts(self._batch.owner, kept.id, kept.parts)

    def _read(self, parts: list[bytes], *, failed: bool) -> None:
        for part in parts:
            for line in part.splitlines():
                if (found := read_line(line)) is not None:
                    self.done.add(found[0], failed=failed)

    async def _write(self, kept: "_Written", data: bytes, record: str = "") -> None:
        asked = self._batch.asked
        ttl_s: float = asked.output_ttl_s
        if not record:  # how long it is kept counts from its end: no row may come for a while
            ttl_s = max(ttl_s, asked.expires_at - time.time() + CLOSING_S)
        said = await through_outages(
            lambda: self._files.write_of_run(
                self._batch.owner, kept.id, kept.parts, data, run=self._run, ttl_s=ttl_s, record=record
            )
        )
        if said != "ok":
            raise LostError
        kept.parts += 1
        kept.bytes += len(data)


class _Written:
    """One of the files. Its id follows from the batch's: whoever takes it over finds it."""

    def __init__(self, batch_id: str, kind: Kind) -> None:
        began = batch_id.removeprefix("batch_")[:12]
        self.id = f"file-{began}{hashlib.sha256(f'{batch_id} {kind}'.encode()).hexdigest()[:20]}"
        self.name = f"{batch_id}_{kind}.jsonl"
        self.parts = 0
        self.bytes = 0
        self.pending = bytearray()

    def next_part(self) -> bytes:
        """Whole lines."""
        if len(self.pending) <= PART_BYTES:
            return bytes(self.pending)
        end = self.pending.rfind(b"\n", 0, PART_BYTES)
        return bytes(self.pending[: end + 1 or self.pending.index(b"\n") + 1])

    def file(self, ttl_s: int) -> StoredFile:
        """As it is seen, with its last part, which is empty."""
        now = int(time.time())
        return StoredFile(
            id=self.id,
            filename=self.name,
            purpose="batch_output",
            bytes=self.bytes,
            created_at=now,
            expires_at=now + ttl_s,
            parts=self.parts + 1,
        )
