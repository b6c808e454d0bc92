"""An answer's parts as they are found, with the white space that belongs to none of them left out."""

from collections.abc import Iterator
from itertools import groupby
from typing import Literal, NamedTuple

_SPACE = " \t\r\n"


class Part(NamedTuple):
    """A piece of one part."""

    kind: Literal["content", "reasoning", "name", "arguments"]
    text: str
    call: int = 0
    """Which call, of a name and of arguments."""


class Draft:
    """Takes pieces; gives each once.

    White space beside a call, and around the reasoning, is markup. Content that has neither is all of the text.
    """

    def __init__(self) -> None:
        self._new: list[Part] = []
        self._space = ""
        """Behind the last content: content, too, if more of it comes."""
        self._thought_space = ""
        self._has_content = False
        self._has_thought = False
        self._is_marked = False
        """Whether a call or the reasoning came behind the last content."""
        self._calls = 0

    def content(self, text: str) -> None:
        """More that is said."""
        rest = text.lstrip(_SPACE)
        body = rest.rstrip(_SPACE)
        if not body:
            self._space += text
            return
        space = self._space + text[: len(text) - len(rest)]
        begins = self._is_marked and not self._has_content
        self._new.append(Part("content", body if begins else space + body))
        self._space = rest[len(body) :]
        self._has_content, self._is_marked = True, False

    def reasoning(self, text: str) -> None:
        """More that is thought."""
        rest = text.lstrip(_SPACE)
        body = rest.rstrip(_SPACE)
        self._thought_space += text[: len(text) - len(rest)]
        if body:
            self._new.append(Part("reasoning", (self._thought_space if self._has_thought else "") + body))
            self._thought_space, self._has_thought = rest[len(body) :], True

    def mark(self) -> None:
        """What stands here is no content."""
        self._space, self._is_marked = "", True

    def call(self, name: str) -> None:
        """A call begins."""
        self.mark()
        self._new.append(Part("name", name, self._calls))
        self._calls += 1

    def arguments(self, text: str) -> None:
        """More of the arguments of the call that began last."""
        self._new.append(Part("arguments", text, self._calls - 1))

    def end(self) -> None:
        """Nothing follows."""
        if self._space and not self._is_marked:
            self._new.append(Part("content", self._space))
            self._space = ""

    def take_new(self) -> Iterator[Part]:
        """What has come since the last time, pieces of one part as one."""
        new, self._new = self._new, []
        for (kind, call), pieces in groupby(new, key=lambda part: (part.kind, part.call)):
            yield Part(kind, "".join(piece.text for piece in pieces), call)
