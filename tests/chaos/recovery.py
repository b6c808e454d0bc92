"""How long the jobs of the dead stood still, and how the deaths were noticed."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .fleet import Death
from .watchers import Seen

SETTLED_S = 5.0
"""After connections broke, workers do not judge by them at once: see `TRUSTED_AGE_S`."""


@dataclass(frozen=True)
class Recovery:
    """A job that went on after the death of the worker, or of the engine, that ran it."""

    death: Death
    at: float
    """When a live subscriber saw its next event."""
    had_heir: bool
    """Another worker was there all the time to take over; else the job had to wait until one was started."""
    in_peace: bool
    """Neither the server nor the connections were struck since a moment before the death."""
    sign: str
    """How the death was noticed: exited, gone, overdue, expired; engine, where the worker lived; else unknown."""

    @property
    def seconds(self) -> float:
        """From the kill to the next event."""
        return self.at - self.death.at

    def summary(self) -> str:
        """For people."""
        death = self.death
        peace = "in peace" if self.in_peace else "server or connections were struck"
        return f"{self.seconds:.1f} s, {death.job_id} of {death.worker} ({death.point}), by {self.sign}, {peace}"


def recoveries(
    deaths: Sequence[Death],
    seen: Mapping[str, Sequence[Seen]],
    *,
    disabled: Sequence[tuple[float, str]],
    broken: Sequence[float],
    signs: Mapping[tuple[str, str], str],
) -> list[Recovery]:
    """One for each job and attempt: the first event of a later one, as a live subscriber saw it.

    A job whose next worker was killed too before it came so far counts from the last of these kills.
    disabled: when which worker could not be counted on any more.
    broken: when connections or the server were struck.
    signs: of `deaths.signs`.
    """
    recovered: dict[tuple[str, str], tuple[Death, float]] = {}
    for death in sorted(deaths, key=lambda death: death.at):
        for entry, at in seen.get(death.job_id or "", ()):
            if entry.attempt > death.attempt and at > death.at:
                recovered[death.job_id or "", entry.id] = death, at
                break
    struck = sorted(broken)
    return [
        Recovery(
            death,
            at,
            had_heir=bool(death.heirs - {name for moment, name in disabled if death.at <= moment <= at}),
            in_peace=bisect.bisect(struck, death.at - SETTLED_S) == bisect.bisect(struck, at),
            sign="engine" if death.of_engine else signs.get((death.worker, death.job_id or ""), "unknown"),
        )
        for death, at in recovered.values()
    ]
