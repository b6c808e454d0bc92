"""The constraint of a job, at work in the decode loop: a mask is made while the device computes the logits for it.

On a GPU, whoever has launched a step makes the mask while it runs. On a CPU the step is the caller's own work, and
a second thread makes the mask beside it: llguidance lets go of the interpreter lock.
"""

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from producer.contract import EngineError

from .sampling.token_mask import TokenMask
from .text.constraint import Constraint


class Masks:
    """Of one engine: makes of a job's constraint what is at work in its generation."""

    def __init__(self, vocab_size: int, device: torch.device, *, beside: bool) -> None:
        """`beside`: a step is the caller's own work, and long enough to have another thread do something."""
        self._vocab_size, self._device, self._beside = vocab_size, device, beside
        self._thread: ThreadPoolExecutor | None = None

    def of(self, constraint: Constraint | None) -> "Constrained":
        """For a new generation."""
        if constraint and self._beside and self._thread is None:
            self._thread = ThreadPoolExecutor(1, "masks")
        return Constrained(constraint, self._vocab_size, self._device, self._thread)


class Constrained:
    """What may come next in one generation: anything, where there is no constraint."""

    def __init__(
        self,
        constraint: Constraint | None,
        vocab_size: int,
        device: torch.device,
        beside: ThreadPoolExecutor | None,
    ) -> None:
        """`beside`: one thread for masks; None: they are made when they are asked for."""
        self._constraint = constraint
        self._mask = TokenMask(constraint.words, vocab_size, device) if constraint else None
        self._beside = beside
        self._filling: Future[None] | None = None

    def __bool__(self) -> bool:
        return self._constraint is not None

    @property
    def is_over(self) -> bool:
        """Whether nothing more may follow."""
        return self._constraint is not None and self._constraint.is_over

    def begin(self) -> None:
        """The tokens so far are known, and a step begins: make the mask for the token after it."""
        if self._beside and self._constraint and self._mask and self._filling is None:
            self._filling = self._beside.submit(self._constraint.fill, self._mask.words)

    def bias(self) -> Tensor | None:
        """(1, vocab) float32 on the device: -inf for what may not come next.  Raises as `Constraint.fill`."""
        if self._constraint is None or self._mask is None:
            return None
        filling, self._filling = self._filling, None
        if filling is None:
            self._constraint.fill(self._mask.words)
        else:
            filling.result()
        return self._mask.bias()

    def allows(self, token_id: int) -> bool:
        """Whether that token may come next."""
        return self._constraint is None or self._constraint.allows(token_id)

    def push(self, token_id: int) -> None:
        """Take the next token.  Raises EngineError for one that may not come."""
        if self._constraint is not None and not self._constraint.push(token_id):
            raise EngineError(f"token {token_id} was chosen, which the answer's structure does not allow there")

    def take_forced(self, room: int) -> list[int]:
        """The tokens that come in any case, at most `room`; they are taken as by `push`."""
        return [] if self._constraint is None else self._constraint.take_forced(room)
