"""The workers of the storm: starts them, knows what each holds, and replaces the dead."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.integration.worker_process import WorkerProcess

from .checker import TERMINAL
from .mortal_worker import POINTS
from .plan import Plan

APPENDS = {"between a token and its append", "between an append and its answer"}
"""Points that a job passes many times."""

PATIENT = {"GENQUEUE_MAX_ATTEMPTS": "1000", "GENQUEUE_PREEMPT": "all"}
"""Several deaths may meet the same job by chance; that one ends as worker_lost after three has its own test."""


@dataclass(frozen=True)
class Death:
    """A worker, or its engine, that was killed, and the job that it held."""

    at: float
    """`time.monotonic()`."""
    worker: str
    """The stem of its name."""
    job_id: str | None
    attempt: int
    """The job's last attempt at that moment."""
    point: str
    heirs: frozenset[str]
    """Workers that could be counted on to take over."""
    ran: bool = False
    """The job ran there, as all could see, and had not ended."""
    of_engine: bool = False
    """The engine alone was killed."""
    held: tuple[str, ...] = ()
    """All jobs that its worker had: the one that ran, and those that were parked or ended."""


class Gone(Exception):
    """The process to be struck has ended by itself, at its own point."""


class Member(WorkerProcess):
    """One worker. `point` is where it will kill itself, if anywhere; `is_apart`: as on a host of its own."""

    def __init__(
        self,
        redis_url: str,
        model_paths: Path,
        log: Path,
        point: str | None,
        nth: int,
        *,
        number: signal.Signals = signal.SIGKILL,
        is_apart: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.redis_url, self.log, self.point, self.is_apart = redis_url, log, point, is_apart
        self.note = log.with_suffix(".died")
        self.ready = False
        self.stopped_until: float | None = None
        self.unfit_until = 0.0
        self.hash_key = ""
        self._name = log.stem
        mortal = (
            ["tests.chaos.mortal_worker", number.name, point, str(nth), str(self.note)] if point else ["worker"]
        )
        command = [sys.executable, "-m", *mortal, "run", "--model-name", "tiny", "--device", "cpu"]
        command += ["--redis-url", redis_url, "--model-paths", str(model_paths), "--name", self._name]
        environment = {**os.environ, "GENQUEUE_THREADS": "1", "OMP_NUM_THREADS": "1", **(environment or {})}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True, env=environment
            )

    @property
    def name_in_rq(self) -> str:
        """Its whole name, once it is known."""
        return self.hash_key.rpartition(":")[2]

    @property
    def alive(self) -> bool:
        """Whether the process is there, be it stopped."""
        return self.process.poll() is None

    @property
    def fit(self) -> bool:
        """Whether it can be counted on to take over."""
        return self.ready and self.alive and self.stopped_until is None and time.monotonic() > self.unfit_until

    def died_at(self) -> tuple[float, str]:
        """When it killed itself, and at which point; now, where somebody else did it."""
        if self.note.exists():
            note = json.loads(self.note.read_text())
            return note["at"], note["point"]
        return time.monotonic(), "at random"

    def signal_all(self, number: signal.Signals, *, engine: bool) -> None:
        """Signal the worker, and its engine too if asked to.  Raises Gone."""
        if engine:
            self.signal_engine(number)
        self.send(number)

    def signal_engine(self, number: signal.Signals) -> None:
        """Signal the engine.  Raises Gone, also while there is none."""
        try:
            os.kill(self.engine_pid(), number)
        except (OSError, ValueError) as error:
            raise Gone from error


