"""Judges, from Redis and from subscribers' logs alone, whether each job kept the promises of the contract.

Shares no code with producer or worker: it reads the keys that contract version 1 and RQ 3 name, with redis-py and
the standard library, and compares. What it finds wrong it returns as data. It knows nothing of how the jobs were
disturbed; a job that ran in peace is judged by the same rules.

    gap        seq is 0, 1, 2 … over the job's whole life
    attempt    attempts never decrease; each opens with its own `started`, and no other event is one
    end        exactly one terminal event, and it is the last
    result     the result key holds the terminal event's data, and both count right
    joined     joined text and ids of the `tokens` events are those of the result; indexes continue
    resumed    started.resumed_tokens is the number of tokens before it; the seed never changes
    reference  text, ids and reason are those of the same request in an undisturbed run
    subscriber a live subscriber saw every event once, in order
    rq         RQ's status, registries and return value say the same as the result
    left       no queue, list, registry or key still holds the job, and each key that does has a TTL
"""

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import redis

TERMINAL = ("finished", "failed", "cancelled")
RQ_STATUS = {"finished": "finished", "failed": "failed", "cancelled": "stopped"}
"""RQ's word for each end of a job that a worker had taken."""


class Violation(NamedTuple):
    """A promise that was not kept."""

    job_id: str
    rule: str
    detail: str


class Entry(NamedTuple):
    """One event, as it stands in a stream or in a subscriber's log."""

    id: str
    type: str
    data: Mapping[str, Any]

    @property
    def attempt(self) -> int:
        """First half of the id."""
        return int(self.id.split("-")[0])

    @property
    def seq(self) -> int:
        """Second half of the id."""
        return int(self.id.split("-")[1])


@dataclass(frozen=True)
class Expected:
    """How a job must end: what an undisturbed run of its request gave."""

    job_id: str
    text: str
    token_ids: Sequence[int]
    finish_reason: str
    stop: str | None = None


@dataclass(frozen=True)
class Evidence:
    """All that Redis says of one job."""

    job_id: str
    entries: Sequence[Entry]
    result: Mapping[str, Any] | None
    rq_status: str | None
    rq_return_values: Sequence[Mapping[str, Any]]
    places: frozenset[str]
    """Queues, lists and registries that name the job."""
    ttls_s: Mapping[str, int]
    """Every key that carries the job's id; -1 for one that never expires."""

    @property
    def tokens(self) -> list[Entry]:
        """The `tokens` events."""
        return [entry for entry in self.entries if entry.type == "tokens"]


@dataclass(frozen=True)
class _Everywhere:
    """What is read once for all jobs: who is named where, and every key."""

    names: Mapping[str, set[str]] = field(default_factory=dict)
    keys: Sequence[str] = ()


# -- reading


def read(client: redis.Redis, job_ids: Iterable[str], prefix: str = "gen") -> Iterator[Evidence]:
    """Read what Redis holds of each job.  client: one that returns bytes."""
    everywhere = _read_everywhere(client, prefix)
    for job_id in job_ids:
        yield _read_job(client, job_id, prefix, everywhere)


def _read_everywhere(client: redis.Redis, prefix: str) -> _Everywhere:
    names: dict[str, set[str]] = {}
    keys = sorted(key.decode() for key in client.scan_iter(count=1000))
    for key in keys:
        members: list[bytes] = []
        kind = client.type(key)
        if kind == b"list" and key.startswith(("rq:queue:", "rq:intermediate:", f"{prefix}:{{taken:")):
            members = client.lrange(key, 0, -1)
        elif kind == b"zset" and key.startswith(("rq:wip:", "rq:finished:", "rq:failed:", "rq:canceled:")):
            members = client.zrange(key, 0, -1)
        elif kind == b"set" and key.endswith(":executions"):
            members = list(client.smembers(key))
        # The started registry and the workers' executions hold JOB:EXECUTION.
        names[key] = {member.decode().split(":")[0] for member in members}
    return _Everywhere(names, keys)


