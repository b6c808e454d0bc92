"""The storm: real workers and a real server under load, disturbed at random points and at chosen ones.

One loop, drawn from one seed: it keeps jobs coming and the fleet at its size, and strikes again and again. When
enough jobs and kills have been seen it lets everything end, and hands what is in Redis and in the subscribers'
logs to the checker. The seed decides what is done and in which order; the moments are the machine's.
"""

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from producer import Producer
from producer.broker.embedded import EmbeddedBroker
from producer.contract import BrokerUnavailable

from .checker import Violation
from .deaths import preemptions, read_counted, signs
from .fleet import Fleet, Gone
from .plan import Plan
from .recovery import recoveries
from .report import Report
from .strikes import Strikes
from .verdict import counted_by_outage, judge
from .watchers import Watchers
from .workload import Workload

GROUPS = (None, "a", "b")
TICK_S = 0.02
QUIET_S = 30.0
"""How long the end may take: the sweep's patience with the last dead worker, and its bookkeeping."""
CALM_S = 300.0
"""Within this time, all workers are whole again."""
OUTAGE_S = (8.0, 15.0)
"""Longer than a beat counts."""
PRIORITIES = 101
"""Drawn, and taken in turn."""
COUNT_S = 2.0
"""Between two looks at the logs."""
AFTER_OUTAGE_S = 8.0
"""Whoever takes somebody for dead because of an outage has done so by then."""


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
        self._broker, self._workload, self._plan, self._rng, self._folder = broker, workload, plan, rng, folder
        self._client = redis.Redis(port=broker.port, socket_timeout=5, retry=Retry(NoBackoff(), 0))
        self._producer = Producer(broker.url)
        self._fleet = Fleet(broker.url, paths, folder, plan, rng)
        self._watchers = Watchers(broker.url, folder, rng)
        self._requests: dict[str, dict[str, Any]] = {}
        self._running: set[str] = set()
        self._report = Report()
        self._counted_at = 0.0
        # One for each job, as groups have it, and of a length that has no part with theirs.
        shares = (6, 2, 2) if plan.preemptions else (0, 1, 0)
        self._priorities = rng.choices(("low", "normal", "high"), shares, k=PRIORITIES)
        self._started_at = time.monotonic()
        self._next_fault = 0.0
        self._strikes = Strikes(broker, self._client, self._fleet, plan, rng)

    def run(self) -> Report:
        """Let it rage, let it end, and judge."""
        with self._watchers, contextlib.closing(self._producer), contextlib.closing(self._fleet):
            self._rage()
            self._say("enough")
            self._settle()
            self._say("all has ended")
            seen = self._watchers.collect(QUIET_S)
            self._report.server_kills = self._strikes.server_kills
            self._report.preemptions = preemptions(self._folder.glob("chaos*.log"))
            self._report += judge(
                self._client,
                self._requests,
                seen,
                fleet=self._fleet,
                workload=self._workload,
                directory=self._broker.directory,
            )
            self._report.recoveries = recoveries(
                self._fleet.deaths,
                seen["raw 0"],
                disabled=self._fleet.disabled,
                broken=self._strikes.broken,
                signs=signs(self._folder.glob("chaos*.log")),
            )
        return self._report

    # -- raging

    def _rage(self) -> None:
        deadline = time.monotonic() + self._plan.limit_s
        while not self._enough():
            if time.monotonic() > deadline:
                self._report.violations.append(Violation("-", "end", f"not done in {self._plan.limit_s:.0f} s"))
                return
            self._tick()
            if self._outages_due:
                self._outage()
            elif time.monotonic() > self._next_fault and self._wants_more:
                self._strike()

    def _enough(self) -> bool:
        if self._wants_more or self._outages_due or len(self._requests) < self._plan.jobs:
            return False
        if time.monotonic() > self._counted_at + COUNT_S:
            self._counted_at = time.monotonic()
            self._report.preemptions = preemptions(self._folder.glob("chaos*.log"))
        return self._report.preemptions >= self._plan.preemptions

    @property
    def _wants_more(self) -> bool:
        return self._kills < self._plan.kills or self._strikes.server_kills < self._plan.server_kills

    @property
    def _kills(self) -> int:
        return len(self._fleet.deaths)

    @property
    def _outages_due(self) -> bool:
        """They are spread over the storm."""
        due = self._plan.outages * min(1.0, self._kills / max(self._plan.kills, 1))
        return len(self._report.outages_s) < int(due)

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
        # Fixed, as it may be tried again: the same job, and the same queue.
        group = GROUPS[len(self._requests) % len(GROUPS)]
        options: dict[str, Any] = {"group": group, "priority": self._priorities[len(self._requests) % PRIORITIES]}
        self._producer.submit(**request, model="tiny", job_id=job_id, result_ttl_s=86_400, **options)
        self._requests[job_id] = request
        self._running.add(job_id)
        self._watchers.tell(job_id)
        return job_id

    # -- striking

    def _strike(self) -> None:
        """One fault, if the fleet can bear it: another worker must be there to take over."""
        if len(self._fleet.fit()) < min(2, self._plan.workers):
            return
        fault = self._strikes.draw()
        try:
            getattr(self._strikes, fault)()
        except (redis.RedisError, Gone) as error:
            self._say(f"no {fault}: {error!r:.80}")
        else:
            self._say(fault.replace("_", " "))
            self._report.faults[fault.replace("_", " ")] += 1
        self._next_fault = time.monotonic() + self._rng.uniform(0.1, 1.5)

    def _say(self, text: str) -> None:
        elapsed_s = time.monotonic() - self._started_at
        kills = f"{self._kills}+{self._strikes.server_kills} kills"
        figures = f"{kills}, {len(self._requests)} jobs, {len(self._fleet.fit())} workers fit"
        print(f"{elapsed_s:6.1f} s  {text:16}  {figures}", file=sys.stderr, flush=True)

    # -- an outage in which nobody dies

    def _outage(self) -> None:
        """Take the server away for longer than a beat counts, killed or frozen, while all workers live."""
        if not self._calm():
            self._report.violations.append(Violation("-", "end", f"no peace within {CALM_S:.0f} s"))
        length_s = self._rng.uniform(*OUTAGE_S)
        is_frozen = len(self._report.outages_s) % 2 == 0
        self._say(f"{'frozen' if is_frozen else 'away'} {length_s:.0f} s")
        before = len(read_counted(self._broker.directory))
        self._strikes.broken.append(time.monotonic())
        if is_frozen:
            os.kill(self._broker.pid, signal.SIGSTOP)
            time.sleep(length_s)
            os.kill(self._broker.pid, signal.SIGCONT)
        else:
            self._broker.kill()
            time.sleep(length_s)
            self._broker.start()
        self._strikes.broken.append(time.monotonic())
        self._report.outages_s.append(length_s)
        self._say("back")
        for _ in self._ticks(AFTER_OUTAGE_S):
            pass
        self._report.violations += counted_by_outage(read_counted(self._broker.directory)[before:], self._fleet)
        self._fleet.points_wanted = True

    def _calm(self) -> bool:
        """Let all workers become whole, and none of them mortal."""
        self._fleet.points_wanted = False
        for _ in self._ticks(CALM_S):
            with contextlib.suppress(redis.RedisError):
                for member in [each for each in self._fleet.fit() if each.point]:
                    self._strikes.kill(member)
                if len(self._fleet.fit()) == self._plan.workers and len(self._running) >= self._plan.workers:
                    return True
        return False

    def _ticks(self, length_s: float) -> Iterator[None]:
        """Let it go on, for so long."""
        deadline = time.monotonic() + length_s
        while time.monotonic() < deadline:
            self._tick()
            yield

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
