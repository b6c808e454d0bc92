"""The neighbours of a worker, as the server sees them: whose connection is gone, and whether that is a death.

The workers of a model form a ring, by name, and each watches the two after it: what a look costs is the same
whatever their number. The kernel closes a killed process's sockets, so that a worker whose connection is gone from
the server is dead, long before its last beat is over.

Nobody is taken for dead by mistake of the watcher: it judges only once its own connection has stood for a moment.
When many vanish at once it was the network, and beats decide. Knows the ledger, and neither RQ nor what is done
about the dead.
"""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
from redis.asyncio import Redis

from producer.broker.meaning import meaning
from producer.contract import Keys
from producer.ledger import rq_names
from producer.ledger.sweep import Beat, Member, RingEntry, Sign

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 0.5
LOOKS_PER_S = 100
"""Of a whole fleet: each looks the more seldom, the more there are. A beat looks, too, and as often as ever."""
CONFIRM_S = 1.0
"""A connection that is gone may be followed by another: its worker comes back within this, or is dead."""
LOOK_AGAIN_S = 0.25
"""While somebody is missed: who else is, and since when."""
AT_ONCE_S = 0.3
"""Those who are missed within this time vanished at once. More than a look: one may fall between the two."""
MANY = 3
"""Workers, and more than half of the others. Two may well be killed together, on one host."""
STALLED_S = 0.5
"""An answer that takes longer comes from a server that stood still: whoever was cut off could not come back."""
ASKED_AT_MOST = 50
"""Of a large fleet, to see whether the network has cut off many."""
TRUSTED_AGE_S = 1.5
"""Of our own connection. Before, others may not have come back yet from whatever broke ours."""


@dataclass(frozen=True, slots=True)
class Dead:
    """A worker that is dead, and how that is known."""

    member: Member
    sign: Sign
    entry: RingEntry | None = None
    """Its place in the ring, where its connection is gone."""


