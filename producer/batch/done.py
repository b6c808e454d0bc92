"""Which lines of the input have their answer: four bytes a line, however long the file."""

from array import array

from ..contract import GenqueueError
from .identity import JobName

_MAX_LINE = 2**30
"""Beyond, a number in an output is none of ours."""


class Done:
    """Lines, each with a part of the digest of what stood there."""

    def __init__(self) -> None:
        self._checks = array("I")
        self.rows = 0
        self.failed = 0
        """Of these rows, those whose answer is an error."""

    def add(self, name: JobName, *, failed: bool) -> None:
        """A line of the output.  Raises GenqueueError for one that cannot be ours, or was there before."""
        if not 0 < name.line < _MAX_LINE:
            raise GenqueueError(f"it answers line {name.line}")
        missing = name.line + 1 - len(self._checks)
        if missing > 0:
            self._checks.frombytes(bytes(self._checks.itemsize * missing))
        if self._checks[name.line]:
            raise GenqueueError(f"line {name.line} of the input is answered there a second time")
        self._checks[name.line] = _check(name)
        self.rows += 1
        self.failed += failed

    def has(self, name: JobName) -> bool:
        """Whether that row is done.  Raises GenqueueError where another row was done in its place."""
        check = self._checks[name.line] if name.line < len(self._checks) else 0
        if check and check != _check(name):
            raise GenqueueError(
                f"line {name.line} of the input is not what it was when the output was begun: give another output"
            )
        return bool(check)

    def check_end(self, last_line: int) -> None:
        """Raises GenqueueError where a line beyond the input's last is done: it was cut since."""
        if len(self._checks) - 1 > last_line:
            raise GenqueueError(
                f"line {len(self._checks) - 1} of the input is not there any more, and the output answers it: "
                "give another output"
            )


def _check(name: JobName) -> int:
    return int(name.content[:8], 16) | 1
