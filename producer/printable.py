"""Text that anybody may have written, for a terminal."""


def printable(text: str) -> str:
    """The text without what a terminal would obey: control characters other than line breaks and tabs."""
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)
