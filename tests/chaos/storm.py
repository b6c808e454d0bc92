"""The storm: real workers and a real server under load, disturbed at random points and at chosen ones.

One loop, drawn from one seed: it keeps jobs coming and the fleet at its size, and strikes again and again. When
enough jobs and kills have been seen it lets everything end, and hands what is in Redis and in the subscribers'
logs to the checker. The seed decides what is done and in which order; the moments are the machine's.
"""

import contextlib
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from producer import Producer
from producer.broker.embedded import EmbeddedBroker
from producer.contract import BrokerUnavailable

from .checker import Entry, Evidence, Expected, Violation, check, check_subscriber, read
from .fleet import Death, Fleet, Gone, Member
from .subscriber import read_log
from .workload import Workload

TICK_S = 0.02
ENGINE_START_S = 8.0
"""A worker whose engine was killed is not counted on for so long."""
QUIET_S = 30.0
"""How long the end may take: the sweep's patience with the last dead worker, and its bookkeeping."""
SUBSCRIBERS = ("raw", "client", "client")


@dataclass(frozen=True)
class Plan:
    """What to do to whom."""

    jobs: int = 200
    workers: int = 3
    kills: int = 60
    """Of workers and of the server."""
    server_kills: int = 10
    pool: int = 24
    """Different requests."""
    limit_s: float = 900.0
    """A storm that has not come to its end by then has found a job that never ends."""


@dataclass
class Report:
    """What was done, and what came of it."""

    jobs: int = 0
    worker_kills: int = 0
    server_kills: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    resumes: int = 0
    recovery_s: list[float] = field(default_factory=list)
    recovery_alone_s: list[float] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)

    def __add__(self, other: "Report") -> "Report":
        return Report(
            self.jobs + other.jobs,
            self.worker_kills + other.worker_kills,
            self.server_kills + other.server_kills,
            self.faults + other.faults,
            self.resumes + other.resumes,
            self.recovery_s + other.recovery_s,
            self.recovery_alone_s + other.recovery_alone_s,
            self.violations + other.violations,
        )

    def summary(self) -> dict[str, Any]:
        """The figures.

        recovery_s: from the kill of a worker to the next token of the job that it held, while another worker was
        there to take over; recoveries_alone, as many as had to wait for one to be started, the longest so long.
        """
        return {
            "jobs": self.jobs,
            "worker_kills": self.worker_kills,
            "server_kills": self.server_kills,
            "resumes": self.resumes,
            "violations": len(self.violations),
            "recovery_s_p50": percentile(self.recovery_s, 50),
            "recovery_s_p95": percentile(self.recovery_s, 95),
            "recoveries": len(self.recovery_s),
            "recoveries_alone": len(self.recovery_alone_s),
            "recovery_alone_s_max": round(max(self.recovery_alone_s, default=0.0), 2),
            "faults": dict(sorted(self.faults.items())),
        }


class Seen(NamedTuple):
    """An event as a live subscriber saw it."""

    entry: Entry
    at: float


