"""Answers on their way to the output, in the order of the input or as they come."""

from collections.abc import Callable

from .answers import Answer


class Outbox:
    """Hands each answer on once. In order, one that comes early waits for those before it."""

    def __init__(self, write: Callable[[Answer], None], *, in_order: bool) -> None:
        self._write = write
        self._in_order = in_order
        self._early: dict[int, Answer] = {}
        self._next = 0
        self._announced = 0

    def announce(self) -> int:
        """A row more, whose answer is to come.  Returns its place."""
        self._announced += 1
        return self._announced - 1

    @property
    def open_rows(self) -> int:
        """Announced and not written."""
        return self._announced - self._next

    def put(self, place: int, answer: Answer) -> None:
        """Of that place."""
        if not self._in_order:
            self._next += 1
            self._write(answer)
            return
        self._early[place] = answer
        while self._next in self._early:
            self._next += 1
            self._write(self._early.pop(self._next - 1))
