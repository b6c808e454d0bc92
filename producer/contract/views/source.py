"""Text that comes in pieces, for coroutines that read it as if it were whole.

A coroutine yields where it cannot go on without more. So what it finds does not depend on how the text was cut.
"""

import re
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]

_SPACE = re.compile(r"[ \t\r\n]+")


class Source:
    """Unread text, and where it ends."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._is_closed = False
        self._taken: list[str] = []

    def feed(self, text: str) -> None:
        """More has come."""
        self._text, self._at = self._text[self._at :] + text, 0

    def close(self) -> None:
        """No more will come."""
        self._is_closed = True

    def more(self) -> Steps[bool]:
        """Whether there is more to read."""
        while self._at == len(self._text):
            if self._is_closed:
                return False
            yield
        return True

    def next(self) -> Steps[str]:
        """The next character, which stays unread; "" at the end."""
        return self._text[self._at] if (yield from self.more()) else ""

    def begins(self, word: str) -> Steps[bool]:
        """Whether what comes next is that word, which stays unread."""
        while not self._text.startswith(word, self._at):
            if self._is_closed or not word.startswith(self._text[self._at :]):
                return False
            yield
        return True

    def take(self, pattern: re.Pattern[str]) -> str:
        """Read what has come already and matches; "" where nothing does. There may be more of it."""
        match = pattern.match(self._text, self._at)
        return self.skip(len(match[0])) if match else ""

    def skip(self, count: int) -> str:
        """Read so many characters, which have come already."""
        text = self._text[self._at : self._at + count]
        self._at += count
        self._taken.append(text)
        return text

    def skip_space(self) -> Steps[str]:
        """Read JSON's white space. The character behind it, which stays unread; "" at the end."""
        while (yield from self.more()) and self.take(_SPACE):
            pass
        return (yield from self.next())

    def record(self, text: str = "") -> None:
        """Remember what is read from here on, behind that text."""
        self._taken = [text]

    @property
    def recorded(self) -> str:
        """What was read since then."""
        return "".join(self._taken)
