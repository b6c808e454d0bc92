"""A job's group: who it is for, as a user or a tenant. Groups of a priority take turns.

A group's jobs wait in a queue of their own, whose name holds the group's in letters that every tool of Redis and
RQ takes: letters, digits, `_`, `-` and `.` stand for themselves, and any other byte of its UTF-8 is `~` and two
hex digits.
"""

import re

from .errors import InvalidRequest

MAX_GROUP_CHARS = 64
"""So that a queue's name is bounded, too: by 12 times as much."""

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.")
_ENCODED = re.compile(r"(?:[A-Za-z0-9_.-]|~[0-9a-f]{2})+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_group(group: str) -> str:
    """Return the group.  Raises InvalidRequest when it is none."""
    if not isinstance(group, str) or not _is_group(group):
        raise InvalidRequest(
            f"group {group!r:.80} is not valid: use a text of 1 to {MAX_GROUP_CHARS} characters without control "
            "characters, as a user's name or a tenant's id, or leave it out"
        )
    return group


def encode_group(group: str) -> str:
    """As it stands in the name of a queue.  Raises InvalidRequest."""
    return "".join(chr(byte) if byte in _PLAIN else f"~{byte:02x}" for byte in check_group(group).encode())


def decode_group(encoded: str) -> str | None:
    """The group of `encode_group`; None for what that does not write."""
    if not _ENCODED.fullmatch(encoded):
        return None
    try:
        group = re.sub(rb"~(..)", lambda match: bytes([int(match[1], 16)]), encoded.encode()).decode()
    except UnicodeDecodeError:
        return None
    return group if _is_group(group) and encode_group(group) == encoded else None


def _is_group(group: str) -> bool:
    if not 1 <= len(group) <= MAX_GROUP_CHARS or _CONTROL.search(group):
        return False
    try:
        group.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True
