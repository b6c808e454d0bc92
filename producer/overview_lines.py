"""What was answered of queues, put together to lines: all jobs of a model and a priority, of all groups. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice, zip_longest
from typing import Any, NamedTuple

from .contract import Keys, Priority
from .contract.keys import PRIORITIES
from .ledger import rq_names

RUNNING_AT_MOST = 200
"""Of one queue. As many as it has workers run, and what dead ones have left."""
ENDED_SHOWN = 5
HEADS_LOOKED_AT = 100
"""Queues of groups whose first job is asked for its age: the longest."""
_ENDS = ("finished", "failed", "canceled")

Entry = tuple[bytes, float]
"""Of a registry, with its score."""


class QueueReply(NamedTuple):
    """What was answered of one queue."""

    length: int
    heads: Sequence[bytes]
    """Its first jobs, the next one first."""
    runs: Sequence[bytes]
    finished: int
    failed: int
    canceled: int
    newest_finished: Sequence[Entry]
    newest_failed: Sequence[Entry]
    newest_canceled: Sequence[Entry]


def ask_queue(pipeline: Any, name: str, heads: int = 1) -> None:
    """As QueueReply has it.  heads: so many first jobs, or all where it has fewer."""
    line = rq_names.queue(name)
    pipeline.llen(line).lrange(line, 0, heads - 1)
    pipeline.zrange(rq_names.registry("wip", name), 0, RUNNING_AT_MOST - 1)
    for state in _ENDS:
        pipeline.zcard(rq_names.registry(state, name))
    for state in _ENDS:
        pipeline.zrevrange(rq_names.registry(state, name), 0, ENDED_SHOWN - 1, withscores=True)


_NOTHING = QueueReply(0, (), (), 0, 0, 0, (), (), ())


def queue_reply(replies: Sequence[Any]) -> QueueReply:
    """Of the answers to `ask_queue`.  None among them: what stands there is something else, and none of ours."""
    found: list[Any] = [empty if reply is None else reply for reply, empty in zip(replies, _NOTHING, strict=True)]
    return QueueReply(*found)


class Line:
    """The queues of one model and one priority."""

    def __init__(self, priority: Priority, replies: Sequence[QueueReply], waiting_shown: int) -> None:
        self.priority = priority
        self.length = sum(reply.length for reply in replies)
        self.finished = sum(reply.finished for reply in replies)
        self.failed = sum(reply.failed for reply in replies)
        self.canceled = sum(reply.canceled for reply in replies)
        longest = sorted(replies, key=lambda reply: reply.length, reverse=True)[:HEADS_LOOKED_AT]
        self.heads = [text(reply.heads[0]) for reply in longest if reply.heads]
        # Groups take turns: the first of each, then the second of each.
        in_turn = chain.from_iterable(zip_longest(*(reply.heads for reply in replies)))
        self.waiting = [text(job_id) for job_id in islice(filter(None, in_turn), waiting_shown)]
        # An entry of the registry is `JOB:RUN`.
        self.running = [text(run).partition(":")[0] for reply in replies for run in reply.runs]
        self.ended = [
            *_newest(reply.newest_finished for reply in replies),
            *_newest(reply.newest_failed for reply in replies),
            *_newest(reply.newest_canceled for reply in replies),
        ]

    @property
    def job_ids(self) -> list[str]:
        """All whose records are to be read."""
        return [*self.heads, *self.waiting, *self.running, *self.ended]


def lines_of(keys: Keys, replies: Mapping[str, QueueReply], waiting_shown: int = 0) -> dict[str, list[Line]]:
    """By model, in the order of the priorities.

    replies: by the names of the queues.  waiting_shown: jobs of a model that are shown, of those that wait.
    """
    parts: dict[tuple[str, Priority], list[QueueReply]] = {}
    for name, reply in replies.items():
        model, priority = keys.model_of_queue(name), keys.priority_of_queue(name)
        if model is not None and priority is not None:
            parts.setdefault((model, priority), []).append(reply)
    lines: dict[str, list[Line]] = {}
    for priority in PRIORITIES:
        for model, of in parts:
            if of == priority:
                before = lines.setdefault(model, [])
                left = waiting_shown - sum(len(line.waiting) for line in before)
                before.append(Line(priority, parts[model, priority], left))
    return lines


def text(raw: bytes) -> str:
    """As it is shown: anybody may have written it."""
    return raw.decode(errors="replace")


def _newest(entries: Iterable[Sequence[Entry]]) -> list[str]:
    """Ids of the newest ends: RQ's registries are by when a record goes."""
    together = sorted((entry for each in entries for entry in each), key=lambda entry: entry[1], reverse=True)
    return [text(job_id) for job_id, _ in together[:ENDED_SHOWN]]
