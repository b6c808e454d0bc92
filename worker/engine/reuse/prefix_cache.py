"""Which tokens the static cache holds, and which were parked in host memory: a prompt that begins like an earlier
one is read from where they part.

Only prompts with the same salt share anything: else whoever asks could tell, from how much of a guess was known
already, what others have asked. Source: vLLM, cache_salt.

A sequence is parked when the next one is about to overwrite it, and not when its job ends: only then is it known
whether it has to be, and what may go for it. Of two chats that take turns, with room for one, each would else push
the other out. On a GPU, the next job's first step waits for the copy: 1.2 ms a thousand tokens of Qwen2-7B, 57 MB.

A run that makes way for another and goes on later has its sequence parked for itself, with a budget of its own: it
is there when the run goes on, whatever came in between. With the reuse of common beginnings turned off, that alone
is taken up again.

Knows token ids, salts and bytes. What is in the cache must be exact: a sequence is noted (`note`) only when its
job has left it whole, and whoever is in doubt forgets it (`forget`).
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..faults import is_out_of_memory
from ..forward.host_copy import HostCopy
from ..forward.kv_cache import StaticKVCache

logger = logging.getLogger(__name__)

WORTH_PARKING = 32
"""Tokens. To copy fewer costs as much as to read them again."""

PINNED_AHEAD_BYTES = 2**30
"""For jobs that make way and prompts that come again: 18,700 tokens of Qwen2-7B. Pinned at the start, in 0.4 s."""

MAX_PARKED = 16
"""Sequences that are nobody's own. Each is compared with every new prompt, and one that is so long ago will hardly
come again."""


@dataclass(frozen=True, slots=True)
class Salted:
    """A sequence, the salt of those that may know of it, and whose it is."""

    ids: Tensor  # (length,) int64
    salt: str | None = None
    run: int | None = None
    """That is to go on from its end; None where there is none, and the sequence is anybody's."""
    in_chunks: int = 0
    """Of its first so many tokens, which were read in chunks, keys and values are those of such chunks alone, and
    of the others, of steps behind them; 0 where it does not matter how they were read."""

    def __len__(self) -> int:
        return len(self.ids)

    def common_length(self, other: "Salted") -> int:
        """How many ids at their beginnings two sequences share; none where their salts differ."""
        return common_length(self.ids, other.ids) if self.salt == other.salt else 0

    def same_length(self, other: "Salted", chunk: int) -> int:
        """Of how many tokens two sequences share keys and values to the last bit, read in such chunks."""
        common = self.common_length(other)
        if self.in_chunks == other.in_chunks <= common:
            return common
        return min(common, self.in_chunks, other.in_chunks) // chunk * chunk


NOTHING = Salted(torch.empty(0, dtype=torch.int64))


@dataclass(frozen=True, slots=True)
class Parked:
    """A sequence in host memory."""

    sequence: Salted
    kept: HostCopy

    @property
    def is_anybodys(self) -> bool:
        """Whether no run is to go on from it."""
        return self.sequence.run is None


