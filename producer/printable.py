"""Text that anybody may have written, for a terminal; and that there is something to print to."""

import os
import sys


def open_what_is_closed() -> None:
    """A shell may have closed stdout or stderr (`>&-`): Python has none, and a socket may get its number."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            setattr(sys, name, os.fdopen(number, "w", closefd=False, encoding="utf-8"))


def printable(text: str) -> str:
    """The text without what a terminal would obey: control characters other than line breaks and tabs."""
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)