class Fleet:
    """Keeps a number of workers alive; every second one that is started is mortal, one at a time."""

    def __init__(self, url: str, model_paths: Path, folder: Path, plan: Plan, rng: random.Random) -> None:
        self._url, self._model_paths, self._folder, self._rng = url, model_paths, folder, rng
        self._size, self._apart = plan.workers, plan.apart
        self._points: Iterator[str] = iter(())
        self._started = 0
        self.members: list[Member] = []
        self._buried: list[Member] = []
        self.deaths: list[Death] = []
        self.hung: set[str] = set()
        self.disabled: list[tuple[float, str]] = []
        """When a worker could not be counted on any more, and which."""
        self.points_wanted = True

    def keep_up(self, client: redis.Redis) -> None:
        """Write down who has died, start others in their place, and see who has become ready."""
        for member in [member for member in self.members if not member.alive]:
            self._bury(member, client)
        while len(self.members) < self._size:
            self._start()
        self._see_who_is_ready(client)

    def held_by(self, member: Member, client: redis.Redis) -> list[str]:
        """The jobs that the worker has taken, the newest last."""
        held = client.lrange(f"gen:{{taken:{member.name_in_rq}}}", 0, -1)
        return [job_id.decode() for job_id in held]

    def fit(self) -> list[Member]:
        """Those that can be counted on."""
        return [member for member in self.members if member.fit]

    def disable(self, member: Member, *, until: float, stopped: bool) -> None:
        """Do not count on a worker that was stopped, or has lost its engine."""
        self.disabled.append((time.monotonic(), member.log.stem))
        member.unfit_until = until
        if stopped:
            member.stopped_until = until
            self.hung.add(member.log.stem)

    def wake(self, *, everybody: bool = False) -> None:
        """Continue those whose stop is over."""
        for member in self.members:
            if member.stopped_until and (everybody or time.monotonic() > member.stopped_until):
                member.stopped_until = None
                with contextlib.suppress(Gone):
                    member.send(signal.SIGCONT)
                    member.signal_engine(signal.SIGCONT)

    def close(self) -> None:
        """End all of them."""
        for member in [*self.members, *self._buried]:
            member.stop()

    def _start(self) -> None:
        self._started += 1
        name = f"chaos{self._started}"
        point = self._next_point()
        nth = self._rng.randint(2, 40) if point in APPENDS else self._rng.randint(1, 2)
        is_apart = self._rng.random() < self._apart
        log = self._folder / f"{name}.log"
        self.members.append(
            Member(self._url, self._model_paths, log, point, nth, is_apart=is_apart, environment=PATIENT)
        )

    def _next_point(self) -> str | None:
        if not self.points_wanted or self._started <= self._size - 1:
            return None
        if any(member.point for member in self.members) or self._started % 2:
            return None
        point = next(self._points, None)
        if point is None:
            self._points = iter(self._rng.sample(sorted(POINTS), len(POINTS)))
            point = next(self._points)
        return point

    def _bury(self, member: Member, client: redis.Redis) -> None:
        assert member.process.returncode == -signal.SIGKILL, f"a worker ended by itself:\n{member.text()}"
        at, point = member.died_at()
        death = self.death_of(member, client, at=at, point=point)
        self.members.remove(member)
        self._buried.append(member)
        self.deaths.append(death)
        self.disabled.append((at, death.worker))

    def death_of(self, member: Member, client: redis.Redis, *, at: float, point: str) -> Death:
        """What a death leaves behind, looked at before anybody has had the time to notice it."""
        held = self.held_by(member, client)
        heirs = frozenset(other.log.stem for other in self.fit() if other is not member)
        seen = [(job_id, *self._seen_of(job_id, member, client)) for job_id in reversed(held)]
        if not seen:
            return Death(at, member.log.stem, None, 0, point, heirs)
        # The newest runs, unless it has ended and is yet to be put down, or was just taken.
        job_id, attempt, ran = next((each for each in seen if each[2]), seen[0])
        return Death(at, member.log.stem, job_id, attempt, point, heirs, ran=ran, held=tuple(held))

    @staticmethod
    def _seen_of(job_id: str, member: Member, client: redis.Redis) -> tuple[int, bool]:
        """Of a job that the worker has: its last attempt, and whether it ran there, as all could see."""
        last = client.xrevrange(f"gen:{{{job_id}}}:events", count=1)
        name = member.name_in_rq.encode()
        status, runner, parked_by = client.hmget(f"rq:job:{job_id}", "status", "worker_name", "parked_by")
        has_ended = bool(last) and last[0][1][b"type"].decode() in TERMINAL
        ran = not has_ended and (status, runner) == (b"started", name) and parked_by != name
        return int(last[0][0].split(b"-")[0]) if last else 0, ran

    def _see_who_is_ready(self, client: redis.Redis) -> None:
        waiting = [member for member in self.members if not member.ready]
        if not waiting:
            return
        keys = [key.decode() for key in client.smembers("rq:workers")]
        for member in waiting:
            for key in keys:
                if f":{member.log.stem}-" in key and client.hget(key, "model_state") == b"ready":
                    member.ready, member.hash_key = True, key
                    if member.is_apart:
                        member.hide_process()
