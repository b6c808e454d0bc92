"""Who serves a model at the moment, as RQ's records on Redis say it. Reads, and writes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis

from producer.contract import Keys

_FIELDS = ("birth", "death", "model_state", "hostname", "request_fields")


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A live worker. What it did not write is empty."""

    name: str
    birth: str
    model_state: str
    hostname: str
    request_fields: str


def live_workers(client: Redis, keys: Keys, model: str) -> list[WorkerRecord]:
    """The workers of the model whose heart beats, in two round trips.  client: one that returns bytes."""
    records = sorted(cast("set[bytes]", client.sunion([f"rq:workers:{queue}" for queue in keys.queues(model)])))
    if not records:
        return []
    with client.pipeline(transaction=False) as pipeline:
        for record in records:
            pipeline.hmget(cast("str", record), _FIELDS)
        replies: list[Sequence[bytes | None]] = pipeline.execute()
    found = [_live(record, reply) for record, reply in zip(records, replies, strict=True)]
    return [worker for worker in found if worker is not None]


def _live(record: bytes, reply: Sequence[bytes | None]) -> WorkerRecord | None:
    """None for one whose record has expired, and for one that has left: RQ keeps its record for a minute."""
    values: list[Any] = ["" if value is None else value.decode(errors="replace") for value in reply]
    fields = dict(zip(_FIELDS, values, strict=True))
    if not fields["birth"] or fields.pop("death"):
        return None
    return WorkerRecord(name=record.decode(errors="replace").rpartition(":")[2], **fields)
