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
from .staging import BUFFER_BYTES, Staging


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
        self._staging = Staging(device)

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

    def copy_out(self) -> Tensor:
        """Keys and values of the tokens held, in host memory: (2, layers, key-value heads, length, head_dim)."""
        layers, heads, _, head_dim = self.keys.shape
        kept = torch.empty((2, layers, heads, self.length, head_dim), dtype=self.keys.dtype)
        for here, there in self._pieces(kept, self.length):
            self._staging.to_host(here, there)
        self._staging.finish()
        return kept

    def copy_in(self, kept: Tensor, length: int) -> None:
        """Take the first `length` tokens of what `copy_out` gave in place of those held."""
        self.truncate(length)
        for here, there in self._pieces(kept, length):
            self._staging.to_device(there, here)
        self.length = length

    def _pieces(self, kept: Tensor, length: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Of the first `length` tokens, here and in `kept`: (key-value heads, tokens, head_dim) of one layer."""
        _, heads, _, head_dim = self.keys.shape
        tokens = max(BUFFER_BYTES // (heads * head_dim * self.keys.itemsize), 1)
        for held, copy in zip((self.keys, self.values), kept, strict=True):
            for layer in range(len(held)):
                for at in range(0, length, tokens):
                    end = min(at + tokens, length)
                    yield held[layer, :, at:end], copy[layer, :, at:end]
