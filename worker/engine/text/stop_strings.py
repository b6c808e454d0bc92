"""Stop strings on a stream of text: nothing of a match is ever shown, and nothing is held back without need."""

from collections.abc import Sequence


class StopStrings:
    """Passes text on until one of the stop strings appears in it.

    The match is the one that is complete first, the longest of those that end together: the outcome does not
    depend on how the text was cut into pieces.

    Text can be hidden, as that of special tokens that are skipped. A stop string is looked for in the text as it
    is shown, and in the text with what is hidden.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        """What could still become a match, with what is hidden."""
        self._shown: list[int] = []
        """Where in it the characters stand that are to be shown."""
        self._passed = 0
        """Length of its beginning in which no match may end."""
        self.matched: str | None = None
        """The stop string that appeared. From then on all text is swallowed."""

    def push(self, text: str, *, hidden: bool = False, counts: bool = True) -> str:
        """Take the next piece; return what may be shown: all but a match, or what could still become one.

        `counts`: whether a match may end in this piece, or is passed over as if it were not there.
        """
        if not self._stops or not text or self.matched is not None:
            return text if self.matched is None and not hidden else ""
        start = len(self._held)
        self._held += text
        if not hidden:
            self._shown.extend(range(start, len(self._held)))
        if not counts:
            self._passed = len(self._held)
        if found := min(self._matches(), default=None):
            _, cut, self.matched = found
            return self._release(cut)
        return self._release(min(self._begun_at(stop) for stop in self._stops))

    def would_match(self, text: str) -> bool:
        """Whether a match is complete with that text, shown, behind what was pushed."""
        if not self._stops or self.matched is not None:
            return False
        visible = self._visible + text
        passed = sum(place < self._passed for place in self._shown)
        return any(_find(visible, stop, passed) >= 0 for stop in self._stops)

    def flush(self) -> str:
        """What was held back, now that nothing follows it."""
        return self._release(len(self._held)) if self.matched is None else ""

    @property
    def _visible(self) -> str:
        if len(self._shown) == len(self._held):
            return self._held
        return "".join(self._held[place] for place in self._shown)

    def _matches(self) -> list[tuple[int, int, str]]:
        """(end, start, stop) of the first occurrence of each stop string: the minimum is the match."""
        found = []
        visible = self._visible
        passed = sum(place < self._passed for place in self._shown) if self._passed else 0
        for stop in self._stops:
            if (start := _find(self._held, stop, self._passed)) >= 0:
                found.append((start + len(stop), start, stop))
            if visible is not self._held and (start := _find(visible, stop, passed)) >= 0:
                found.append((self._shown[start + len(stop) - 1] + 1, self._shown[start], stop))
        return found

    def _begun_at(self, stop: str) -> int:
        """Where in the held text something stands that could still become that stop string."""
        visible = self._visible
        begun = len(self._held) - _overlap(self._held, stop)
        if visible is not self._held and (overlap := _overlap(visible, stop)):
            begun = min(begun, self._shown[len(visible) - overlap])
        return begun

    def _release(self, cut: int) -> str:
        """Let go of the held text up to there, and return what of it is to be shown."""
        count = sum(place < cut for place in self._shown)
        text = self._visible[:count]
        self._held = self._held[cut:]
        self._shown = [place - cut for place in self._shown[count:]]
        self._passed = max(self._passed - cut, 0)
        return text


def _find(text: str, stop: str, passed: int) -> int:
    """Where the first occurrence begins that ends beyond that many characters; -1 where there is none."""
    return text.find(stop, max(passed - len(stop) + 1, 0))


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop`, short of all of it, that `text` ends with."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