class PrefixCache:
    """The sequence in the cache, and others that were, least recently used first.

    budget_bytes: of host memory, for sequences that are anybody's; 0 turns common beginnings off.
    parked_budget_bytes: for those that a run is to go on from.
    chunk: tokens that are read at once, from its multiples on; for sequences of which some are `in_chunks`.
    """

    def __init__(
        self, cache: StaticKVCache, budget_bytes: int, parked_budget_bytes: int = 0, *, chunk: int = 1
    ) -> None:
        self._cache, self._chunk = cache, chunk
        self._budget_bytes, self._parked_budget_bytes = budget_bytes, parked_budget_bytes
        self._held = NOTHING
        self._begun = NOTHING
        """The sequence in work, which is held once it is noted."""
        self._parked: list[Parked] = []

    @property
    def parked_bytes(self) -> int:
        """Host memory in use."""
        return sum(parked.kept.nbytes for parked in self._parked)

    def warm_up(self) -> None:
        """Do what the first that makes way would have to wait for."""
        budget_bytes = self._budget_bytes + self._parked_budget_bytes
        self._cache.host_memory.pin_ahead(min(PINNED_AHEAD_BYTES, budget_bytes))

    def begin(self, ids: Tensor, salt: str | None = None, *, in_chunks: int = 0) -> int:
        """Bring the longest beginning of a sequence that is known by that salt into the cache, and nothing else.

        ids: (seq_len,) int64 on the CPU.  in_chunks: see `Salted`.  Returns its length, which is below seq_len:
        the last token has to be read in any case, for its logits.
        """
        assert len(self._held) <= self._cache.length, "the cache was changed behind our back: forget, first"
        held, wanted = self._held, Salted(ids[:-1], salt, in_chunks=in_chunks)
        self.forget()  # at once: should anything fail below, nobody knows what the cache holds
        self._begun = wanted
        common = self._shared(held, wanted)
        best = self._best_parked(wanted, beyond=common)
        if best is not None:
            self._touch(best)  # before another is parked, for which the oldest may have to go
        self._park(held, beyond=common)
        if best is not None:
            common = self._shared(best.sequence, wanted)
            self._cache.copy_in(best.kept, common)
        self._make_room()
        self._cache.truncate(common)
        return common

    def note(self, ids: Tensor) -> None:
        """The cache holds these tokens, whole and exact.  ids: (seq_len,) int64 on the CPU."""
        assert len(ids) == self._cache.length, "what is noted must be what is there"
        self._held = replace(self._begun, ids=ids)

    def forget(self) -> None:
        """What is in the cache is no longer known."""
        self._held = NOTHING

    def park_for(self, run: int) -> None:
        """A run is to go on from what was noted last."""
        self._held = replace(self._held, run=run)

    def keep_for(self, runs: Collection[int]) -> None:
        """These runs are to go on yet. What was parked for others is anybody's, as far as there is room for it."""
        if self._held.run not in runs:
            self._held = replace(self._held, run=None)
        self._parked = [
            parked if parked.sequence.run in runs else replace(parked, sequence=replace(parked.sequence, run=None))
            for parked in self._parked
        ]

    def _shared(self, known: Salted, wanted: Salted) -> int:
        """How much of a sequence that is known may serve for one that is wanted."""
        goes_on = known.run is not None and known.common_length(wanted) == len(known)
        return known.same_length(wanted, self._chunk) if self._budget_bytes or goes_on else 0

    def _best_parked(self, wanted: Salted, beyond: int) -> Parked | None:
        """The parked sequence with the longest common beginning, if it is worth a copy."""
        best = max(self._parked, key=lambda parked: self._shared(parked.sequence, wanted), default=None)
        if best is None or self._shared(best.sequence, wanted) < beyond + WORTH_PARKING:
            return None
        return best

    def _park(self, held: Salted, beyond: int) -> None:
        """Copy out what the cache holds, if the sequence to come would overwrite much of it."""
        size_bytes = len(held) * self._cache.bytes_per_token
        if held.run is not None and not self._has_room_for_own(held, size_bytes):
            held = replace(held, run=None)
        # What a run goes on from is kept whole: what is common may be overwritten before its turn comes.
        spared = beyond if held.run is None or beyond == len(held) else 0
        if len(held) - spared < WORTH_PARKING or (held.run is None and size_bytes > self._budget_bytes):
            return
        shared = {id(parked): parked.sequence.same_length(held, self._chunk) for parked in self._parked}
        if held.run is None and len(held) in shared.values():
            return  # it is there already
        # What is parked now says all of these. Their memory is free, then, for it.
        self._parked = [
            parked
            for parked in self._parked
            if shared[id(parked)] < len(parked.sequence) or parked.sequence.run not in (None, held.run)
        ]
        if held.run is None:
            self._make_room(size_bytes)
        try:
            self._parked.append(Parked(held, self._cache.copy_out()))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # No job is to fail for what would only have made another one faster.
            logger.warning("there was no host memory to keep a prefix: consider a lower prefix_cache_bytes")

    def _has_room_for_own(self, held: Salted, size_bytes: int) -> bool:
        others = [parked for parked in self._parked if parked.sequence.run not in (None, held.run)]
        return sum(parked.kept.nbytes for parked in others) + size_bytes <= self._parked_budget_bytes

    def _make_room(self, size_bytes: int = 0) -> None:
        """Among the sequences that are anybody's; for another one of so many bytes, where there are any."""
        anybodys = [parked for parked in self._parked if parked.is_anybodys]
        most = MAX_PARKED - bool(size_bytes)
        while anybodys and (
            len(anybodys) > most
            or sum(parked.kept.nbytes for parked in anybodys) + size_bytes > self._budget_bytes
        ):
            self._remove(anybodys.pop(0))

    def _touch(self, parked: Parked) -> None:
        self._remove(parked)
        self._parked.append(parked)

    def _remove(self, parked: Parked) -> None:
        self._parked = [other for other in self._parked if other is not parked]


def common_length(some: Tensor, others: Tensor) -> int:
    """How many ids two sequences have in common at their beginnings.  (n,) and (m,) int64."""
    shorter = min(len(some), len(others))
    differ = some[:shorter] != others[:shorter]
    return int(differ.int().argmax()) if differ.any() else shorter
