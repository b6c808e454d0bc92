"""Batches of clients, on Redis: what was asked of each, and how far it is. A lease says which gateway runs it."""

import json
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..ledger import batches as ledger
from .errors import not_found
from .queueing import GatewayProducer
from .settings import GatewaySettings
from .stored_files import stamp

LEASE_S = 10.0
"""For how long a gateway has a batch of which it says nothing more: it was killed."""
BATCH_ID = re.compile(r"batch_[0-9a-f]{32}")
_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


class AskedBatch(BaseModel):
    """What was asked for."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # a gateway of a later version may have written it

    id: str
    input_file_id: str
    endpoint: str
    completion_window: str
    created_at: int
    """Unix seconds."""
    expires_at: int
    in_flight: int
    """Rows that are with the workers at once."""
    output_ttl_s: int
    """How long what it writes is kept."""
    max_tokens: int | None = None
    share_prefixes: bool = False
    """Settings of the gateway that took it in: a row is the same job wherever the batch runs."""
    metadata: dict[str, str] | None = None


@dataclass(frozen=True)
class StoredBatch:
    """One as it is now.  fields: of the hash, beside what was asked."""

    owner: str
    asked: AskedBatch
    status: str
    fields: Mapping[str, str]

    def number(self, name: str) -> int | None:
        """A field that is one; None where it is not there."""
        value = self.fields.get(name, "")
        return int(value) if value.isascii() and value.isdigit() else None

    def described(self) -> dict[str, Any]:
        """OpenAI's batch object."""
        asked = self.asked
        errors = self.fields.get("errors")
        return {
            "id": asked.id,
            "object": "batch",
            "endpoint": asked.endpoint,
            "model": self.fields.get("model"),
            "errors": {"object": "list", "data": json.loads(errors)} if errors else None,
            "input_file_id": asked.input_file_id,
            "completion_window": asked.completion_window,
            "status": self.status,
            "output_file_id": self.fields.get("output_file_id"),
            "error_file_id": self.fields.get("error_file_id"),
            "created_at": asked.created_at,
            "expires_at": asked.expires_at,
            **{f"{name}_at": self.number(f"{name}_at") for name in _TIMES},
            "request_counts": {name: self.number(name) or 0 for name in ("total", "completed", "failed")},
            "metadata": asked.metadata,
        }


@dataclass(frozen=True)
class Lease:
    """A run of a batch.  runner: what was drawn for it."""

    owner: str
    batch_id: str
    runner: str


class BatchStore:
    """Those of all owners.  Its methods raise BrokerUnavailable."""

    def __init__(self, producer: GatewayProducer, settings: GatewaySettings) -> None:
        self._producer = producer
        self._keys = producer.keys
        self._settings = settings

    async def begin(self, owner: str, asked: AskedBatch) -> str:
        """'ok', 'no_file' or 'too_many'."""
        until_over_s = asked.expires_at - asked.created_at
        return await self._producer.do(
            ledger.begin_batch(
                self._keys,
                owner,
                asked.id,
                record=asked.model_dump_json(),
                ttl_s=until_over_s + self._settings.files_ttl_s,
                most=self._settings.max_batches,
                input_id=asked.input_file_id,
                input_ttl_s=until_over_s + CLOSING_S,
            )
        )

    async def find(self, owner: str, batch_id: str) -> StoredBatch:
        """Raises ApiError 404, also for one of another owner."""
        if BATCH_ID.fullmatch(batch_id):
            found = await self.some(owner, [batch_id])
            if found:
                return found[0]
        raise not_found(f"batch {batch_id}")

    async def ids(self, owner: str) -> list[str]:
        """Of all."""
        name = self._keys.batches(owner)
        return list(map(bytes.decode, await self._producer.ask(lambda r: r.zrange(name, 0, -1))))

    async def some(self, owner: str, batch_ids: Sequence[str]) -> list[StoredBatch]:
        """Those of them that are kept, in their order."""
        names = [self._keys.batch(owner, each) for each in batch_ids]

        def read(client: Any) -> Any:
            pipeline = client.pipeline(transaction=False)
            for name in names:
                pipeline.hgetall(name)
            return pipeline.execute()

        return [found for raw in await self._producer.ask(read) if (found := _read(owner, raw)) is not None]

    async def cancel(self, owner: str, batch_id: str) -> None:
        """It is to end early, where it is open still."""
        await self._producer.do(ledger.cancel_batch(self._keys, owner, batch_id, int(time.time())))

    async def lease(self) -> Lease | None:
        """One that nobody has."""
        runner = uuid.uuid4().hex
        found = await self._producer.do(ledger.lease_batch(self._keys, runner, LEASE_S))
        return None if found is None else Lease(*found, runner)

    async def mark(
        self, lease: Lease, fields: Mapping[str, str | int], *, was: str = "", lease_s: float = LEASE_S
    ) -> str:
        """Go on with it: its status, 'lost' or 'gone'; see `ledger.batches.mark_batch`."""
        step = ledger.mark_batch(
            self._keys, lease.owner, lease.batch_id, lease.runner, fields, lease_s=lease_s, was=was
        )
        return await self._producer.do(step)


CLOSING_S = 3_600
"""How long a batch's input, and what it has written, are kept at least after the batch should be over."""


def new_batch_id() -> str:
    """Ids stand in the order of their times."""
    return f"batch_{stamp()}{uuid.uuid4().hex[:20]}"


def _read(owner: str, raw: Mapping[bytes, bytes]) -> StoredBatch | None:
    fields = {name.decode(): value.decode(errors="replace") for name, value in raw.items()}
    try:
        asked = AskedBatch.model_validate_json(fields.pop("record", ""))
    except ValidationError:  # anybody may have written it
        return None
    return StoredBatch(owner, asked, fields.pop("status", "failed"), fields)
