"""The live subscribers of the storm: processes that follow every job, and what they saw."""

import random
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple, Self

from .checker import Entry
from .subscriber import read_log

SUBSCRIBERS = ("raw", "client", "client")


class Seen(NamedTuple):
    """An event as a live subscriber saw it."""

    entry: Entry
    at: float


class Watchers:
    """The live subscribers: processes that are told of each job, and their logs."""

    def __init__(self, url: str, folder: Path, rng: random.Random) -> None:
        self.logs = {
            f"{kind} {number}": folder / f"{kind}-{number}.log" for number, kind in enumerate(SUBSCRIBERS)
        }
        self._processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.chaos.subscriber",
                    name.split()[0],
                    url,
                    str(log),
                    str(rng.random()),
                ],
                stdin=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for name, log in self.logs.items()
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def tell(self, job_id: str) -> None:
        """Let them follow one job more."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(job_id + "\n")
            process.stdin.flush()

    def collect(self, timeout_s: float) -> dict[str, dict[str, list[Seen]]]:
        """What each saw of each job, once they have seen every end; less, where one does not come to that."""
        deadline = time.monotonic() + timeout_s
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
        return {name: _by_job(log) for name, log in self.logs.items()}


def _by_job(log: Path) -> dict[str, list[Seen]]:
    seen: dict[str, list[Seen]] = defaultdict(list)
    for line in read_log(log):
        seen[line["job"]].append(Seen(Entry(line["id"], line["type"], line["data"]), line["at"]))
    return seen
