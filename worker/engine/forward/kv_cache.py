"""The keys and values of every token that the model has read: what makes a decode step cost one token.

One prompt at a time: a cache holds one sequence. A sequence is shortened by forgetting its end (`truncate`), after
a token too many, a draft that was refused, or for another prompt with the same beginning.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from ..errors import CacheFull
from .host_copy import HostCopy, HostMemory


class DynamicKVCache:
    """A cache that grows with the sequence: transformers' own, simple and exact.

    Its tensors are (1, num_key_value_heads, length, head_dim) a layer, or whatever state a layer goes on from.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        self._config = config
        self.past_key_values = DynamicCache(config=config)
        """What the model reads and appends to."""
        self.length = 0
        """Tokens held. Counted by whoever appends: not every cache knows."""

    @property
    def rolls_back(self) -> bool:
        """Whether a part can be kept. A sliding window or a recurrent state has lost what that would take."""
        return all(type(layer) is DynamicLayer for layer in self.past_key_values.layers)

    @property
    def has_states(self) -> bool:
        """Whether layers go on from a state, as Mamba's do. Not all of these take a prompt in pieces."""
        return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in self.past_key_values.layers)

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens. With none left, the memory goes back to the allocator."""
        if length == 0:
            # A new one: a reset would write to states that were made under inference mode, outside of it.
            self.past_key_values = DynamicCache(config=self._config)
            self.length = 0
        elif length < self.length:
            self.past_key_values.crop(length - self.length)  # by how many: transformers 5 takes no length here
            self.length = length


class StaticKVCache:
    """A cache that is allocated once, so that no job can run out of memory half-way and a step can be captured.

    Behind `length` are zeros, or at worst finite numbers. A step may look there through a mask, which hides every
    number, but not NaN: after a job whose numbers overflowed, each one after it would fail as well.
    """

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        """shape: layers, key-value heads, tokens, head_dim."""
        # Written, not only asked for: on a CPU, memory that nobody has touched can be missing when a job needs it.
        self.keys: Tensor = torch.zeros(shape, dtype=dtype, device=device)
        self.values: Tensor = torch.zeros_like(self.keys)
        self.length = 0
        self.host_memory = HostMemory(pinned=device.type == "cuda")
        """For what is copied out."""

    @property
    def capacity(self) -> int:
        """Tokens that it has room for."""
        return self.keys.shape[2]

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return (self.keys.nbytes + self.values.nbytes) // self.capacity

    def grow(self, tokens: int) -> int:
        """Make room for so many tokens more; return the position of the first.  Raises CacheFull.

        On a GPU, a write beyond the end would end the process: the host looks first.
        """
        if self.length + tokens > self.capacity:
            raise CacheFull(f"the cache holds {self.capacity} tokens and cannot take {self.length + tokens}")
        self.length += tokens
        return self.length - tokens

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens."""
        if length < self.length:
            self.keys[:, :, length : self.length] = 0
            self.values[:, :, length : self.length] = 0
            self.length = length

    def copy_out(self) -> HostCopy:
        """Keys and values of the tokens held, for `copy_in`. On a GPU, the copy is only launched."""
        kept = HostCopy(2 * self.keys[:, :, : self.length].numel(), self.keys.dtype, self.host_memory)
        for row, at in self._rows(self.length, self.length):
            kept.take(row, at)
        return kept

    def copy_in(self, kept: HostCopy, length: int) -> None:
        """Take the first `length` tokens of what `copy_out` gave in place of those held."""
        self.truncate(length)
        for row, at in self._rows(kept.nbytes // self.bytes_per_token, length):
            kept.give(row, at)
        self.length = length

    def _rows(self, kept_length: int, length: int) -> Iterator[tuple[Tensor, int]]:
        """Of each head the first `length` tokens, (length * head_dim,), and where a copy of so many has them."""
        rows = (head for held in (self.keys, self.values) for layer in held for head in layer)
        for number, row in enumerate(rows):
            yield row[:length].view(-1), number * kept_length * row.shape[1]
