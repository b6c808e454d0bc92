"""How long a wait goes on, and when the job is looked at meanwhile. Pure but for the clock.

A wait has one of two ends. Where the caller gave a bound, that is it. Else it goes on for as long as the job may
live, and ends before where it makes no sense: the job runs and has said nothing for `wait_s`, or nobody has served
its queue for so long. A job that waits in line behind live workers is not silent.

Nothing is asked while events come. Once there were none for `wait_s`, and each `wait_s` from then on, somebody
looks how the job stands, and says so here. Of a job that runs and whose events nobody hears (a wait for its end
alone) the looks tell when it last said something: it is looked at `LOOKS` times within `wait_s`. That a queue is
served no more is noticed by the next look, and counts from there.
"""

import math
import time
from typing import Literal, NamedTuple

from .contract import EventId, InvalidRequest

GRACE_S = 30.0
"""Beyond the last second of a job: its end may still be on its way."""
LOOK_EVERY_S = 60.0
"""Between two looks at a job without news, at most: one that is lost is found by then, whatever the bounds."""
LOOKS = 5
"""At a job that runs unheard, within wait_s: its silence is known to a fifth of that. Few jobs run at a time."""
CONFIRM_S = 1.0
"""Until the second look at a job that was nowhere: a worker of another make may have had it in its hands."""


class Stand(NamedTuple):
    """How a job stands, as far as a wait for it is concerned."""

    kind: Literal["in line", "unserved", "later", "running", "ended", "lost", "unknown"]
    """`later`: it waits for another job, or for its time. `lost`: nobody has it. `unknown`: Redis did not say."""
    newest: str = ""
    """Id of its last event."""


_SILENT = frozenset({"unserved", "running"})
"""Kinds that a wait is given up for, where nothing has changed for wait_s."""
_OVER = frozenset({"in line", "unserved", "ended", "unknown"})
"""Kinds that end a wait when the job's life is over. One that runs, and is not silent, is alive by that."""


class Patience:
    """One wait's.

    timeout_s  the caller's bound; inf: none, None: as long as the job may live.  Raises InvalidRequest for others
    wait_s     longest silence of a job that runs, or of a queue that nobody serves; inf: any
    """

    def __init__(self, timeout_s: float | None, wait_s: float) -> None:
        self.timeout_s = None if timeout_s is None else _seconds(timeout_s)
        self._wait_s = wait_s
        self._life_s = math.inf
        self._hears = False
        """Events have come here: then each is known at once."""
        self._unknown_since: float | None = None
        """Since when Redis has not said how the job stands."""
        self._begin(Stand("unserved"))

    def restart(self) -> None:
        """Count from now: whoever opens a stream may read it later."""
        self._begin(self._stand)

    def heard(self, event_id: EventId) -> None:
        """An event has come, and the next is waited for from here on."""
        self._hears = True
        self._begin(Stand("running", str(event_id)))

    def learn(self, life_s: float, stand: Stand) -> None:
        """What the first look at the job told.  life_s: how long it may live, queue and run together."""
        self._life_s = life_s + GRACE_S
        self._stand = stand
        self._set_next_look(self._began)

    @property
    def deadline(self) -> float:
        """Of time.monotonic(): the end of the caller's bound, or of the job's life. It may be infinite."""
        return self._began + (self._life_s if self.timeout_s is None else self.timeout_s)

    @property
    def answer_by(self) -> float:
        """Until when Redis may answer what a wait asks of it: first how the job stands, last what is known of it.

        A wait of no time at all still gets an answer. It is less than a fifth of the caller's bound and 0.5 s
        after its end, which is how exactly bounds are kept. Infinite without one: each command has its own.
        """
        return math.inf if self.timeout_s is None else self.deadline + min(3.0, 0.4 + 0.1 * self.timeout_s)

    @property
    def left_s(self) -> float:
        """Until the next look at the job, or the end. Not above 0: it is due."""
        return self._look_at - time.monotonic()

    @property
    def waited_s(self) -> float:
        """For how long, for a message: the caller's bound, or the time without news so far."""
        if self.timeout_s is not None:
            return self.timeout_s
        return round(time.monotonic() - self._began, 1)

    def is_unanswered(self, margin_s: float) -> bool:
        """Whether a time-out of Redis that comes now is that of the caller's bound."""
        return time.monotonic() >= self.answer_by - margin_s

    @property
    def stand(self) -> Stand:
        """How the job stood when it was last looked at."""
        return self._stand

    def confirms(self, stand: Stand) -> bool:
        """Whether the last look said the same."""
        return stand == self._stand

    def goes_on(self, stand: Stand) -> bool:
        """Whether to wait on, given how the job stands now."""
        now = time.monotonic()
        self._note(stand, now)
        self._set_next_look(now)
        if self.timeout_s is not None:
            return now < self.deadline
        is_silent = now >= self._silent_at
        is_over = stand.kind in _OVER and now >= self.deadline
        return not (is_silent or is_over)

    def _begin(self, stand: Stand) -> None:
        self._began = self._since = time.monotonic()
        self._unknown_since = None
        self._stand = stand
        self._set_next_look(self._began)

    def _note(self, stand: Stand, now: float) -> None:
        if stand.kind == "unknown":
            self._unknown_since = now if self._unknown_since is None else self._unknown_since
            return
        if stand != self._stand:
            self._stand, self._since = stand, now
        elif self._unknown_since is not None:
            self._since += now - self._unknown_since  # a worker could say nothing either, meanwhile
        self._unknown_since = None

    @property
    def _silent_at(self) -> float:
        """When the wait is given up unless something changes."""
        if self._unknown_since is not None:
            return self._unknown_since + self._wait_s
        return self._since + self._wait_s if self._stand.kind in _SILENT else math.inf

    def _set_next_look(self, now: float) -> None:
        wait_s = self._wait_s
        if self.timeout_s is None and self._stand.kind == "running" and not self._hears:
            wait_s /= LOOKS
        self._look_at = now + min(wait_s, CONFIRM_S if self._stand.kind == "lost" else LOOK_EVERY_S)
        if now < self._silent_at:
            self._look_at = min(self._look_at, self._silent_at)
        if self.timeout_s is not None or now < self.deadline:
            self._look_at = min(self._look_at, self.deadline)


def _seconds(timeout_s: float) -> float:
    try:
        seconds = float(timeout_s)
    except (TypeError, ValueError):
        seconds = math.nan
    if isinstance(timeout_s, str) or not seconds >= 0:
        raise InvalidRequest(
            "timeout_s must be a number of seconds, from 0; inf waits without bound, and None for as long as the "
            "job may live"
        )
    return seconds
