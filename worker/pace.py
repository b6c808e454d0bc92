"""How long a worker's jobs take, for whoever waits in line: the mean of them lately, and how long the one it has.

What counts is how long a job keeps the worker from the next one: from its being taken until another may be, less
the time in which it waits for those that go before it.
"""

import time
from collections.abc import Callable

LATELY = 100
"""Jobs that the mean goes by: more lengths than a few jobs have, and a change of load is seen within as many."""


class Pace:
    """One worker's.  clock: in seconds, steady."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs = 0
        self._mean_s = 0.0
        self._began: list[float] = []
        """Of the job that runs, and before it of those that wait for it, later by what others took meanwhile."""

    def begin(self, at: float | None = None) -> None:
        """A job was taken, now or then. The one before it waits, if it has not ended."""
        self._began.append(self._clock() if at is None else at)

    def end(self) -> None:
        """The next one may be taken, or the one before goes on."""
        if not self._began:
            return
        took_s = self._clock() - self._began.pop()
        self._began = [began + took_s for began in self._began]
        self._jobs += 1
        self._mean_s += (took_s - self._mean_s) / min(self._jobs, LATELY)

    def fields(self) -> dict[str, str]:
        """As they stand in the worker's record. Nothing is said of a mean before the first job has ended."""
        mean = {"job_seconds": f"{self._mean_s:.4f}"} if self._jobs else {}
        busy_s = self._clock() - self._began[-1] if self._began else 0.0
        return {**mean, "busy_seconds": f"{busy_s:.3f}"}
