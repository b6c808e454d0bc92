"""Stop strings on a stream of text: nothing of a match is ever shown, and nothing is held back without need."""

from collections.abc import Sequence


class StopStrings:
    """Passes text on until one of the stop strings appears in it.

    The match is the one that is complete first, the longest of those that end together: the outcome does not
    depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.matched: str | None = None
        """The stop string that appeared. From then on all text is swallowed."""

    def push(self, text: str) -> str:
        """Take the next piece; return what may be shown: all but a match, or what could still become one."""
        if not self._stops or not text or self.matched is not None:
            return text if self.matched is None else ""
        text = self._held + text
        if found := min(self._matches(text), default=None):
            _, start, self.matched = found
            self._held = ""
            return text[:start]
        cut = len(text) - max(_overlap(text, stop) for stop in self._stops)
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """What was held back, now that nothing follows it."""
        held, self._held = self._held, ""
        return held

    def _matches(self, text: str) -> list[tuple[int, int, str]]:
        """(end, start, stop) of the first occurrence of each stop string: the minimum is the match."""
        starts = [(text.find(stop), stop) for stop in self._stops]
        return [(start + len(stop), start, stop) for start, stop in starts if start >= 0]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop`, short of all of it, that `text` ends with."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
