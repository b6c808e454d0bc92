"""The tokens of a scripted worker: a token is one character, and its id is the character's code point.

So the `token_ids` of a result say its text again, and `max_new_tokens` counts characters. No token stands for the
end.
"""

from collections.abc import Sequence


def encode(text: str) -> tuple[int, ...]:
    """Ids of a text."""
    return tuple(map(ord, text))


def decode(token_ids: Sequence[int]) -> str:
    """The text of ids; a U+FFFD for what is no code point."""
    return "".join(chr(token_id) if _is_character(token_id) else "\ufffd" for token_id in token_ids)


def _is_character(token_id: int) -> bool:
    return 0 <= token_id < 0xD800 or 0xE000 <= token_id <= 0x10FFFF
