"""The keys and values of every token that the model has read: what makes a decode step cost one token.

The engine sees `KVCache` only. One prompt at a time: a cache holds one sequence, and is emptied for the next.
"""

from typing import Protocol

from transformers import Cache, DynamicCache, PreTrainedConfig


class KVCache(Protocol):
    """What the engine asks of a cache."""

    @property
    def past_key_values(self) -> Cache:
        """What the model reads and appends to."""

    @property
    def length(self) -> int:
        """Tokens held, known on the host: asking costs no wait for the device."""

    def reset(self) -> None:
        """Forget everything, so that the next sequence starts at position 0."""


class DynamicKVCache:
    """A cache that grows with the sequence, by concatenation: simple and exact.

    Its tensors are (1, num_key_value_heads, length, head_dim) a layer.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        self._cache = DynamicCache(config=config)

    @property
    def past_key_values(self) -> Cache:
        """The cache in transformers' form."""
        return self._cache

    @property
    def length(self) -> int:
        """Tokens held."""
        return self._cache.get_seq_length()

    def reset(self) -> None:
        """Forget everything and give the memory back to the allocator."""
        self._cache.reset()
