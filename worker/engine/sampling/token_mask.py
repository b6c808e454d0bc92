"""Which tokens may come next, on its way from the host to the logits. Knows bits, and nothing of grammars.

On a GPU the bits are copied from pinned memory to a place of their own, which is always the same, and nobody waits
for it: what writes the next ones has read a token first that was chosen by these.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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

    @property
    def words(self) -> NDArray[np.uint32]:
        """(words,), to be filled: one bit a token, lowest first."""
        words: NDArray[np.uint32] = self._host.numpy().view(np.uint32)[: self._filled]
        return words

    def allowed(self) -> Tensor:
        """(1, vocab_size) bool on the device, of what `words` hold now."""
        if self._on_device is None:  # a tenth of what the operations on tensors take
            bits = np.unpackbits(self._bytes, count=self._vocab_size, bitorder="little")
            return torch.from_numpy(bits).view(torch.bool)[None]
        self._on_device.copy_(self._host, non_blocking=True)
        spread = (self._on_device[:, None] >> self._places) & 1
        return spread.bool().view(1, -1)[:, : self._vocab_size]
