"""What is known of a job before it ends: where it stands in line, who runs it, who could.

Pure: makes a JobStatus out of Redis's replies, and puts it into words for people.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from .contract.strict import Frozen
from .eta import Pace, about
from .ledger import rq_times
from .ledger.roster import WorkerRecord

JobState = Literal["queued", "deferred", "scheduled", "running", "finished", "failed", "cancelled"]

JOB_FIELDS = (
    *("status", "origin", "worker_name", "taken_by", "meta"),
    *("enqueued_at", "started_at", "ended_at", "result_ttl"),
)
"""Fields of an RQ job hash that are read. `data` is not among them: it could be a pickle."""

ENDS: frozenset[JobState | str] = frozenset({"finished", "failed", "cancelled"})

_STATES: dict[str, JobState] = {
    "created": "queued",
    "queued": "queued",
    "ready": "queued",
    "deferred": "deferred",
    "scheduled": "scheduled",
    "started": "running",
    "finished": "finished",
    "failed": "failed",
    "stopped": "cancelled",
    "canceled": "cancelled",
}


class WorkerInfo(Frozen):
    """A live worker that serves the model."""

    name: str
    model_state: str | None = None
    """`loading` or `ready`; None for a worker that does not say."""
    chat_template: bool | None = None
    """Whether the model takes `messages`; None for a worker that does not say, as one that is loading."""
    tool_format: str | None = None
    """How its model writes calls; "" where it takes no `tools`, None for a worker that does not say."""
    state: str | None = None
    """RQ's word: `idle`, `busy`, `suspended`, `started`; None for a worker that does not say."""
    hostname: str | None = None
    device: str | None = None
    """As its settings name it."""
    context_length: int | None = None
    """Tokens of prompt and answer that fit; None for a worker that does not say, as one that is loading."""
    job_seconds: float | None = None
    """Mean of its jobs lately, s; None before the first."""
    busy_seconds: float | None = None
    """For how long its job had run at its last beat, s; None where it has none, or does not say."""

    @property
    def is_suspended(self) -> bool:
        """It takes no job until `rq resume`."""
        return self.state == "suspended"

    @property
    def pace(self) -> Pace | None:
        """How fast it works; None for one that takes no jobs now, or has had none."""
        if self.job_seconds is None or self.is_suspended or self.model_state == "loading":
            return None
        return Pace(self.job_seconds, is_busy=self.state == "busy", busy_s=self.busy_seconds)


class Progress(Frozen):
    """How far a running job is, about a second ago."""

    model_config = ConfigDict(extra="ignore")

    phase: str | None = None
    tokens: int | None = None
    tokens_per_second: Annotated[float, Field(allow_inf_nan=False)] | None = None

    @property
    def is_paused(self) -> bool:
        """Whether a job of a higher priority has the engine; it stays with its worker, and goes on after that."""
        return self.phase == "paused"