def _read_job(client: redis.Redis, job_id: str, prefix: str, everywhere: _Everywhere) -> Evidence:
    entries = [
        Entry(entry_id.decode(), fields[b"type"].decode(), json.loads(fields[b"data"]))
        for entry_id, fields in client.xrange(f"{prefix}:{{{job_id}}}:events")
    ]
    result = client.get(f"{prefix}:{{{job_id}}}:result")
    status = client.hget(f"rq:job:{job_id}", "status")
    returned = [
        json.loads(base64.b64decode(fields[b"return_value"]))
        for _, fields in client.xrange(f"rq:results:{job_id}")
        if b"return_value" in fields
    ]
    return Evidence(
        job_id=job_id,
        entries=entries,
        result=json.loads(result) if result is not None else None,
        rq_status=status.decode() if status is not None else None,
        rq_return_values=returned,
        places=frozenset(key for key, ids in everywhere.names.items() if job_id in ids),
        ttls_s={key: client.ttl(key) for key in everywhere.keys if _is_of(key, job_id)},
    )


def _is_of(key: str, job_id: str) -> bool:
    return job_id in key.replace("{", ":").replace("}", ":").split(":")


# -- judging


def check(client: redis.Redis, expected: Iterable[Expected], prefix: str = "gen") -> list[Violation]:
    """Judge jobs that should all have ended, by every rule that needs no subscriber."""
    by_id = {each.job_id: each for each in expected}
    found: list[Violation] = []
    for evidence in read(client, by_id, prefix):
        found += check_stream(evidence)
        found += check_reference(evidence, by_id[evidence.job_id])
        found += check_rq(evidence)
        found += check_left(evidence, prefix)
    return found


def check_stream(evidence: Evidence) -> list[Violation]:
    """Whether stream and result of one job are whole, and agree."""
    return [
        Violation(evidence.job_id, rule, detail)
        for rule, look in _STREAM_RULES.items()
        for detail in look(evidence)
    ]


def _gap(evidence: Evidence) -> Iterator[str]:
    seqs = [entry.seq for entry in evidence.entries]
    if seqs != list(range(len(seqs))):
        wrong = next(place for place, seq in enumerate(seqs) if place != seq)
        yield f"entry {wrong} has the id {evidence.entries[wrong].id}"


def _attempt(evidence: Evidence) -> Iterator[str]:
    before = 0
    for entry in evidence.entries:
        if entry.attempt < before or entry.attempt < 1:
            yield f"{entry.id} follows attempt {before}"
        opens = entry.attempt != before
        if entry.type == "started" and not opens:
            yield f"{entry.id} starts attempt {entry.attempt} again"
        if entry.type == "started" and entry.data["attempt"] != entry.attempt:
            yield f"{entry.id} says that it is attempt {entry.data['attempt']}"
        # A job that is refused, or found to be over, ends without having been started.
        if opens and entry.type == "tokens":
            yield f"attempt {entry.attempt} begins with {entry.type}"
        before = entry.attempt


def _end(evidence: Evidence) -> Iterator[str]:
    ends = [entry.id for entry in evidence.entries if entry.type in TERMINAL]
    if len(ends) != 1:
        yield f"terminal events: {', '.join(ends) or 'none'}"
    if evidence.entries and evidence.entries[-1].type not in TERMINAL:
        yield f"the last event, {evidence.entries[-1].id}, is {evidence.entries[-1].type}"


def _result(evidence: Evidence) -> Iterator[str]:
    result, last = evidence.result, evidence.entries[-1] if evidence.entries else None
    if result is None or last is None:
        yield f"result is {'missing' if result is None else 'there'}, stream has {len(evidence.entries)} entries"
        return
    if result != last.data:
        yield "the result is not the last event's data"
        return
    if last.data.get("status") != last.type:
        yield f"{last.type} ends with a result that says {last.data.get('status')}"
    if result["usage"]["completion_tokens"] != len(result["token_ids"]):
        yield f"completion_tokens is {result['usage']['completion_tokens']}, ids are {len(result['token_ids'])}"
    if result["attempts"] != last.attempt:
        yield f"attempts is {result['attempts']}, the last event is {last.id}"


def _joined(evidence: Evidence) -> Iterator[str]:
    ids: list[int] = []
    for entry in evidence.tokens:
        if entry.data["index"] != len(ids):
            yield f"{entry.id} has index {entry.data['index']} after {len(ids)} ids"
        ids += entry.data["ids"]
    if evidence.result is None:
        return
    if ids != evidence.result["token_ids"]:
        yield f"ids: {len(ids)} in the stream, {len(evidence.result['token_ids'])} in the result, or others"
    text = "".join(entry.data["text"] for entry in evidence.tokens)
    if text != evidence.result["text"]:
        yield f"text differs: {_difference(text, evidence.result['text'])}"


