"""Where there is nothing to print to."""

import subprocess
import sys

PROGRAM = """
import os, sys
from producer.printable import open_what_is_closed
open_what_is_closed()
print("lost")
print("lost", file=sys.stderr, flush=True)
assert os.open(os.devnull, os.O_RDONLY) > 2, "a socket would hear of it"
"""


def test_a_stream_that_the_shell_has_closed_is_there() -> None:
    """What a library wrote to stderr went to whatever was opened first: to the socket to Redis."""
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, PROGRAM]
        assert subprocess.run(command, check=False).returncode == 0, closed
