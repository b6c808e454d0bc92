"""What was done in a storm, and what came of it."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from .checker import Violation
from .recovery import Recovery

SLOW_S = 3.5


@dataclass
class Report:
    """Sums up: the parts of a storm are added."""

    jobs: int = 0
    worker_kills: int = 0
    engine_kills: int = 0
    server_kills: int = 0
    outages_s: list[float] = field(default_factory=list)
    """Of those that are longer than a beat counts, in which nobody died."""
    deaths_over_jobs: int = 0
    """Workers that were killed while a job ran in them."""
    deaths_counted: int = 0
    deaths_taken_back: int = 0
    """Of workers that hung, were taken for dead, and came back."""
    faults: Counter[str] = field(default_factory=Counter)
    resumes: int = 0
    preemptions: int = 0
    """How often a job made way for another."""
    parked: int = 0
    """Jobs whose result says that they did, on the worker that ended them."""
    recoveries: list[Recovery] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)

    def __add__(self, other: "Report") -> "Report":
        return Report(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})

    @property
    def slow(self) -> list[Recovery]:
        """Recoveries that took longer than nineteen of twenty may, though another worker was there."""
        return [each for each in self.recoveries if each.had_heir and each.seconds > SLOW_S]

    @property
    def kills(self) -> int:
        """Of workers and engines."""
        return self.worker_kills + self.engine_kills

    def summary(self) -> dict[str, Any]:
        """The figures.

        recovery_s: from the kill of a worker to the next event of the job that ran there, while another worker was
        there to take over.  in_peace: those of them with neither server nor connections struck meanwhile.
        alone: as many as had to wait for a worker to be started.
        """
        of_workers = [each for each in self.recoveries if not each.death.of_engine]
        of_engines = [each for each in self.recoveries if each.death.of_engine and each.had_heir]
        taken_over = [each for each in of_workers if each.had_heir]
        return {
            "jobs": self.jobs,
            "worker_kills": self.worker_kills,
            "engine_kills": self.engine_kills,
            "server_kills": self.server_kills,
            "outages_s": [round(each, 1) for each in self.outages_s],
            "deaths_over_jobs": self.deaths_over_jobs,
            "deaths_counted": self.deaths_counted,
            "deaths_taken_back": self.deaths_taken_back,
            "resumes": self.resumes,
            "preemptions": self.preemptions,
            "jobs_parked": self.parked,
            "violations": len(self.violations),
            "recovery_s": _spread(taken_over),
            "recovery_in_peace_s": _spread([each for each in taken_over if each.in_peace]),
            "recovery_from_engines_s": _spread(of_engines),
            "recoveries_by": dict(sorted(Counter(each.sign for each in of_workers).items())),
            "recoveries_alone": len(of_workers) - len(taken_over),
            "faults": dict(sorted(self.faults.items())),
        }


def _spread(recoveries: Sequence[Recovery]) -> dict[str, float | int | None]:
    seconds = [each.seconds for each in recoveries]
    return {
        "count": len(seconds),
        "p50": percentile(seconds, 50),
        "p95": percentile(seconds, 95),
        "max": round(max(seconds), 2) if seconds else None,
    }


def percentile(values: Sequence[float], percent: int) -> float | None:
    """None of nothing."""
    if len(values) < 2:
        return round(values[0], 2) if values else None
    return round(statistics.quantiles(values, n=100, method="inclusive")[percent - 1], 2)
