"""A scripted worker's place at one model: how Redis knows it, and the jobs that it takes and lets go of.

Each step is the ledger's, as a real worker does it. What RQ is told of an end is in `rq_ends`.
"""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import uuid4

import redis
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import now, utcformat

from ..contract import GenerationResult, Keys
from ..contract.compatibility import PUBLISHED_FIELDS
from ..contract.markup import ToolFormat
from ..contract.version import VERSION
from ..ledger import rq_names
from ..ledger.stream import Appender
from ..ledger.sweep import Member, RingEntry, beat, leave, sweep
from ..ledger.take import Dropped, Run, Taken, begin, put_down, save_meta, take, take_due
from .rq_ends import tell_rq

TOOL_FORMAT: ToolFormat = "hermes"
"""How an answer calls a tool: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`."""
TTL_S = 86_400
"""Of whatever says that the worker lives: longer than any test, so that nothing has to beat."""
MAX_BYTES = 64 * 2**20

_SEATS = count(1)


@dataclass
class Held:
    """A job that was taken."""

    job: Job
    raw: Mapping[bytes, bytes]
    now_ms: int
    """On Redis' clock, when it was taken."""
    execution: Execution | None = None


@dataclass
class Seat:
    """The place at one model of one prefix."""

    client: redis.Redis
    keys: Keys
    model: str
    name: str = field(default_factory=lambda: f"scripted-{next(_SEATS)}")

    def sit_down(self) -> None:
        """Be seen among the live workers of the model."""
        at = utcformat(now())
        record = {
            "birth": at,
            "last_heartbeat": at,
            "queues": ",".join(self.keys.queues(self.model)),
            "pid": os.getpid(),
            "hostname": platform.node(),
            "ip_address": "127.0.0.1",
            "version": VERSION,
            "python_version": platform.python_version(),
            "state": "idle",
            "model": self.model,
            "model_state": "ready",
            "device": "cpu",
            "chat_template": 1,
            "tool_format": TOOL_FORMAT,
            "request_fields": ",".join(sorted(PUBLISHED_FIELDS)),
        }
        beat(self.keys, self.model, RingEntry(self.name), record, ttl_s=TTL_S, keep_s=TTL_S).run(self.client)

    def get_up(self) -> None:
        """Leave in good order."""
        self._forget()
        leave(self.keys, Member(self.name, self.model)).run(self.client)

    def die(self) -> "Seat":
        """Leave as a worker does that is killed: what it holds goes back to its queue, and its death counts.

        Returns the place of the worker that goes on.
        """
        member = Member(self.name, self.model)
        self._forget()
        self.client.zadd(self.keys.beats, {str(member): 0})  # its time is over
        sweep(self.keys, self.name, member, "overdue", now=utcformat(now())).run(self.client)
        heir = Seat(self.client, self.keys, self.model)
        heir.sit_down()
        return heir

    def take(self) -> Held | None:
        """The next job of the highest priority."""
        while True:
            step = take(self.keys, self.name, self.model, known=(), list_ttl_s=TTL_S, max_bytes=MAX_BYTES)
            taken = step.run(self.client)
            if isinstance(taken, Taken):
                return Held(self._read(taken.job_id, taken.raw), taken.raw, taken.now_ms)
            if not isinstance(taken, Dropped):
                return None

    def take_late(self) -> list[Held]:
        """Those that have waited for longer than they may, to end them."""
        if not self.client.zcount(self.keys.deadlines(self.model), "-inf", self._now_ms()):
            return []
        late = take_due(self.keys, self.name, self.model, list_ttl_s=TTL_S).run(self.client)
        return [self._held_late(job_id.decode()) for job_id in late]

    @property
    def next_deadline_s(self) -> float | None:
        """Seconds until a job that waits has waited for too long; None where none waits."""
        first: Any = self.client.zrange(self.keys.deadlines(self.model), 0, 0, withscores=True)
        return max(0.0, (first[0][1] - self._now_ms()) / 1000) if first else None

    def begin(self, held: Held) -> None:
        """Show the job as running here, in RQ's records."""
        job, execution = held.job, Execution(uuid4().hex, held.job.id, self.client, worker_name=self.name)
        started_at = utcformat(now())
        run = Run(
            execution.id,
            execution.serialize(),
            {
                "status": JobStatus.STARTED.value,
                "worker_name": self.name,
                "started_at": started_at,
                "last_heartbeat": started_at,
            },
            TTL_S,
            execution.created_at.timestamp() + TTL_S,
        )
        begin(self.keys, self.name, job.id, job.origin, run).run(self.client)
        held.execution = execution

    def stream(self, job_id: str) -> Appender:
        """The job's stream, for its owner."""
        return Appender(self.keys, job_id, self.name, as_owner=True)

    def show_progress(self, held: Held, tokens: int) -> None:
        """As `status` has it."""
        job = held.job
        job.meta.update(phase="decode", tokens=tokens)
        save_meta(self.keys, self.name, job.id, JSONSerializer.dumps(job.meta)).run(self.client)

    def is_cancelled(self, job_id: str) -> bool:
        """Whether somebody asks for the job's cancellation."""
        return bool(self.client.exists(self.keys.cancel(job_id)))

    def put_down(self, held: Held, result: GenerationResult | None = None) -> None:
        """Let go of a job. Where it has ended, RQ is told how."""
        if result is not None and held.raw:
            tell_rq(held.job, held.execution, result)
        put_down(self.keys, self.name, held.job.id, held.job.origin or "").run(self.client)
        self.client.hset(rq_names.worker(self.name), "state", "idle")

    def _held_late(self, job_id: str) -> Held:
        raw: Any = self.client.hgetall(rq_names.job(job_id))
        return Held(self._read(job_id, raw), raw, self._now_ms())

    def _read(self, job_id: str, raw: Mapping[bytes, bytes]) -> Job:
        job = Job(job_id, connection=self.client, serializer=JSONSerializer)
        if raw:
            job.restore(dict(raw))
        return job

    def _now_ms(self) -> int:
        seconds, microseconds = self.client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def _forget(self) -> None:
        key = rq_names.worker(self.name)
        self.client.delete(key, rq_names.worker_runs(self.name))
        self.client.srem(rq_names.WORKERS, key)
        for queue in self.keys.queues(self.model):
            self.client.srem(rq_names.workers(queue), key)