class Watchers:
    """The live subscribers: processes that are told of each job, and their logs."""

    def __init__(self, url: str, folder: Path, rng: random.Random) -> None:
        self.logs = {
            f"{kind} {number}": folder / f"{kind}-{number}.log" for number, kind in enumerate(SUBSCRIBERS)
        }
        self._processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.chaos.subscriber",
                    name.split()[0],
                    url,
                    str(log),
                    str(rng.random()),
                ],
                stdin=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for name, log in self.logs.items()
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def tell(self, job_id: str) -> None:
        """Let them follow one job more."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(job_id + "\n")
            process.stdin.flush()

    def collect(self, timeout_s: float) -> dict[str, dict[str, list[Seen]]]:
        """What each saw of each job, once they have seen every end; less, where one does not come to that."""
        deadline = time.monotonic() + timeout_s
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
        return {name: _by_job(log) for name, log in self.logs.items()}


def _by_job(log: Path) -> dict[str, list[Seen]]:
    seen: dict[str, list[Seen]] = defaultdict(list)
    for line in read_log(log):
        seen[line["job"]].append(Seen(Entry(line["id"], line["type"], line["data"]), line["at"]))
    return seen


class Storm:
    """One server, one fleet, one load."""

    def __init__(
        self,
        broker: EmbeddedBroker,
        workload: Workload,
        plan: Plan,
        *,
        rng: random.Random,
        folder: Path,
        paths: Path,
    ) -> None:
        self._broker, self._workload, self._plan, self._rng = broker, workload, plan, rng
        self._client = redis.Redis(port=broker.port, socket_timeout=5, retry=Retry(NoBackoff(), 0))
        self._producer = Producer(broker.url)
        self._fleet = Fleet(broker.url, paths, folder, plan.workers, rng)
        self._watchers = Watchers(broker.url, folder, rng)
        self._requests: dict[str, dict[str, Any]] = {}
        self._running: set[str] = set()
        self._report = Report()
        self._started_at = time.monotonic()
        self._next_fault = 0.0
        self._deck: list[str] = []

    def run(self) -> Report:
        """Let it rage, let it end, and judge."""
        with self._watchers, contextlib.closing(self._producer), contextlib.closing(self._fleet):
            self._rage()
            self._say("enough")
            self._settle()
            self._say("all has ended")
            seen = self._watchers.collect(QUIET_S)
            self._judge(seen)
        return self._report

    # -- raging

    def _rage(self) -> None:
        deadline = time.monotonic() + self._plan.limit_s
        while not self._enough():
            if time.monotonic() > deadline:
                self._report.violations.append(Violation("-", "end", f"not done in {self._plan.limit_s:.0f} s"))
                return
            self._tick()
            if time.monotonic() > self._next_fault and self._kills < self._plan.kills:
                self._strike()

    def _enough(self) -> bool:
        return self._kills >= self._plan.kills and len(self._requests) >= self._plan.jobs

    @property
    def _kills(self) -> int:
        return len(self._fleet.deaths) + self._report.server_kills

    def _tick(self) -> None:
        # Cut connections are part of the storm: whatever did not get through is tried again at the next tick.
        with contextlib.suppress(redis.RedisError, BrokerUnavailable):
            self._fleet.wake()
            self._fleet.keep_up(self._client)
            self._running -= {job_id for job_id in self._running if self._has_result(job_id)}
            if len(self._running) <= self._plan.workers and self._fleet.fit():
                self._submit(self._rng.choice(self._workload.requests))
        time.sleep(TICK_S)

    def _has_result(self, job_id: str) -> bool:
        return bool(self._client.exists(f"gen:{{{job_id}}}:result"))

    def _submit(self, request: dict[str, Any]) -> str:
        """Submit one job. An id of our own makes it safe to try again after a lost answer."""
        job_id = f"storm-{len(self._requests)}"
        self._producer.submit(**request, model="tiny", job_id=job_id, result_ttl_s=86_400)
        self._requests[job_id] = request
        self._running.add(job_id)
        self._watchers.tell(job_id)
        return job_id

    # -- striking

    def _strike(self) -> None:
        """One fault, if the fleet can bear it: another worker must be there to take over."""
        if len(self._fleet.fit()) < min(2, self._plan.workers):
            return
        fault = self._draw()
        try:
            getattr(self, f"_{fault}")()
        except (redis.RedisError, Gone) as error:
            self._say(f"no {fault}: {error!r:.80}")
        else:
            self._say(fault.replace("_", " "))
            self._report.faults[fault.replace("_", " ")] += 1
        self._next_fault = time.monotonic() + self._rng.uniform(0.1, 1.5)

    def _say(self, text: str) -> None:
        elapsed_s = time.monotonic() - self._started_at
        figures = f"{self._kills} kills, {len(self._requests)} jobs, {len(self._fleet.fit())} workers fit"
        print(f"{elapsed_s:6.1f} s  {text:16}  {figures}", file=sys.stderr, flush=True)

    def _draw(self) -> str:
        """The next fault of a shuffled deck, in the proportions of the plan."""
        if not self._deck:
            servers = max(1, round(12 * self._plan.server_kills / max(self._plan.kills, 1)))
            self._deck = ["kill_worker"] * (12 - servers) + ["kill_server"] * servers
            self._deck += ["kill_engine"] * 2 + ["stop_worker"] * 2 + ["cut_connections"] * 3
            self._rng.shuffle(self._deck)
        return self._deck.pop()

    def _victim(self) -> Member:
        """A worker; if possible one that holds a job."""
        fit = self._fleet.fit()
        busy = [member for member in fit if self._fleet.held_by(member, self._client)]
        return self._rng.choice(busy or fit)

    def _kill_worker(self) -> None:
        victim = self._victim()
        victim.send(signal.SIGKILL)
        victim.wait()
        self._fleet.keep_up(self._client)

    def _kill_engine(self) -> None:
        victim = self._victim()
        victim.signal_engine(signal.SIGKILL)
        self._fleet.disable(victim, until=time.monotonic() + ENGINE_START_S, stopped=False)

    def _stop_worker(self) -> None:
        """A worker that hangs: shorter than its time to live, or longer."""
        victim = self._victim()
        victim.signal_all(signal.SIGSTOP, engine=self._rng.random() < 0.5)
        length_s = self._rng.choice((0.5, 2, 9, 18))
        self._fleet.disable(victim, until=time.monotonic() + length_s, stopped=True)

    def _cut_connections(self) -> None:
        """Cut about half of all connections, our own and the subscribers' included."""
        for other in self._client.client_list():
            if self._rng.random() < 0.5:
                with contextlib.suppress(redis.ResponseError):
                    self._client.client_kill_filter(_id=other["id"], skipme=False)

    def _kill_server(self) -> None:
        self._broker.kill()
        self._report.server_kills += 1
        time.sleep(self._rng.choice((0.0, 0.3, 1.0, 2.5)))  # the outage
        self._broker.start()

    # -- the end

    def _settle(self) -> None:
        """Wait until every job has its result and nothing is held by the dead, or until that takes too long."""
        self._fleet.points_wanted = False
        deadline = time.monotonic() + QUIET_S + 60
        while time.monotonic() < deadline:
            self._fleet.wake()
            with contextlib.suppress(redis.RedisError):
                self._fleet.keep_up(self._client)
                self._running -= {job_id for job_id in self._running if self._has_result(job_id)}
                if not self._running and not list(self._client.scan_iter("gen:{taken:*", count=1000)):
                    return
            time.sleep(TICK_S)

    def _judge(self, seen: dict[str, dict[str, list[Seen]]]) -> None:
        report, deaths = self._report, self._fleet.deaths
        evidence = {each.job_id: each for each in read(self._client, self._requests)}
        report.violations += check(self._client, self._expected(evidence.values()))
        for name, by_job in seen.items():
            for job_id, each in evidence.items():
                report.violations += check_subscriber(name, each, [one.entry for one in by_job.get(job_id, ())])
        report.jobs += len(self._requests)
        report.worker_kills += len(deaths)
        report.faults.update(f"died {death.point}" for death in deaths)
        report.resumes += sum(
            entry.type == "started" and entry.attempt > 1 for each in evidence.values() for entry in each.entries
        )
        report.recovery_s, report.recovery_alone_s = recoveries(deaths, self._fleet.disabled, seen["raw 0"])

    def _expected(self, evidence: Iterable[Evidence]) -> Iterator[Expected]:
        for each in evidence:
            request = self._requests[each.job_id]
            started = next((entry for entry in each.entries if entry.type == "started"), None)
            seed = request.get("seed", started.data["seed"] if started else 0)
            yield Expected(each.job_id, *self._workload.reference(request, seed))


