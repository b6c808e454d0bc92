"""When a job's turn comes, and when a queue is empty: by what stands ahead and the workers' own speed. Pure.

Each worker is taken to need the mean of its jobs lately for each of the next ones. Of many jobs of mixed lengths
the sum is what counts, so that a mean does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

SHORTEST_S = 1e-6
"""Of a worker's jobs. Below, it is no time that a job took, and too small to be halved."""


@dataclass(frozen=True, slots=True)
class Pace:
    """A worker that takes jobs."""

    job_s: float
    """Mean of its jobs lately."""
    is_busy: bool = False
    busy_s: float | None = None
    """How long its job has run; None where nobody says."""

    @property
    def rest_s(self) -> float:
        """Until it takes the next job. One that has outlasted the mean is halfway through a long one."""
        if not self.is_busy:
            return 0.0
        if self.busy_s is None or self.busy_s >= self.job_s:
            return self.job_s / 2
        return self.job_s - self.busy_s


def start_in_s(ahead: int, paces: Sequence[Pace]) -> float | None:
    """Until a job is taken that so many jobs of its queues stand before. None where nobody can tell."""
    paces = [pace for pace in paces if pace.job_s >= SHORTEST_S]
    if not paces:
        return None
    low, high = 0.0, min(pace.rest_s + ahead * pace.job_s for pace in paces)
    if _taken_within(low, paces) > ahead:
        return low
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if _taken_within(middle, paces) > ahead else (middle, high)
    return high


def empty_in_s(waiting: int, paces: Sequence[Pace]) -> float | None:
    """Until so many jobs that wait, and those that run, have ended."""
    paces = [pace for pace in paces if pace.job_s >= SHORTEST_S]
    if not paces:
        return None
    last_s = max((pace.rest_s for pace in paces if pace.is_busy), default=0.0)
    if waiting == 0:
        return last_s
    starts_s = start_in_s(waiting - 1, paces)
    assert starts_s is not None
    return max(last_s, starts_s + len(paces) / sum(1 / pace.job_s for pace in paces))


def _taken_within(seconds: float, paces: Sequence[Pace]) -> int:
    """How many jobs the workers have taken by then."""
    return sum(math.floor((seconds - pace.rest_s) / pace.job_s) + 1 for pace in paces if seconds >= pace.rest_s)


def about(seconds: float) -> str:
    """In words, as exactly as an estimate is: `about 40 s`, `about 3 min`, `about 2 h 10 min`."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"about {minutes} min"
    hours, minutes = divmod(round(minutes, -1), 60)
    if hours < 48:
        return f"about {hours} h" + (f" {minutes} min" if minutes else "")
    return f"about {round(seconds / 86_400)} days"