def _resumed(evidence: Evidence) -> Iterator[str]:
    tokens, seeds = 0, set()
    for entry in evidence.entries:
        if entry.type == "tokens":
            tokens += len(entry.data["ids"])
        elif entry.type == "started":
            seeds.add(entry.data["seed"])
            if entry.data["resumed_tokens"] != tokens:
                yield f"{entry.id} resumes from {entry.data['resumed_tokens']} tokens, and {tokens} stand before"
    if len(seeds) > 1:
        yield f"the seed changed: {sorted(seeds)}"


_STREAM_RULES: dict[str, Callable[[Evidence], Iterator[str]]] = {
    "gap": _gap,
    "attempt": _attempt,
    "end": _end,
    "result": _result,
    "joined": _joined,
    "resumed": _resumed,
}


def check_reference(evidence: Evidence, expected: Expected) -> list[Violation]:
    """Whether the job ended, token for token, as an undisturbed run does."""
    result = evidence.result
    if result is None:
        return []  # said by another rule
    wrong = []
    if result["status"] != "finished":
        wrong.append(f"it {result['status']}: {result['error']}")
    if result["text"] != expected.text:
        wrong.append(f"text differs: {_difference(result['text'], expected.text)}")
    if result["token_ids"] != list(expected.token_ids):
        wrong.append(f"ids differ: {_difference(result['token_ids'], expected.token_ids)}")
    if (result["finish_reason"], result["stop"]) != (expected.finish_reason, expected.stop):
        wrong.append(f"it ended by {result['finish_reason']} {result['stop']!r}, not {expected.finish_reason}")
    return [Violation(evidence.job_id, "reference", detail) for detail in wrong]


def check_rq(evidence: Evidence) -> list[Violation]:
    """Whether RQ says of the job what its result says."""
    if evidence.result is None:
        return []
    wrong, status = [], evidence.result["status"]
    if evidence.rq_status != RQ_STATUS[status]:
        wrong.append(f"RQ's status is {evidence.rq_status}, the job {status}")
    registry = "rq:finished:" if status == "finished" else "rq:failed:"
    homes = sorted(place for place in evidence.places if place.startswith(("rq:finished:", "rq:failed:")))
    if not (len(homes) == 1 and homes[0].startswith(registry)):
        wrong.append(f"it stands in {homes or 'no registry'} and {status}")
    returned = evidence.rq_return_values
    if any(value != evidence.result for value in returned):
        wrong.append("RQ's return value is not the result")
    if len(returned) != (1 if status == "finished" else 0):
        wrong.append(f"RQ holds {len(returned)} return values of a job that {status}")
    return [Violation(evidence.job_id, "rq", detail) for detail in wrong]


def check_left(evidence: Evidence, prefix: str = "gen") -> list[Violation]:
    """Whether nothing but the job's end is left, and that not for ever."""
    job_id = evidence.job_id
    wrong = [
        f"{place} still holds it"
        for place in sorted(evidence.places)
        if not place.startswith(("rq:finished:", "rq:failed:"))
    ]
    kept = {f"{prefix}:{{{job_id}}}:{what}" for what in ("events", "result")} | {
        f"rq:job:{job_id}",
        f"rq:results:{job_id}",
    }
    wrong += [f"{key} is left behind" for key in sorted(set(evidence.ttls_s) - kept)]
    wrong += [f"{key} never expires" for key, ttl_s in sorted(evidence.ttls_s.items()) if ttl_s == -1]
    return [Violation(job_id, "left", detail) for detail in wrong]


def check_subscriber(name: str, evidence: Evidence, seen: Sequence[Entry], after: str = "0-0") -> list[Violation]:
    """Whether a subscriber saw each event after its first cursor once, in order, as it stands in the stream."""
    cursor = tuple(map(int, after.split("-")))
    due = [entry for entry in evidence.entries if (entry.attempt, entry.seq) > cursor]
    if list(seen) == due:
        return []
    times = Counter(entry.id for entry in seen)
    doubled = [entry_id for entry_id, count in times.items() if count > 1]
    missed = [entry.id for entry in due if entry.id not in times]
    strange = [entry.id for entry in seen if entry not in due]
    detail = f"{name}: twice {doubled[:3]}, missed {missed[:3]} ({len(missed)}), other {strange[:3]}"
    return [Violation(evidence.job_id, "subscriber", detail + ", or out of order")]


def _difference(got: Any, wanted: Any) -> str:
    """Where two sequences part."""
    at = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted)))
    return f"from {at} on {got[at : at + 8]!r}, expected {wanted[at : at + 8]!r} ({len(got)} of {len(wanted)})"