def recoveries(
    deaths: Sequence[Death], disabled: Sequence[tuple[float, str]], seen: dict[str, list[Seen]]
) -> tuple[list[float], list[float]]:
    """Seconds from the kill of a worker until a live subscriber saw the next token of the job that it held.

    A later attempt's token, that is; of a job that had nothing left but its end, that. A job whose next worker was
    killed too before it came so far counts from the last of these kills. First those during which another worker
    was there all the time to take over, then those in which the storm had left none.
    """
    recovered: dict[tuple[str, str], tuple[Death, float]] = {}
    for death in sorted(deaths, key=lambda death: death.at):
        for entry, at in seen.get(death.job_id or "", ()):
            if entry.attempt > death.attempt and entry.type != "started" and at > death.at:
                recovered[death.job_id or "", entry.id] = death, at
                break
    with_heir, without = [], []
    for death, at in recovered.values():
        lost = {name for moment, name in disabled if death.at <= moment <= at}
        (with_heir if death.heirs - lost else without).append(at - death.at)
    return with_heir, without


def percentile(values: Sequence[float], percent: int) -> float | None:
    """None of nothing."""
    if len(values) < 2:
        return round(values[0], 2) if values else None
    return round(statistics.quantiles(values, n=100, method="inclusive")[percent - 1], 2)
