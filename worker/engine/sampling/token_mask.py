"""Which tokens may come next, on its way from the host to the logits. Knows bits, and nothing of grammars.

On a GPU the bits, 19 kB for 150,000 tokens, are copied from pinned memory to a place of their own, which is always
the same, and two kernels spread them. Nobody waits for that: what writes the next ones has read a token first that
was chosen by these.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

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
        self._vocab_size = vocab_size
        self._filled = words
        count = 4 * max(words, (vocab_size + 31) // 32)
        self._host = torch.zeros(count, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._bytes: NDArray[np.uint8] = self._host.numpy()
        if device.type == "cuda":
            self._on_device: Tensor | None = torch.zeros(count, dtype=torch.uint8, device=device)
            self._of_a_byte = torch.from_numpy(_OF_A_BYTE).to(device)
        else:
            self._on_device = None
            self._bias = np.zeros((count, 8), dtype=np.float32)

    @property
    def words(self) -> NDArray[np.uint32]:
        """(words,), to be filled: one bit a token, lowest first."""
        words: NDArray[np.uint32] = self._bytes.view(np.uint32)[: self._filled]
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
        spread = functional.embedding(self._on_device.int(), self._of_a_byte)
        return spread.view(1, -1)[:, : self._vocab_size]
