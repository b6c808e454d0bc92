"""Who serves a model: the records of its live workers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..contract import Keys
from . import rq_names

FIELDS = ("birth", "death", "model_state", "hostname", "request_fields", "chat_template")


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A live worker that serves the model."""

    name: str
    model_state: str | None
    """`loading` or `ready`; None for a worker that does not say."""
    hostname: str | None
    request_fields: frozenset[str] | None
    """Fields of a request that it understands; None for a worker that does not say."""
    chat_template: bool | None = None
    """Whether its model has one; None for a worker that does not say, as one that is loading."""


def worker_sets(keys: Keys, model: str) -> list[str]:
    """Sets whose union names the records of the model's workers."""
    return [rq_names.workers(queue) for queue in keys.queues(model)]


def read_records(worker_keys: Sequence[bytes]) -> Callable[[Any], Any]:
    """A command that reads those records in one round trip, for `live_workers`."""

    def command(client: Any) -> Any:
        """Their FIELDS, in one pipeline."""
        pipeline = client.pipeline(transaction=False)
        for key in worker_keys:
            pipeline.hmget(key, FIELDS)
        return pipeline.execute()

    return command


def live_workers(
    worker_keys: Sequence[bytes], replies: Sequence[Sequence[bytes | None]]
) -> tuple[WorkerRecord, ...]:
    """Those that live: RQ keeps the record of one that has died for a minute."""
    records = (_record(key, reply) for key, reply in zip(worker_keys, replies, strict=True))
    return tuple(record for record in records if record)


def _record(key: bytes, reply: Sequence[bytes | None]) -> WorkerRecord | None:
    birth, death, model_state, hostname, fields, template = (
        None if value is None else value.decode(errors="replace") for value in reply
    )
    if birth is None or death is not None:
        return None
    understood = None if fields is None else frozenset(fields.split(","))
    return WorkerRecord(
        name=key.decode(errors="replace").rpartition(":")[2],
        model_state=model_state,
        hostname=hostname,
        request_fields=understood,
        chat_template=None if template is None else template == "1",
    )
