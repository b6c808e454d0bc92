"""Steps as their callers send them, with defaults for what a test does not care about."""

from typing import Any

import redis

from producer.contract import (
    EventId,
    GenerationResult,
    Keys,
    Priority,
    StreamedEvent,
    data_json,
    parse_entry,
    terminal_event,
)
from producer.contract.assemble import assemble
from producer.ledger.cancel import cancel
from producer.ledger.stream import Appended, Appender, Entry
from producer.ledger.submit import NewJob, Submitted, submit
from producer.ledger.take import take

KEYS = Keys()
HIGH, NORMAL, LOW = (f"rq:queue:{name}" for name in KEYS.queues("tiny"))
NOW = "2026-01-01T00:00:00.000000Z"


def submit_jobs(
    client: redis.Redis,
    *job_ids: str,
    digest: str = "digest",
    model: str = "tiny",
    priority: Priority = "normal",
    group: str | None = None,
    max_queued: int | None = None,
    queue_ttl_s: float = 100,
    keys: Keys = KEYS,
) -> Submitted:
    """A batch."""
    fields = {"origin": keys.queue(model, priority, group), "status": "queued", "data": "{}"}
    jobs = [NewJob(job_id, digest, 500, fields) for job_id in job_ids]
    step = submit(keys, model, priority, jobs, max_queued=max_queued, queue_ttl_s=queue_ttl_s, group=group)
    return step.run(client)


def take_next(
    client: redis.Redis,
    worker: str = "w1",
    known: tuple[str, ...] = (),
    max_bytes: int = 1000,
    *,
    group_max_running: int | None = None,
    above: Priority | None = None,
    keys: Keys = KEYS,
) -> Any:
    """A worker's next job."""
    options = {"max_bytes": max_bytes, "group_max_running": group_max_running, "above": above}
    return take(keys, worker, "tiny", known=known, list_ttl_s=1000, **options).run(client)


def taken(client: redis.Redis, job_id: str, worker: str = "w1") -> str:
    """A job that was submitted and taken."""
    submit_jobs(client, job_id)
    assert take_next(client, worker, tuple(items(client, KEYS.taken(worker)))).job_id == job_id
    return job_id


def running(client: redis.Redis, job_id: str, worker: str = "w1") -> str:
    """A job of whose start RQ has heard, too."""
    taken(client, job_id, worker)
    client.hset(f"rq:job:{job_id}", mapping={"status": "started", "worker_name": worker, "started_at": NOW})
    return job_id


def entry(event_id: str, data: str = "{}", kind: str = "tokens") -> Entry:
    """An event, of any data: the steps do not read it."""
    return Entry(EventId.parse(event_id), kind, data)


def append(
    client: redis.Redis,
    job_id: str,
    previous: str,
    *entries: Entry,
    worker: str = "w1",
    as_owner: bool = True,
    **options: Any,
) -> Appended:
    """A worker's append.  options: the `result`, of a job's last one, and whether it looks for who waits."""
    appender = Appender(KEYS, job_id, worker, as_owner=as_owner)
    return appender.append(EventId.parse(previous), entries, ttl_s=200, **options).run(client)


def finish(client: redis.Redis, job_id: str, previous: str = "0-0", event_id: str = "1-0", **options: Any) -> None:
    """Its terminal event and its result."""
    result = result_of(job_id)
    last = entry(event_id, data_json(terminal_event(result)), result.status)
    assert append(client, job_id, previous, last, result=result.model_dump_json(), **options).answer == "ok"


def result_of(job_id: str, status: str = "finished") -> GenerationResult:
    """A result of that job."""
    reason = {"finished": "stop", "cancelled": "cancelled"}[status]
    return GenerationResult.model_validate(
        {"job_id": job_id, "status": status, "model": "tiny", "finish_reason": reason}
    )


def cancel_job(client: redis.Redis, job_id: str, *, known: bool = True) -> str:
    """A producer's request.  known: whether it has read the events so far."""
    history = events(client, job_id) if known else []
    last = history[-1].id if history else None
    result = assemble(job_id, "tiny", [], status="cancelled", finish_reason="cancelled")
    ttls = {"result_ttl_s": 50, "request_ttl_s": 700}
    return cancel(KEYS, job_id, "tiny", last, result, now=NOW, **ttls).run(client)


def events(client: redis.Redis, job_id: str) -> list[StreamedEvent]:
    """Of a job whose events are some."""
    return [parse_entry(*each) for each in client.xrange(KEYS.events(job_id))]


def ids(client: redis.Redis, job_id: str) -> list[str]:
    """Of its events."""
    return [event_id.decode() for event_id, _ in client.xrange(KEYS.events(job_id))]


def items(client: redis.Redis, key: str) -> list[str]:
    """Of a list."""
    return [item.decode() for item in client.lrange(key, 0, -1)]


def field(client: redis.Redis, job_id: str, name: str) -> str | None:
    """Of a job's hash."""
    value = client.hget(f"rq:job:{job_id}", name)
    return None if value is None else value.decode()


def state(client: redis.Redis) -> dict[bytes, Any]:
    """All that stands on the server, for a comparison."""
    return {key: client.dump(key) for key in client.keys("*")}


def redis_ms(client: redis.Redis) -> float:
    """Redis' clock."""
    seconds, microseconds = client.time()
    return seconds * 1000 + microseconds / 1000
