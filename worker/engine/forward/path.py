"""What the engine asks of a way to run the model: rows of tokens in, logits out, a cache behind it."""

from typing import Protocol

from torch import Tensor


class ForwardPath(Protocol):
    """Holds one sequence. `read` and `decode` append to it; the engine has made sure that it fits."""

    name: str
    compiled: bool
    captured: bool
    rolls_back: bool
    """Whether `truncate` can keep a part, which the check of a draft needs. It can drop all in any case."""

    @property
    def length(self) -> int:
        """Tokens in the cache, known on the host."""

    def use_kernels(self) -> None:
        """Have what takes the time be done by our kernels.

        Raises NotSupported where they are not exact here, and whatever a compiler raises.
        """

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens, at most those there are."""

    def piece_end(self, done: int, prompt_tokens: int, length: int, chunk: int) -> int:
        """Where the next piece of a sequence of `length` tokens ends, of which `done` are in the cache.

        After `chunk` tokens, if it may be cut there. What stands behind the prompt is of an earlier attempt, which
        read its tokens one by one.
        """

    def read(self, ids: Tensor, *, rows: int = 1) -> Tensor:
        """Read some tokens at once.  ids: (1, seq_len) int64 on the device.

        Returns the logits after the last `rows` of them, (rows, vocab) float32; without any, nothing of use.
        """

    def decode(self, token: Tensor) -> Tensor:
        """Advance one step.  token: (1, 1) int64 on the device.  Returns the logits after it, (1, vocab) float32.

        They may be overwritten by the next step. Source: gpt-fast, generate.py, decode_one_token.
        """
