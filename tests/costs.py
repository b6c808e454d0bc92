"""`python -m tests.costs [PYTEST ARGUMENT ...]`: what each test file costs, in processor time and by the clock.

Processor time hangs little on what else the machine does, and is what `make test` is made of: a process that is
started counts for the file that starts it, and so does what that leaves behind, as a killed worker its engine. By
the clock a file may take longer, as its tests wait. One file after another; on Linux.
"""

import ctypes
import json
import os
import select
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

MARKS = "GENQUEUE_TEST_MARKS"
"""The descriptor to which the tests' process writes a line after each test."""
PR_SET_CHILD_SUBREAPER = 36
COLLECTING = "(importing and collecting)"


@dataclass
class Cost:
    """Of one file."""

    processor_s: float = 0.0
    clock_s: float = 0.0
    tests: int = 0


# -- in the tests' process, as a plugin


def pytest_collection_finish() -> None:
    """All is imported."""
    _mark(COLLECTING)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """After the test, and after what is taken down with it."""
    try:
        return (yield)
    finally:
        _mark(str(item.path.relative_to(item.config.rootpath)))


def _mark(file: str) -> None:
    line = json.dumps([file, sum(os.times()[:4]), time.monotonic()]) + "\n"
    os.write(int(os.environ[MARKS]), line.encode())


# -- in ours


def measure(arguments: list[str]) -> tuple[int, dict[str, Cost]]:
    """Run pytest.  Returns its exit code, and what each file has cost."""
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError("orphans cannot be adopted here: their time would be nobody's")
    costs: dict[str, Cost] = defaultdict(Cost)
    marks, theirs = os.pipe()
    command = [sys.executable, "-m", "pytest", "-p", "tests.costs", "-p", "no:xdist", *arguments]
    process = subprocess.Popen(command, pass_fds=[theirs], env={**os.environ, MARKS: str(theirs)})
    os.close(theirs)
    orphans_s, used_s, at, code, partial, file = 0.0, 0.0, time.monotonic(), None, b"", COLLECTING
    while code is None:
        if select.select([marks], [], [], 0.05)[0] and (read := os.read(marks, 1 << 16)):
            *lines, partial = (partial + read).split(b"\n")
            for file, used_by_now_s, now in map(json.loads, lines):
                cost = costs[file]
                cost.processor_s += used_by_now_s - used_s + orphans_s
                cost.clock_s += now - at
                cost.tests += file != COLLECTING
                orphans_s, used_s, at = 0.0, used_by_now_s, now
        for pid, status, seconds in _ended():
            if pid == process.pid:
                code = process.returncode = os.waitstatus_to_exitcode(status)
            else:
                orphans_s += seconds
    costs[file].processor_s += orphans_s
    return code, costs


def _ended() -> Iterator[tuple[int, int, float]]:
    """Process id, status and processor time of each child, adopted ones too, that has ended."""
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status, usage.ru_utime + usage.ru_stime


def main() -> int:
    """Show the table, dearest first.  Returns pytest's exit code."""
    code, costs = measure(sys.argv[1:] or ["-q", "-m", "not long and not matrix"])
    print(f"\n{'processor':>9} {'clock':>7} {'tests':>5}")
    for file, cost in sorted(costs.items(), key=lambda item: -item[1].processor_s):
        print(f"{cost.processor_s:7.1f} s {cost.clock_s:5.0f} s {cost.tests:5}  {file}")
    total_s = sum(cost.processor_s for cost in costs.values())
    print(f"{total_s:7.1f} s {sum(cost.clock_s for cost in costs.values()):5.0f} s        in all")
    return code


if __name__ == "__main__":
    sys.exit(main())
