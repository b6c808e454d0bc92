"""The id of an event in a job's stream, `<attempt>-<seq>`."""

from typing import NamedTuple, Self

from .errors import InvalidRequest

MAX_ID_PART = 2**64 - 1
"""Redis' own bound on either part of an entry's id."""
_ID_DIGITS = len(str(MAX_ID_PART))


class EventId(NamedTuple):
    """`<attempt>-<seq>`: the cursor, the order and the fence in one. Ordered as Redis orders stream ids."""

    attempt: int
    seq: int

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """From the form on the wire.  Raises InvalidRequest when it is not one."""
        if isinstance(text, bytes):
            text = text.decode()
        attempt, dash, seq = text.partition("-")
        if dash and _is_id_part(attempt) and _is_id_part(seq):
            event_id = cls(int(attempt), int(seq))
            if event_id.attempt <= MAX_ID_PART and event_id.seq <= MAX_ID_PART:
                return event_id
        raise InvalidRequest(f"event id {text[:40]!r} is not valid: it has the form <attempt>-<seq>, as 1-7")

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"


def _is_id_part(text: str) -> bool:
    return len(text) <= _ID_DIGITS and text.isdecimal()


BEFORE_FIRST = EventId(0, 0)
"""The cursor before every event: attempts start at 1."""
