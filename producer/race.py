"""Many jobs waited for at once, without doing any I/O: who is to be carried on now, and who has ended.

Each job has the wait of `ends`, as one that is waited for alone. Where that would block, it is parked here until
its hub says that something came, or until its next look is due; so one thread or one task does for all of them.
"""

import copy
import heapq
import itertools
import math
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, Self, TypeVar

import redis

from .contract import BrokerUnavailable, GenerationResult, GenqueueError, WaitTimeout
from .ends import end_of_job
from .operations import Operation
from .patience import Patience, Stand
from .submitted import Submitted
from .waits import Waiting, Waits

OPEN_AT_ONCE = 100
"""Waits that are opened before anybody looks at what has come."""

H = TypeVar("H")


@dataclass(frozen=True)
class Seat:
    """How the jobs of one producer are waited for.  link: of either kind."""

    waits: Waits
    link: Any
    submitted: Submitted


class Arrivals(Protocol):
    """Whose hub has said that something came. Of a shell: for a thread or for a task."""

    def put(self, member: Any) -> None:
        """From any thread."""

    def take(self) -> list[Any]:
        """Those that were put since."""


class Member(Generic[H]):
    """One job, and the handles of it that were given.  It is the signal of its subscription."""

    def __init__(self, job_id: str, seat: Seat, race: "Race[H]") -> None:
        self.job_id = job_id
        self.seat = seat
        self.handles: list[H] = []
        self.outcome: GenerationResult | GenqueueError | None = None
        """How it ended, or why it never will."""
        self.gave_up: WaitTimeout | None = None
        """Why its last wait ended without; see `Race`."""
        self.gave_up_at: Stand | None = None
        self.look_at = math.inf
        """Of time.monotonic(): when it is to be carried on, whatever has come."""
        self._race = race
        self.begin()

    def begin(self) -> None:
        """A new wait, from its first look on."""
        self.patience: Patience = self.seat.waits.patience(self._race.timeout_s)
        self._operation = end_of_job(self.seat.waits, self.job_id, self.seat.link.hub, self.patience, signal=self)

    def set(self) -> None:
        """Something has come."""
        self._race.arrivals.put(self)

    def clear(self) -> None:
        """Nothing to forget: one that is carried on for nothing is parked again."""

    def go_on(self) -> Operation[None]:
        """Carry it on until it has to wait, or is over: then there is an outcome."""
        step = partial(self._operation.send, None)
        try:
            while True:
                command = step()
                if isinstance(command, Waiting):
                    if not command.subscription.inbox and command.subscription.error is None:
                        self.look_at = time.monotonic() + command.left_s
                        return
                    step = partial(self._operation.send, None)
                    continue
                try:
                    self._race.check_there(self.seat)
                    reply = yield command
                except redis.RedisError as error:
                    self._race.note_away(self.seat, error)
                    step = partial(self._operation.throw, error)
                else:
                    step = partial(self._operation.send, reply)
        except StopIteration as done:
            self.outcome = done.value
        except BrokerUnavailable:
            raise
        except GenqueueError as error:
            self.outcome = error

    def close(self) -> None:
        """Wait no more."""
        self._operation.close()