class Neighbours:
    """Those whom one worker watches.

    client: whose one connection stands for the worker.  ttl_s: after which beats tell of a death where connections
    cannot.  clock: in seconds, steady.
    """

    def __init__(
        self, client: "Redis", keys: Keys, model: str, *, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._keys, self._model = keys, model
        self._ttl_s = ttl_s
        self._clock = clock
        self._ours: RingEntry | None = None
        self._connected_at = 0.0
        self._is_listed = False
        self._may_ask_for_listeners = True
        self._suspects: dict[RingEntry, float] = {}
        self._members = 0
        self._watched: tuple[RingEntry, ...] = ()
        self._hear: tuple[bool, ...] = ()
        self._says_why_not = True

    def connected(self, ours: RingEntry | None) -> None:
        """Another connection stands for us. None: it is not known yet which."""
        self._ours = ours
        self._connected_at = self._clock()
        self._is_listed = False
        self._may_ask_for_listeners = True
        self._suspects.clear()

    def watch(self, seen: Beat) -> None:
        """A beat has told who they are."""
        self._members, self._watched, self._hear = seen.members, seen.after, seen.hear

    def say_why_not(self, why: str) -> None:
        """Log once that connections tell nothing here."""
        if self._says_why_not:
            logger.warning(
                "deaths of workers are noticed by their beats, after %g s: the server cannot say whose "
                "connections are gone (%s)",
                self._ttl_s,
                why,
            )
        self._says_why_not = False

    async def look(self) -> list[Dead]:
        """Those of the watched whose connection has been gone for a second.  Raises errors of Redis."""
        ours = self._ours
        if ours is None or ours.client_id == 0:
            return []
        watched = [each for each in self._watched if each.run_id == ours.run_id and each.client_id]
        if not watched:
            self._suspects.clear()
            return []
        asked_at = self._clock()
        missed = await self._missed(watched)
        if not self._is_listed:
            missed = watched
        present = await self._present([ours, *missed]) if missed else set()
        if present is None or self._ours is not ours:  # the connection broke meanwhile
            return []
        if self._clock() - asked_at > STALLED_S:
            self._suspects.clear()
        return await self._judge([each for each in missed if each.client_id not in present])

    @property
    def next_look_s(self) -> float:
        """Until the next look is due: at the latest when a suspect has been gone for as long as it may.

        One that was due and not judged, because many were cut off with it, makes nobody look more often.
        """
        interval_s = max(LOOK_INTERVAL_S, self._members / LOOKS_PER_S)
        if not self._suspects:
            return interval_s
        due_at = max(min(self._suspects.values()) + CONFIRM_S, self._connected_at + TRUSTED_AGE_S)
        due_in_s = due_at - self._clock()
        return min(due_in_s, LOOK_AGAIN_S) if due_in_s > 0 else interval_s

    # -- inside

    async def _missed(self, entries: list[RingEntry]) -> list[RingEntry]:
        """Those of them who hear RQ's commands no more, or have yet to: the others are there.

        This costs the server a tenth of what a list of connections does.
        """
        heard = dict(zip(self._watched, self._hear, strict=False))
        self._hear = ()  # as of the beat: good for one look
        if not heard and self._may_ask_for_listeners:
            channels = [rq_names.commands(entry.worker) for entry in entries]
            try:
                counts = await self._client.pubsub_numsub(*channels)
            except redis.ResponseError as error:
                raise_what_passes(error)
                self._may_ask_for_listeners = False
                logger.info("whose connections are gone is asked for the longer way: %s", error)
            else:
                heard = {entry: count > 0 for entry, (_, count) in zip(entries, counts, strict=True)}
        return [entry for entry in entries if not heard.get(entry)]

    async def _present(self, entries: list[RingEntry]) -> set[int] | None:
        """Client ids that the server has, ours being the first; None where it cannot say, or has not even ours."""
        try:
            listed = await self._client.client_list(client_id=[str(entry.client_id) for entry in entries])
        except redis.ResponseError as error:
            raise_what_passes(error)
            self.say_why_not(str(error))
            return None
        if self._ours is not entries[0]:  # the connection broke meanwhile
            return None
        present = {int(each["id"]) for each in listed}
        self._is_listed = entries[0].client_id in present
        if not self._is_listed:
            self.say_why_not("it does not list our own connection: a proxy stands in between")
            return None
        return present

    async def _judge(self, absent: list[RingEntry]) -> list[Dead]:
        now = self._clock()
        self._suspects = {entry: self._suspects.get(entry, now) for entry in absent}
        if now - self._connected_at < TRUSTED_AGE_S:
            return []
        due = [entry for entry, since in self._suspects.items() if now - since >= CONFIRM_S]
        cut_off = await self._cut_off(due) if due else set()
        dead = [entry for entry in due if entry not in cut_off]
        for entry in dead:
            del self._suspects[entry]
        self._watched, self._hear = tuple(each for each in self._watched if each not in dead), ()
        return [Dead(Member(entry.worker, self._model), "gone", entry) for entry in dead]

    async def _cut_off(self, due: list[RingEntry]) -> set[RingEntry]:
        """Those with whom many vanished at once: it was the network."""
        ours = self._ours
        assert ours is not None
        raw: list[Any] = await self._client.zrange(self._keys.ring(self._model), 0, -1)
        others = [entry for entry in map(RingEntry.parse, raw) if entry.run_id == ours.run_id and entry != ours]
        if len(others) > ASKED_AT_MOST:
            others = random.sample(others, ASKED_AT_MOST)
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
            if len(at_once) >= MANY and 2 * len(at_once) > len(others):
                cut_off.add(entry)
        return cut_off


def raise_what_passes(error: Exception) -> None:
    """A server that is busy or loading has refused nothing: it is asked again."""
    if isinstance(error, redis.RedisError) and meaning(error) == "outage":
        raise error
