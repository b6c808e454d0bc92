"""The dashboard in a process of its own, as a user starts it."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def dashboard(redis_url: str) -> Iterator[str]:
    """A dashboard of all that uses RQ on that server; gives its address."""
    command = [sys.executable, "-m", "producer", "dashboard", "--all", "--port", "0", "--redis-url", redis_url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        try:
            yield process.stderr.readline().split()[-1]
        finally:
            process.terminate()
