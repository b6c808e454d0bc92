"""Runs a command that ends with the process that starts it: `python -IS tied.py PID SIGNAL COMMAND…`.

A process that is killed ends nothing that it has started. What is to end all the same asks for a signal at the
other's death before it becomes the command. Run by its path, it imports nothing of ours, and costs milliseconds.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time

LOOK_S = 1.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def ask_for_signal(number: int) -> None:
    """Have the kernel send it when the thread that started this process ends. Linux only; `exec` keeps it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def become(parent_pid: int, number: int, command: list[str]) -> None:
    """Become the command, which gets the signal once the parent is gone.

    parent_pid: from the parent: it may have died before this was called.
    """
    if sys.platform == "linux":
        ask_for_signal(number)
    elif os.fork() == 0:
        send_after(parent_pid, number)
        os._exit(0)
    if os.getppid() != parent_pid:
        sys.exit(f"{command[0]} was to end with process {parent_pid}, which is no more")
    for name in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(name, signal.SIG_DFL)  # which Python ignores, and a command would inherit
    os.execv(command[0], command)  # noqa: S606 - it is ours


def send_after(watched_pid: int, number: int) -> None:
    """Look at a process now and then, and send the signal to our parent once it is gone: where no kernel does."""
    parent_pid = os.getppid()
    while os.getppid() == parent_pid:
        try:
            os.kill(watched_pid, 0)
        except ProcessLookupError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(parent_pid, number)
            return
        time.sleep(LOOK_S)


if __name__ == "__main__":
    become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
