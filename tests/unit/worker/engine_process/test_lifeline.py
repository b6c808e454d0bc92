"""Real processes: a worker, the engine that it starts, and a compiler that the engine starts.

Each holds the writing end of the worker's stdout: it is at its end when all of them are gone.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from worker.engine_process.lifeline import WORKERS_BUSINESS, signals_blocked

TIMEOUT_S = 60

ENGINE = """
import os, subprocess, sys, threading
from worker.engine_process import lifeline
lifeline.ignore_signals()
lifeline.end_group_with_this_process()
lifeline.{tie}(int(sys.argv[1]))
subprocess.Popen(["sleep", "600"])
print(os.getpid(), flush=True)
while True:
    print(sys.stdin.readline(), end="", flush=True)
"""
LOOKING = ENGINE.replace(
    "lifeline.{tie}(int(sys.argv[1]))",
    """
threading.Thread(target=lifeline.end_after, args=(int(sys.argv[1]),), daemon=True).start()
""",
)
WORKER = """
import os, subprocess, sys
from worker.engine_process.lifeline import signals_blocked
with signals_blocked():
    engine = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], start_new_session=True)
engine.wait()
"""
TIES = {"told by the kernel": ENGINE.format(tie="end_with_parent"), "looking": LOOKING}


class Family:
    """A worker, and the engine that it has started."""

    def __init__(self, engine: str) -> None:
        self.worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self.worker.stdout is not None
        self.engine_pid = int(self.worker.stdout.readline())

    def echo(self, text: str) -> str:
        """What the engine, if it lives, says to that."""
        self.worker.stdin.write(f"{text}\n")
        self.worker.stdin.flush()
        return self.worker.stdout.readline().strip()

    def wait_until_all_are_gone(self) -> None:
        self.worker.communicate(timeout=TIMEOUT_S)


@pytest.fixture(params=TIES)
def family(request) -> Iterator[Family]:
    family = Family(TIES[request.param])
    yield family
    for end in (lambda: os.killpg(family.engine_pid, signal.SIGKILL), family.worker.kill):
        with contextlib.suppress(ProcessLookupError):
            end()
    family.worker.communicate(timeout=TIMEOUT_S)


def test_a_killed_worker_takes_its_engine_along_and_what_that_has_started(family):
    family.worker.kill()
    family.wait_until_all_are_gone()


def test_an_engine_that_dies_takes_along_what_it_has_started(family):
    os.kill(family.engine_pid, signal.SIGKILL)
    family.wait_until_all_are_gone()


def test_what_tells_the_worker_to_stop_does_not_end_the_engine(family):
    for number in WORKERS_BUSINESS:
        os.killpg(family.engine_pid, number)
        assert family.echo(number.name) == number.name


def test_a_worker_that_died_before_the_engine_was_tied_is_not_waited_for():
    engine = subprocess.Popen(
        [sys.executable, "-c", TIES["told by the kernel"], "1"],  # which is not the one that starts it
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    said, _ = engine.communicate(timeout=TIMEOUT_S)
    assert (said, engine.returncode) == (b"", -signal.SIGKILL)


def test_signals_are_blocked_until_the_engine_has_been_started():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with signals_blocked():
        assert set(WORKERS_BUSINESS) <= signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_starts_that_overlap_leave_no_signal_blocked():
    """A worker that came out of it so could not be told to stop."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    first, second = signals_blocked(), signals_blocked()
    for start in (first, second):
        start.__enter__()
    for start in (first, second):
        start.__exit__(None, None, None)
    left = signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert left == before
