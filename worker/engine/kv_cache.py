"""The keys and values of every token that the model has read: what makes a decode step cost one token.

One prompt at a time: a cache holds one sequence. A sequence is shortened by forgetting its end (`truncate`), after
a token too many, a draft that was refused, or for another prompt with the same beginning.
"""

from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig

from .errors import CacheFull


class KVCache(Protocol):
    """What both caches can do."""

    @property
    def length(self) -> int:
        """Tokens held, known on the host: asking costs no wait for the device."""

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens, at most those held, and forget the others."""


class DynamicKVCache:
    """A cache that grows with the sequence, by concatenation: transformers' own, simple and exact.

    Its tensors are (1, num_key_value_heads, length, head_dim) a layer.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        self.past_key_values = DynamicCache(config=config)
        """What the model reads and appends to."""

    @property
    def length(self) -> int:
        """Tokens held."""
        return self.past_key_values.get_seq_length()

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens. With none left, the memory goes back to the allocator."""
        if length == 0:
            self.past_key_values.reset()
        elif length < self.length:
            self.past_key_values.crop(length - self.length)  # by how many: transformers 5 takes no length here


class StaticKVCache:
    """A cache that is allocated once, so that no job can run out of memory half-way and a step can be captured.

    What lies behind `length` is garbage, which no token sees: the next one overwrites it.
    """

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        """shape: layers, key-value heads, tokens, head_dim."""
        # Zeros, because a masked key of NaN would still be NaN. On the CPU no page is touched before it is used.
        self.keys: Tensor = torch.zeros(shape, dtype=dtype, device=device)
        self.values: Tensor = torch.zeros_like(self.keys)
        self.length = 0

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
        self.length = min(length, self.length)

    def copy_out(self) -> Tensor:
        """Keys and values of the tokens held, in host memory: (2, layers, key-value heads, length, head_dim)."""
        held = slice(None), slice(None), slice(self.length)
        return torch.stack([self.keys[held].cpu(), self.values[held].cpu()])

    def copy_in(self, kept: Tensor, length: int) -> None:
        """Take the first `length` tokens of what `copy_out` gave in place of those held."""
        self.keys[:, :, :length] = kept[0, :, :, :length]
        self.values[:, :, :length] = kept[1, :, :, :length]
        self.length = length
