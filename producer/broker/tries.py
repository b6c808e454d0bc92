"""The tries at one command: which errors are worth another, when it is made, and when the bound is over.

Pure but for the clock: a shell makes the tries, with a thread or a task.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis.asyncio.sentinel import MasterNotFoundError as AsyncMasterNotFoundError
from redis.sentinel import MasterNotFoundError

from .advice import is_elsewhere, is_transient, may_pass
from .bounds import Bound, within

REFUSED_S = 1.0
"""How long a server is tried that refuses connections or hangs up: one that restarts is back by then."""
FIRST_DELAY_S = 0.03
LONGEST_DELAY_S = 0.5
_WAIT_FOR = (
    redis.BusyLoadingError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.MaxConnectionsError,
    MasterNotFoundError,
    AsyncMasterNotFoundError,
)
"""Of a server that is there, or a fail-over that goes on."""


class Tries:
    """One command's. Use `attempt` around each try, and ask `delay_s` after one that failed.

    answer_s   bound of all tries together, connecting included
    connect_s  bound of connecting, in each try
    deadline   of time.monotonic(), where the caller's own bound may be over before
    sits_out_outages  False for a client that tries again by itself
    """

    def __init__(
        self, *, answer_s: float, connect_s: float, deadline: float | None, sits_out_outages: bool = True
    ) -> None:
        now = time.monotonic()
        answer_by = now + answer_s if deadline is None else min(now + answer_s, deadline)
        self.bound = Bound(answer_by=answer_by, connect_by=min(now + connect_s, answer_by))
        self._connect_s = connect_s
        self._sits_out_outages = sits_out_outages
        self._failed_at: float | None = None
        self._refusal: redis.RedisError | None = None
        self._delay_s = FIRST_DELAY_S

    @contextmanager
    def attempt(self) -> Iterator[Bound]:
        """Around one try. It may need a new connection: a server that loads hangs up, and a primary moves."""
        self.bound.connect_by = min(time.monotonic() + self._connect_s, self.bound.answer_by)
        with within(self.bound):
            yield self.bound

    def delay_s(self, error: redis.RedisError) -> float | None:
        """How long to wait before the next try; None when there is to be none, and the error stands."""
        now = time.monotonic()
        self._failed_at = self._failed_at or now
        if not isinstance(error, redis.TimeoutError):
            self._refusal = error
        if now + self._delay_s >= self._give_up_at(error):
            return None
        delay_s, self._delay_s = self._delay_s, min(LONGEST_DELAY_S, 2 * self._delay_s)
        return delay_s

    def reason(self, error: redis.RedisError) -> redis.RedisError:
        """What to raise after the last try. A time-out there may be of what little the others had left."""
        return (self._refusal or error) if isinstance(error, redis.TimeoutError) else error

    def _give_up_at(self, error: redis.RedisError) -> float:
        assert self._failed_at is not None
        if is_elsewhere(error) or isinstance(error, _WAIT_FOR):
            return self.bound.answer_by
        # A time-out has used up what there was.
        if isinstance(error, redis.TimeoutError) or not (
            self._sits_out_outages and is_transient(error) and may_pass(error)
        ):
            return self._failed_at
        return min(self._failed_at + REFUSED_S, self.bound.answer_by)