class Race(Generic[H]):
    """The waits for all of them.  timeout_s: bound of the whole; None and inf as in `Producer.result`.

    Without a bound a wait is given up where it makes no sense, as that for a queue that nobody serves. Here that
    must not hide the ends of the others: it begins anew, and is an error only once there is none that is not so.
    Where Redis cannot be used, nothing is known of any: that is raised at once.

    A shell runs `first_looks`; then `due`, `go_on` of each, and `settle` of each, in turn.
    """

    def __init__(
        self, handles: Sequence[tuple[str, Seat, H]], timeout_s: float | None, arrivals: Arrivals
    ) -> None:
        patience = Patience(timeout_s, math.inf)  # it says what is no time
        self.timeout_s = patience.timeout_s
        self._deadline = math.inf if self.timeout_s is None else patience.deadline
        self.arrivals = arrivals
        self.pending: dict[tuple[int, str], Member[H]] = {}
        for job_id, seat, handle in handles:
            key = id(seat.link), job_id
            if key not in self.pending:
                self.pending[key] = Member(job_id, seat, self)
            self.pending[key].handles.append(handle)
        self._total = len(self.pending)
        self._unopened = deque(self.pending.values())
        self._looks: list[tuple[float, int, Member[H]]] = []
        """When each that is parked is to be looked at; those that were carried on since are left among them."""
        self._count = itertools.count()
        self._hopeless: set[Member[H]] = set()
        self._away: dict[int, redis.RedisError] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.pending.values():
            member.close()

    @property
    def idle_s(self) -> float:
        """For how long a shell may wait for arrivals."""
        if self._unopened or not self.pending:
            return 0.0
        now = time.monotonic()
        while self._looks and self._looks[0][0] != self._looks[0][2].look_at:
            heapq.heappop(self._looks)
        next_look = self._looks[0][0] if self._looks else now
        return max(0.0, min(next_look, self._deadline) - now)

    def first_looks(self, at_once: int) -> Iterable[list[Member[H]]]:
        """Those to ask in one round trip whether they have ended already."""
        for members in _by_seat(self.pending.values()):
            for begin in range(0, len(members), at_once):
                yield members[begin : begin + at_once]

    def due(self) -> list[Member[H]]:
        """Those that are to be carried on now."""
        self._away.clear()
        now = time.monotonic()
        due: dict[Member[H], None] = dict.fromkeys(self.arrivals.take())
        if now >= self._deadline:
            # One of them tells how it stands, for all: a look at each would take its time.
            return self._still_pending(due) or list(itertools.islice(self.pending.values(), 1))
        while self._looks and self._looks[0][0] <= now:
            at, _, member = heapq.heappop(self._looks)
            if at == member.look_at:
                due[member] = None
        for _ in range(min(OPEN_AT_ONCE, len(self._unopened))):
            due[self._unopened.popleft()] = None
        return self._still_pending(due)

    def settle(self, member: Member[H]) -> bool:
        """Take note of what came of it. Whether it has ended, or never will.

        Raises WaitTimeout when the whole is over, or when there is no point in waiting for any.
        """
        if member.outcome is None:
            if member.patience.stand != member.gave_up_at:
                self._hopeless.discard(member)
            heapq.heappush(self._looks, (member.look_at, next(self._count), member))
            return False
        if isinstance(member.outcome, WaitTimeout):
            self._give_up(member, member.outcome)
            return False
        self._hopeless.discard(member)
        del self.pending[id(member.seat.link), member.job_id]
        if isinstance(member.outcome, GenerationResult):
            member.seat.submitted.discard(member.job_id)
        return True

    def check_there(self, seat: Seat) -> None:
        """Raises what the server of that producer answered another of this round: not each is to wait for it."""
        if error := self._away.get(id(seat.link)):
            raise copy.copy(error)

    def note_away(self, seat: Seat, error: redis.RedisError) -> None:
        """That command has failed."""
        if isinstance(error, redis.ConnectionError | redis.TimeoutError):
            self._away[id(seat.link)] = error

    def _still_pending(self, members: Iterable[Member[H]]) -> list[Member[H]]:
        return [member for member in members if member.outcome is None]

    def _give_up(self, member: Member[H], error: WaitTimeout) -> None:
        member.outcome = None
        member.gave_up, member.gave_up_at = error, member.patience.stand
        self._hopeless.add(member)
        if self.timeout_s is not None or len(self._hopeless) == len(self.pending):
            raise self._over(error)
        member.begin()
        member.look_at = math.inf
        self._unopened.append(member)

    def _over(self, error: WaitTimeout) -> WaitTimeout:
        """What is said of all of them, and of one."""
        left = len(self.pending)
        if self._total == 1:
            return error
        said = f"{left} of {self._total} jobs {'has' if left == 1 else 'have'} not ended"
        if self.timeout_s is not None:
            said += f" within {self.timeout_s:g} s"
        return WaitTimeout(f"{said}. One of them: {error}", job_id=error.job_id, hint=error.hint)


def _by_seat(members: Iterable[Member[H]]) -> list[list[Member[H]]]:
    groups: dict[int, list[Member[H]]] = {}
    for member in members:
        groups.setdefault(id(member.seat.link), []).append(member)
    return list(groups.values())
