"""Ties the engine to the worker that started it, and what the engine has started to the engine.

An engine ends when its worker closes it, and when its worker dies. A worker that is killed closes nothing: without
this, its engine would go on until its next look at the socket, which may be minutes of compiling away, and hold
the device as long. It ends for no other reason: a supervisor that signals the whole group (systemd does) must not
take the engine from a worker that is finishing its last job.

Knows processes and signals alone, so that nothing slow has to be imported before the engine is tied.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

from producer.broker.tied import ask_for_signal

WORKERS_BUSINESS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that tell the worker to stop, and that the engine is deaf to."""
LOOK_S = 1.0


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """For starting an engine: it inherits the mask, and so no signal can end it before `ignore_signals`.

    Starts may overlap, as asyncio goes on once a process is there: each lets through what it has blocked.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WORKERS_BUSINESS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, set(WORKERS_BUSINESS) - before)


def ignore_signals() -> None:
    """Be deaf to whatever tells the worker to stop."""
    for number in WORKERS_BUSINESS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WORKERS_BUSINESS)


def end_with_parent(parent_pid: int) -> None:
    """Have this process killed when the thread of the parent that started it ends.

    parent_pid: of the worker, from the worker: it may have died before this was called.
    """
    if sys.platform == "linux":
        ask_for_signal(signal.SIGKILL)
        if os.getppid() != parent_pid:
            _end()
    else:
        threading.Thread(target=end_after, args=(parent_pid,), name="lifeline", daemon=True).start()


def end_after(parent_pid: int) -> None:
    """Look at the parent now and then, and end with it: for systems that send no signal of its death."""
    while os.getppid() == parent_pid:
        time.sleep(LOOK_S)
    _end()


def end_group_with_this_process() -> None:
    """Have a process that only waits for our end kill what is then left of our group, such as a compiler.

    To be called before any thread is started. It holds nothing of ours but the pipe, not even stderr.
    """
    ours_ends, _ = os.pipe()  # the other end stays open until this process is no more, and no child inherits it
    if os.fork():
        os.close(ours_ends)
        return
    try:
        os.dup2(ours_ends, 0)
        os.closerange(1, os.sysconf("SC_OPEN_MAX"))
        os.read(0, 1)
    finally:
        _end()


def _end() -> None:
    """End our whole group, ourselves included. It is ours alone: an engine is started in a session of its own."""
    os.killpg(0, signal.SIGKILL)
