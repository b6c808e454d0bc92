"""A job's stream as a test puts it, and what a worker makes of it."""

import json

from producer.broker.outage import Outage
from producer.contract import GenerationResult
from worker.run.history import History, read_or_discard_history

from .runs import JOB, KEYS

STARTED = json.dumps({"attempt": 1, "worker": "w0", "model": "tiny", "prompt_tokens": 3, "seed": 7})
NEWER = json.dumps({**json.loads(STARTED), "engine": "static", "trace": {"id": "t", "spans": [1, None]}})
TOKENS = '{"index":0,"ids":[5],"text":"a"}'
ENDED = GenerationResult(job_id=JOB, status="finished", model="tiny", text="a", finish_reason="stop")


def entry(event_id: str, event_type: str | bytes, data: str | bytes) -> tuple[bytes, dict[bytes, bytes]]:
    as_bytes = (value.encode() if isinstance(value, str) else value for value in (event_type, data))
    return event_id.encode(), dict(zip((b"type", b"data"), as_bytes, strict=True))


async def put(client, *entries) -> None:
    for entry_id, fields in entries:
        await client.xadd(KEYS.events(JOB), fields, id=entry_id)


async def read(client, **bounds) -> History:
    return await read_or_discard_history(client, KEYS, JOB, "w1", Outage(), **bounds)
