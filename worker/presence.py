"""How a worker is known to be alive, and how it sees that others are not.

It beats: until when it counts as alive stands in Redis, on Redis' clock. And one connection stands for it: the
kernel closes a killed process's sockets, so that a worker whose connection is gone from the server is dead, long
before its last beat is over. The workers of a model form a ring, by name, and each watches the two after it: what
that costs is the same whatever their number.

Nobody is taken for dead by mistake of the watcher: it judges by beats only after one TTL in which its own went
through without a break, and by connections only once its own has stood for a moment. When many vanish at once it
was the network, and beats decide. Knows the ledger, and neither RQ nor what is done about the dead.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import redis
from redis.asyncio import Redis

from producer.contract import Keys
from producer.ledger import rq_names
from producer.ledger.sweep import Beat, Member, RingEntry, Sign, beat, leave

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 0.5
LOOKS_PER_S = 100
"""Of a whole fleet: each looks the more seldom, the more there are. A beat looks, too, and as often as ever."""
CONFIRM_S = 1.0
"""A connection that is gone may be followed by another: its worker comes back within this, or is dead."""
LOOK_AGAIN_S = 0.2
"""At a suspect that is due and could not be judged yet."""
AT_ONCE_S = 0.4
"""Those who are missed within this time vanished at once."""
TRUSTED_AGE_S = 1.5
"""Of our own connection. Before, others may not have come back yet from whatever broke ours."""


@dataclass(frozen=True, slots=True)
class Dead:
    """A worker that is dead, and how that is known."""

    member: Member
    sign: Sign
    entry: RingEntry | None = None
    """Its place in the ring, where its connection is gone."""


class Presence:
    """One worker among the others.

    client: with a pool of one connection, which stands for this worker. It calls `connected` for each new one.
    record: RQ's record of the worker, as it is to stand now.
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
        ttl_s: float,
        keep_s: int,
        beat_interval_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._keys, self._model, self._worker = keys, model, worker
        self._record = record
        self._ttl_s, self._keep_s = ttl_s, keep_s
        # Between two beats without a break: above the interval, and below what makes a worker overdue.
        self._break_s = (ttl_s + beat_interval_s) / 2
        self._clock = clock
        self._entry: RingEntry | None = None
        self._connected_at: float | None = None
        self._is_new = True
        self._is_listed = False
        self._last_beat_at: float | None = None
        self._steady_since = 0.0
        self._suspects: dict[RingEntry, float] = {}
        self._members = 0
        self._watched: tuple[RingEntry, ...] = ()
        self._hear: tuple[bool, ...] = ()
        self._says_why_not = True
        self._beating = asyncio.Lock()

    def connected(self) -> None:
        """A new connection stands for the worker: others are to know it before they miss the old one."""
        self._is_new = True

    @property
    def needs_beat(self) -> bool:
        """Whether others know another connection than the one that stands for the worker now."""
        return self._is_new

    async def beat(self) -> Beat:
        """Say that the worker is alive.  Raises errors of Redis."""
        async with self._beating:  # a connection that is made for another beat must not be taken for ours
            return await self._beat()

    async def _beat(self) -> Beat:
        if self._is_new or self._entry is None:
            await self._identify()
        assert self._entry is not None
        step = beat(
            self._keys,
            self._model,
            self._entry,
            self._record(),
            ttl_s=self._ttl_s,
            keep_s=self._keep_s,
        )
        seen = await step.run_async(self._client)
        self._note_beat()
        self._members, self._watched, self._hear = seen.members, seen.after, seen.hear
        return seen

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
        """Those of the watched whose connection has been gone for a second.  Raises errors of Redis."""
        ours = self._entry
        if ours is None or self._is_new or ours.client_id == 0 or self._connected_at is None:
            return []
        watched = [each for each in self._watched if each.run_id == ours.run_id and each.client_id]
        if not watched:
            return []
        missed = await self._missed(watched)
        if not self._is_listed:
            missed = watched
        present = await self._present([ours, *missed]) if missed else set()
        if present is None:
            return []
        return await self._judge([each for each in missed if each.client_id not in present])

    @property
    def next_look_s(self) -> float:
        """Until the next look is due: at the latest when a suspect has been gone for as long as it may."""
        interval_s = max(LOOK_INTERVAL_S, self._members / LOOKS_PER_S)
        if not self._suspects:
            return interval_s
        due_in_s = min(self._suspects.values()) + CONFIRM_S - self._clock()
        return max(min(due_in_s, interval_s), LOOK_AGAIN_S)

    async def leave(self) -> None:
        """Go in good order: what is still held here is free for others at once.  Raises errors of Redis."""
        await leave(self._keys, Member(self._worker, self._model)).run_async(self._client)

    # -- inside

    async def _identify(self) -> None:
        """Learn which connection stands for us, and on which server."""
        try:
            await self._client.client_id()  # makes the connection
            self._is_new = False
            client_id = int(await self._client.client_id())
            run_id = str((await self._client.info("server"))["run_id"])
        except (redis.ResponseError, KeyError, ValueError) as error:
            self._say_why_not(str(error))
            self._is_new, run_id, client_id = False, "-", 0
        if self._is_new:  # it broke in between
            raise redis.ConnectionError("the connection broke while it was made")
        self._connected_at = self._clock()
        self._is_listed = False
        self._suspects.clear()
        self._entry = RingEntry(self._worker, run_id, client_id)

    def _note_beat(self) -> None:
        now = self._clock()
        if self._last_beat_at is None or now - self._last_beat_at > self._break_s:
            self._steady_since = now
        self._last_beat_at = now

    async def _missed(self, entries: list[RingEntry]) -> list[RingEntry]:
        """Those of them who hear RQ's commands no more, or have yet to: the others are there.

        This costs the server a tenth of what a list of connections does.
        """
        heard = dict(zip(self._watched, self._hear, strict=False))
        self._hear = ()  # as of the beat: good for one look
        if not heard:
            channels = [rq_names.commands(entry.worker) for entry in entries]
            with contextlib.suppress(redis.ResponseError):  # not allowed to ask
                counts = await self._client.pubsub_numsub(*channels)
                heard = {entry: count > 0 for entry, (_, count) in zip(entries, counts, strict=True)}
        return [entry for entry in entries if not heard.get(entry)]

    async def _present(self, entries: list[RingEntry]) -> set[int] | None:
        """Client ids that the server has, ours being the first; None where it cannot say, or has not even ours."""
        try:
            listed = await self._client.client_list(client_id=[str(entry.client_id) for entry in entries])
        except redis.ResponseError as error:
            self._say_why_not(str(error))
            return None
        if self._is_new:
            return None
        present = {int(each["id"]) for each in listed}
        self._is_listed = entries[0].client_id in present
        if not self._is_listed:
            self._say_why_not("it does not list our own connection: a proxy stands in between")
            return None
        return present

    def _say_why_not(self, why: str) -> None:
        if self._says_why_not:
            logger.warning(
                "deaths of workers are noticed by their beats, after %g s: the server cannot say whose "
                "connections are gone (%s)",
                self._ttl_s,
                why,
            )
        self._says_why_not = False

    async def _judge(self, absent: list[RingEntry]) -> list[Dead]:
        now = self._clock()
        self._suspects = {entry: self._suspects.get(entry, now) for entry in absent}
        assert self._connected_at is not None
        if now - self._connected_at < TRUSTED_AGE_S:
            return []
        due = [entry for entry, since in self._suspects.items() if now - since >= CONFIRM_S]
        cut_off = await self._cut_off(due) if due else set()
        dead = [entry for entry in due if entry not in cut_off]
        for entry in dead:
            del self._suspects[entry]
        return [Dead(Member(entry.worker, self._model), "gone", entry) for entry in dead]

    async def _cut_off(self, due: list[RingEntry]) -> set[RingEntry]:
        """Those with whom more than half of the others vanished at once, and not just one: it was the network."""
        ours = self._entry
        assert ours is not None
        raw: list[Any] = await self._client.zrange(self._keys.ring(self._model), 0, -1)
        others = [entry for entry in map(RingEntry.parse, raw) if entry.run_id == ours.run_id and entry != ours]
        present = await self._present([ours, *others])
        if present is None:
            return set(due)
        # Of those that we do not watch it is not known since when they are gone.
        missed_at = self._suspects
        gone = [entry for entry in others if entry.client_id not in present]
        cut_off = set()
        for entry in due:
            since = missed_at[entry]
            at_once = [each for each in gone if abs(missed_at.get(each, since) - since) <= AT_ONCE_S]
            if len(at_once) > 1 and 2 * len(at_once) > len(others):
                cut_off.add(entry)
        return cut_off


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
