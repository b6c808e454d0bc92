"""What a generation gives, token by token."""

from dataclasses import dataclass, field
from typing import Literal

from producer.contract import TokenLogprob


@dataclass(frozen=True, slots=True)
class Step:
    """One generated token."""

    token_id: int
    text: str
    """Text that this token released; "" while it is held back."""
    logprob: TokenLogprob | None
    finish_reason: Literal["stop", "length"] | None
    """Set on the last step of a generation."""
    stop: str | None
    """The stop string that ended it, if one did."""
    has_next: bool = field(default=False, compare=False)
    """Whether the token after it is known, from the same pass over the model."""