class JobStatus(Frozen):
    """What is known of a job."""

    job_id: str
    model: str
    state: JobState | str
    """Where only the result is left: its status, which a later version may have another word for."""
    has_result: bool
    """Whether its terminal event and result stand."""
    is_held: bool = True
    """Whether it stands in line, waits for another job or its time, or is with a worker."""
    queue: str | None = None
    group: str | None = None
    """For whom it is."""
    position: int | None = None
    """Jobs of this model that are served before it; None when it does not stand in line. Where groups take turns,
    as far as that can be told now."""
    eta_s: float | None = None
    """Until a worker takes it, by what jobs took lately; None when it is not in line, or nobody can tell."""
    worker: str | None = None
    workers: tuple[WorkerInfo, ...] = ()
    """Live workers that serve the model."""
    progress: Progress | None = None
    enqueued_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def is_stranded(self) -> bool:
        """Nobody will write its terminal event: RQ has ended it without us, or it was taken out of its queue."""
        return not self.has_result and not self.is_held

    @property
    def is_over_for_rq(self) -> bool:
        """Its record says that it has ended, whether or not it has."""
        return self.state in ENDS

    @property
    def is_with_the_dead(self) -> bool:
        """It ran on a worker that is gone. It goes on when a live one finds it."""
        return (
            self.state == "running"
            and not self.has_result
            and self.queue is not None  # else nobody was asked who lives
            and self.worker is not None
            and self.worker not in {worker.name for worker in self.workers}
        )

    @property
    def is_paused(self) -> bool:
        """It waits at its worker until a job of a higher priority has ended there."""
        is_there = self.state == "running" and not self.has_result and not self.is_with_the_dead
        return is_there and self.progress is not None and self.progress.is_paused

    def describe(self) -> str:
        """In words, for a person who waits: `queued, 3rd in line; no live worker serves tiny`."""
        if self.is_stranded:
            return f"{self._describe_loss()}: no worker will end its stream, cancel it here to do so"
        if self.is_paused:
            so_far = f" after {self.progress.tokens} tokens" if self.progress and self.progress.tokens else ""
            return f"paused on {self.worker or 'a worker'}{so_far}: a job of a higher priority goes first"
        if self.state == "running" and not self.is_with_the_dead:
            return f"running on {self.worker or 'a worker'}{self._describe_progress()}"
        if self.state in {"queued", "deferred", "scheduled", "running"}:
            return f"{self.describe_wait()}; {self._describe_workers()}{self._describe_turn()}"
        return self.state

    def _describe_loss(self) -> str:
        if self.is_over_for_rq:
            return f"{self.state} through RQ, without a result"
        return f"{self.state} by its record, but in no queue and with no live worker"

    def describe_wait(self) -> str:
        """Of a job that waits for a worker, where: `queued, 3rd in line`."""
        if self.is_with_the_dead:
            return f"was with {self.worker}, which is not among the live workers"
        if self.state == "queued" and self.position is not None:
            return f"queued, {ordinal(self.position + 1)} in line"
        return {"deferred": "waiting for another job", "scheduled": "scheduled for later"}.get(
            self.state, "queued"
        )

    def _describe_workers(self) -> str:
        if not self.workers:
            return f"no live worker serves {self.model}"
        suspended = [worker for worker in self.workers if worker.is_suspended]
        if len(suspended) == len(self.workers):
            who = suspended[0].name if len(suspended) == 1 else f"all {len(suspended)} live workers"
            are = "is" if len(suspended) == 1 else "are"
            return f"{who} for {self.model} {are} suspended until `rq resume`"
        if all(worker.model_state == "loading" for worker in self.workers):
            return f"{self.workers[0].name} is loading {self.model}"
        count = len(self.workers)
        not_all = f", {len(suspended)} of them suspended" if suspended else ""
        return f"{count} live worker{'s' if count > 1 else ''} for {self.model}{not_all}"

    def _describe_turn(self) -> str:
        return f"; its turn comes in {about(self.eta_s)}" if self.eta_s is not None else ""

    def _describe_progress(self) -> str:
        progress = self.progress
        if progress is None:
            return ""
        words = [progress.phase] if progress.phase else []
        if progress.tokens is not None:
            words.append(f"{progress.tokens} tokens")
        if progress.tokens_per_second:
            words.append(f"{progress.tokens_per_second:.1f} tokens/s")
        return f" ({', '.join(words)})" if words else ""


def worker_info(record: WorkerRecord) -> WorkerInfo:
    """What a worker's record says of it."""
    return WorkerInfo(**{name: getattr(record, name) for name in WorkerInfo.model_fields})


def paces_of(workers: Sequence[WorkerInfo]) -> list[Pace]:
    """Of those that take jobs."""
    return [pace for worker in workers if (pace := worker.pace) is not None]


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    suffix = "th" if number % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def job_fields(reply: Sequence[bytes | None], names: Sequence[str] = JOB_FIELDS) -> dict[str, str]:
    """Those of the names that the job's hash has.  reply: of HMGET."""
    pairs = zip(names, reply, strict=True)
    return {name: value.decode(errors="replace") for name, value in pairs if value is not None}


def state_of(fields: Mapping[str, str]) -> JobState:
    """RQ's status in our words."""
    return _STATES.get(fields.get("status", ""), "queued")


def times_of(fields: Mapping[str, str]) -> dict[str, datetime]:
    """enqueued_at, started_at and ended_at, as far as they are set, and in RQ's form: another may have written."""
    times = {}
    for name in ("enqueued_at", "started_at", "ended_at"):
        with suppress(ValueError):
            times[name] = rq_times.parse(fields.get(name, ""))
    return times


def progress_of(fields: Mapping[str, str]) -> Progress | None:
    """From job.meta. None when the worker has written none yet, or when it is not ours."""
    try:
        meta: Any = json.loads(fields.get("meta") or "{}")
        progress = Progress.model_validate(meta)
    except (ValueError, RecursionError):
        return None
    return None if progress == Progress() else progress
