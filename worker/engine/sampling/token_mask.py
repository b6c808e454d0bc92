"""Which tokens may come next, on its way from the host to the logits. Knows bits, and nothing of grammars.

On a GPU the bits are copied from pinned memory to a place of their own, which is always the same, and nobody waits
for it: what writes the next ones has read a token first that was chosen by these.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_OF_A_BYTE = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"),
    np.float32(0),
    -np.float32(np.inf),
)
"""What is added to the logits of eight tokens, by their byte: (256, 8) float32."""


class TokenMask:
    """Bits for one row of logits."""

    def __init__(self, words: int, vocab_size: int, device: torch.device) -> None:
        """`words`: of 32 bits each, for `vocab_size` tokens; tokens beyond them never come."""
        on_gpu = device.type == "cuda"
        self._vocab_size = vocab_size
        self._filled = words
        words = max(words, (vocab_size + 31) // 32)
        self._host = torch.zeros(words, dtype=torch.int32, pin_memory=on_gpu)
        self._bytes = self._host.numpy().view(np.uint8)
        self._on_device = torch.zeros(words, dtype=torch.int32, device=device) if on_gpu else None
        self._places = torch.arange(32, dtype=torch.int32, device=device)
        self._bias = np.zeros((len(self._bytes), 8), dtype=np.float32)

    @property
    def words(self) -> NDArray[np.uint32]:
        """(words,), to be filled: one bit a token, lowest first."""
        words: NDArray[np.uint32] = self._host.numpy().view(np.uint32)[: self._filled]
        return words

    def bias(self) -> Tensor:
        """What is added to logits, by what `words` hold now: (1, vocab_size) float32 on the device, 0 or -inf.

        On a CPU it is overwritten by the next one.
        """
        if self._on_device is None:
            # Of many ways the one that takes 40 µs for any bits: what chooses by them takes up to 0.5 ms.
            np.take(_OF_A_BYTE, self._bytes, axis=0, out=self._bias, mode="clip")
            return torch.from_numpy(self._bias.reshape(-1)[: self._vocab_size])[None]
        self._on_device.copy_(self._host, non_blocking=True)
        may_come = ((self._on_device[:, None] >> self._places) & 1).bool()
        return torch.where(may_come, 0.0, -math.inf).view(1, -1)[:, : self._vocab_size]
