"""What a generation asks of the engine: rows of tokens in, logits out, and a cache that remembers what was read.

A Protocol of its own, so that the decode loop need not know the engine, which makes generations.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from .reuse.prompt_lookup import SpeculationCost


class ModelRunner(Protocol):
    """Holds one sequence. `begin` starts another one, and ends the one before it."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""

    @property
    def lookahead(self) -> int:
        """Steps that are launched before the token of the one before them is read."""

    @property
    def prompt_lookup(self) -> bool:
        """Whether drafts are taken for requests that do not say."""

    @property
    def takes_drafts(self) -> bool:
        """Whether `read_draft` can be used: the cache must be able to forget what was refused."""

    @property
    def reads_several(self) -> bool:
        """Whether `read` can be used."""

    @property
    def speculation_cost(self) -> SpeculationCost:
        """What drafts have cost on this device, from one job to the next."""

    @property
    def sequence(self) -> int:
        """Grows with every `begin`: tells a generation whether the cache is still its own."""

    def begin(self, ids: Sequence[int], prompt_tokens: int, salt: str | None) -> int:
        """Make the cache ready for a new sequence.  Returns how many of its first tokens it holds already.

        prompt_tokens: those of the prompt; behind it are tokens of an earlier attempt.
        salt: only sequences with the same one share their beginnings.
        """

    def piece_end(self, done: int, prompt_tokens: int, length: int) -> int:
        """Where the next piece of a sequence of `length` tokens ends, of which `done` are in the cache.

        Between two pieces is a look at whether to stop. prompt_tokens: those of the prompt; behind it are tokens
        of an earlier attempt.
        """

    def prefill(self, ids: Tensor, *, rows: int = 1) -> Tensor:
        """Read tokens of the prompt into the cache.  ids: (1, seq_len) int64 on the device.

        Returns the logits after the last `rows` of them, (rows, vocab) float32.
        """

    def decode(self, token: Tensor) -> Tensor:
        """Advance one step.  token: (1, 1) int64 on the device.  Returns logits, (1, vocab) float32."""

    def read(self, ids: Tensor) -> Tensor:
        """Advance by several tokens that are known.  ids: (1, n) int64 on the device.

        Returns the logits after the last of them, (1, vocab) float32. Needs `reads_several`.
        """

    def read_draft(self, ids: Tensor) -> Tensor:
        """Read a token and the draft after it.  ids: (1, n) int64 on the device.

        Returns the logits after each of them, (n, vocab) float32. `keep` what was accepted, then.
        """

    def keep(self, length: int) -> None:
        """Of the tokens in the cache, keep the first `length`."""

    def end(self, sequence: int, ids: Sequence[int]) -> None:
        """A sequence is over.  ids: its tokens; those that the cache holds may serve another prompt.

        Harmless for a sequence that another one has replaced.
        """

    def park(self, sequence: int, run: int) -> None:
        """A run is to go on from a sequence that is over."""

    def abandon(self, sequence: int) -> None:
        """A sequence has failed: nothing of it is to be trusted."""
