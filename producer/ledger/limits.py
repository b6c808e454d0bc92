"""What an owner may ask for: requests and tokens a minute, and requests at once, over any number of gateways."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..contract import Keys
from .step import Step, nothing

OPEN_MS = 30_000
"""For how long a request counts as open of which nothing more is heard: its gateway was killed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one owner; 0 is no limit."""

    requests: int = 0
    """A minute. So many may come at once; then they fill up evenly."""
    tokens: int = 0
    """A minute, of prompts and answers."""
    at_once: int = 0
    """Requests that are open."""

    @property
    def are_none(self) -> bool:
        """Whether everything is let in."""
        return not (self.requests or self.tokens or self.at_once)


@dataclass(frozen=True, slots=True)
class Reached:
    """Why a request is not let in.  wait_s: until there is room; None where nobody can tell."""

    limit: Literal["requests", "tokens", "open"]
    wait_s: float | None


def begin(keys: Keys, owner: str, limits: Limits, request_id: str, *, tokens: int) -> Step[Reached | None]:
    """Let a request in and count it, or say why not.  tokens: that it may take."""
    return _spend(keys, owner, limits, request_id, requests=1, tokens=tokens, open_ms=OPEN_MS)


def end(keys: Keys, owner: str, limits: Limits, request_id: str, *, unused: int) -> Step[Reached | None]:
    """It is over.  unused: tokens that it was let in for, and has not taken."""
    return _spend(keys, owner, limits, request_id, requests=0, tokens=-unused, open_ms=0)


def stay(keys: Keys, owner: str, request_ids: Sequence[str]) -> Step[None]:
    """They are open still. To be said more often than OPEN_MS."""
    return Step("stay", _names(keys, owner)[1:], [OPEN_MS, *request_ids], nothing)


def _spend(
    keys: Keys, owner: str, limits: Limits, request_id: str, *, requests: int, tokens: int, open_ms: int
) -> Step[Reached | None]:
    args = [limits.requests, limits.tokens, limits.at_once, requests, tokens, request_id, open_ms]
    return Step("spend", _names(keys, owner), args, _read)


def _names(keys: Keys, owner: str) -> list[str]:
    return [keys.limits(owner), keys.open_requests(owner)]


def _read(reply: Sequence[Any]) -> Reached | None:
    if not reply:
        return None
    limit, wait_ms = reply
    return Reached(limit.decode(), wait_ms / 1000 or None)
