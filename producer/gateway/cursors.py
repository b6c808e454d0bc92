"""How much of an answer a client has seen: the `id` of a server-sent event, from which it goes on.

Every part of an answer that is sent has a number, which follows from the events of its jobs alone, and so is the
same at any gateway. Of an answer with one choice the id is that number, from 0, as OpenAI's sequence_number is.
The choices of an answer that has several come in any order: there the id says how many of each, and of what
follows them all, were seen, as `3.5.0`.
"""

import re
from dataclasses import dataclass

from starlette.requests import Request

from .errors import ApiError, refused

FORM = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})*")


@dataclass
class Cursor:
    """Parts seen.  lanes: of each choice, and of what comes behind them all."""

    lanes: list[int]

    @classmethod
    def start(cls, choices: int) -> "Cursor":
        """Of a client that has seen nothing."""
        return cls([0] * (choices + 1))

    @classmethod
    def parse(cls, text: str, choices: int) -> "Cursor":
        """From the form on the wire.  Raises ApiError."""
        parts = [int(part) for part in text.split(".")] if FORM.fullmatch(text) else []
        if len(parts) != (1 if choices == 1 else choices + 1):
            raise ApiError(
                400,
                "starting_after is not the id of an event of this answer",
                param="starting_after",
                code="invalid_value",
            )
        return cls([parts[0] + 1, 0]) if choices == 1 else cls(parts)

    def __str__(self) -> str:
        if len(self.lanes) == 2:
            return str(sum(self.lanes) - 1)
        return ".".join(map(str, self.lanes))


class Passing:
    """Which of the parts, as they are made again from the beginning, the client has not seen.

    seen: by the client.
    """

    def __init__(self, seen: Cursor) -> None:
        self._seen = seen
        self._made = Cursor([0] * len(seen.lanes))

    def next(self, lane: int) -> str | None:
        """One part more of that lane: the id that it is sent with, None where it was seen.  -1: behind all."""
        self._made.lanes[lane] += 1
        made, seen = self._made.lanes, self._seen.lanes
        if len(made) == 2:
            return str(self._made) if sum(made) > seen[0] else None
        if made[lane] <= seen[lane]:
            return None
        return str(Cursor([max(pair) for pair in zip(made, seen, strict=True)]))


def seen_by(request: Request, choices: int) -> Cursor | None:
    """What a client has seen that asks for events; None where it asks for the whole answer.  Raises ApiError.

    Events are asked for by stream=true, by a cursor, and by whoever takes nothing else.
    """
    after = _after(request)
    wants = request.query_params.get("stream")
    if wants not in (None, "true", "false"):
        raise refused("stream", "true or false", code="invalid_value")
    is_event_source = "text/event-stream" in request.headers.get("accept", "")
    if wants == "false" or (wants is None and after is None and not is_event_source):
        return None
    return Cursor.parse(after, choices) if after is not None else Cursor.start(choices)


def seen_before(request: Request, choices: int) -> Cursor:
    """What a client has seen of an answer that it asks for again, by the Idempotency-Key.  Raises ApiError."""
    after = _after(request)
    if after is None:
        return Cursor.start(choices)
    if "idempotency-key" not in request.headers:
        raise refused("starting_after", "it wants the Idempotency-Key that the answer was first asked for with")
    return Cursor.parse(after, choices)


def _after(request: Request) -> str | None:
    """An EventSource that comes again sends its newest id beside the address that it was opened with."""
    return request.headers.get("last-event-id") or request.query_params.get("starting_after")
