"""How a worker is known to be alive: it beats, one connection stands for it, and its process is there.

Until when it counts as alive stands in Redis, on Redis' clock. Nobody is taken for dead by mistake of the watcher:
it judges by beats only after one TTL in which its own went through without a break. `neighbours` judges by
connections, and `lives` knows of the processes of this host. Knows the ledger, and neither RQ nor what is done
about the dead.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import redis
from redis.asyncio import Redis

from producer.contract import Keys
from producer.ledger.sweep import Beat, Member, RingEntry, beat, leave

from .lives import Lives
from .neighbours import Dead, Neighbours, raise_what_passes

WHOLE_S = 15.0
"""A beat writes what has changed in the record, and this often all of it: somebody else may have written there."""
JUMP_S = 1.0
"""Of Redis' clock against ours, from one beat to the next: it was set, and beats of before it look old, or new."""


class Presence:
    """One worker among the others.

    client: with a pool of one connection, which stands for this worker. It calls `connected` for each new one.
    record: RQ's record of the worker, as it is to stand now.  lives: of the processes of this host.
    beat_interval_s: how often the worker beats.  clock: in seconds, steady.
    """

    def __init__(
        self,
        client: "Redis",
        keys: Keys,
        model: str,
        worker: str,
        record: Callable[[], Mapping[str, Any]],
        *,
        lives: Lives,
        ttl_s: float,
        keep_s: int,
        beat_interval_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._keys, self._model, self._worker = keys, model, worker
        self._record = record
        self._lives = lives
        self._ttl_s, self._keep_s = ttl_s, keep_s
        # Between two beats without a break: above the interval, and below what makes a worker overdue.
        self._break_s = (ttl_s + beat_interval_s) / 2
        self._clock = clock
        self._entry: RingEntry | None = None
        self._is_new = True
        self._is_beat_due = False
        self._written: Mapping[str, Any] = {}
        """What stands in the record, as far as beats wrote it; nothing where that is not known."""
        self._whole_at = 0.0
        self._seen: frozenset[Member] = frozenset()
        self.members = 1
        """Workers of the model that live, as of the last beat."""
        self._neighbours = Neighbours(client, keys, model, ttl_s=ttl_s, clock=clock)
        self._last_beat_at: float | None = None
        self._ahead_s = 0.0
        """Redis' clock, of ours."""
        self._steady_since = 0.0
        self._beating = asyncio.Lock()

    def connected(self) -> None:
        """A new connection stands for the worker: others are to know it before they miss the old one."""
        self._is_new = True
        self._written = {}
        self._neighbours.connected(None)

    @property
    def needs_beat(self) -> bool:
        """Whether others know another connection than the one that stands for us, or others have to be known."""
        return self._is_new or self._is_beat_due

    def beat_soon(self) -> None:
        """There are others to be watched, of whom the next beat tells."""
        self._is_beat_due = True

    async def beat(self) -> Beat:
        """Say that the worker is alive.  Raises errors of Redis."""
        async with self._beating:  # a connection that is made for another beat must not be taken for ours
            return await self._beat()

    async def _beat(self) -> Beat:
        if self._is_new or self._entry is None:
            await self._identify()
        assert self._entry is not None
        record = dict(self._record())
        fields, self._written = self._changed(record), {}
        step = beat(self._keys, self._model, self._entry, fields, ttl_s=self._ttl_s, keep_s=self._keep_s)
        seen = await step.run_async(self._client)
        self.members = seen.members
        is_lost = seen.is_forgotten and len(fields) < len(record)
        if not is_lost:
            self._written = record
        self._is_beat_due = is_lost
        neighbours = (Member(entry.worker, self._model) for entry in seen.after)
        self._seen = frozenset([*neighbours, *seen.overdue])
        self._note_beat(seen.now_ms / 1000)
        self._neighbours.watch(seen)
        return seen

    def exited(self) -> list[Dead]:
        """Those whose process has ended, of all whom the last beat told of. Asks the kernel, and Redis nothing."""
        exited = [member for member in sorted(self._seen, key=str) if self._lives.is_over(member.worker)]
        self._seen = self._seen.difference(exited)  # told of once: a beat says so where it is there still
        return [Dead(member, "exited") for member in exited]

    def overdue(self, seen: Beat) -> list[Dead]:
        """Those whose beat is too long ago. None while ours have not gone through for one TTL."""
        if not self.trusts_beats:
            return []
        return [Dead(member, "overdue") for member in seen.overdue if member.worker != self._worker]

    @property
    def trusts_beats(self) -> bool:
        """Whether a beat that is missing means a death, and not that Redis could not take it."""
        now = self._clock()
        is_steady = self._last_beat_at is not None and now - self._last_beat_at <= self._break_s
        return is_steady and now - self._steady_since >= self._ttl_s

    async def look(self) -> list[Dead]:
        """Neighbours whose connection has been gone for a second.  Raises errors of Redis."""
        return await self._neighbours.look()

    @property
    def next_look_s(self) -> float:
        """Until the next look is due."""
        return self._neighbours.next_look_s

    async def leave(self) -> None:
        """Go in good order: what is still held here is free for others at once.  Raises errors of Redis."""
        await leave(self._keys, Member(self._worker, self._model)).run_async(self._client)
        self._lives.end()

    def tidy(self) -> None:
        """Remove what those have left that died on this host long ago."""
        self._lives.tidy()

    # -- inside

    async def _identify(self) -> None:
        """Learn which connection stands for us, and on which server."""
        try:
            await self._client.client_id()  # makes the connection
            self._is_new = False
            client_id = int(await self._client.client_id())
            run_id = str((await self._client.info("server"))["run_id"])
        except (redis.ResponseError, KeyError, ValueError) as error:
            raise_what_passes(error)
            self._neighbours.say_why_not(str(error))
            self._is_new, run_id, client_id = False, "-", 0
        if self._is_new:  # it broke in between
            raise redis.ConnectionError("the connection broke while it was made")
        self._entry = RingEntry(self._worker, run_id, client_id)
        self._neighbours.connected(self._entry)

    def _changed(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a beat is to write of it: each field costs the server something, and few change."""
        now = self._clock()
        if self._written and now - self._whole_at < WHOLE_S:
            changed = {name: value for name, value in record.items() if self._written.get(name) != value}
            if changed:
                return changed
        self._whole_at = now
        return record

    def _note_beat(self, redis_now_s: float) -> None:
        now = self._clock()
        ahead_s, self._ahead_s = self._ahead_s, redis_now_s - now
        has_jumped = abs(self._ahead_s - ahead_s) > JUMP_S
        if self._last_beat_at is None or has_jumped or now - self._last_beat_at > self._break_s:
            self._steady_since = now
        self._last_beat_at = now


class Watch:
    """One worker's rounds: it beats, and looks at those that it watches.

    on_beat: gets what each beat has seen.  on_dead: is called for each worker that is found dead. Neither may take
    long: the next beat waits for it.
    """

    def __init__(
        self,
        presence: Presence,
        *,
        beat_interval_s: float,
        on_beat: Callable[[Beat], Awaitable[None]],
        on_dead: Callable[[Dead], Awaitable[None]],
    ) -> None:
        self._presence = presence
        self._beat_interval_s = beat_interval_s
        self._on_beat, self._on_dead = on_beat, on_dead
        self._next_beat_at = 0.0

    async def step(self) -> None:
        """One round, and the pause until the next.  Raises errors of Redis."""
        presence = self._presence
        if presence.needs_beat or time.monotonic() >= self._next_beat_at:
            seen = await presence.beat()
            self._next_beat_at = time.monotonic() + self._beat_interval_s
            for dead in presence.overdue(seen):
                await self._on_dead(dead)
            await self._on_beat(seen)
        for dead in await presence.look():
            await self._on_dead(dead)
        await asyncio.sleep(min(presence.next_look_s, max(0.0, self._next_beat_at - time.monotonic())))
