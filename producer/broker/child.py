"""How a process of our own is started: a module of ours, and one that ends with us."""

import os
import signal
import sys
import threading
from pathlib import Path

from . import tied


def module_command(module: str, *arguments: str) -> list[str]:
    """`python -m MODULE …`, found where our own modules are found.

    The current folder is a place for modules only where it is one for us: a script `worker.py` there would be run
    in place of our package.
    """
    isolated = [] if {str(Path.cwd()), ""} & {*sys.path} else ["-P"]
    return [sys.executable, *isolated, "-m", module, *arguments]


def tied_command(command: list[str], number: int = signal.SIGTERM) -> list[str]:
    """The command, so that it gets the signal when this process ends, also where that is killed.

    The kernel means the thread that starts it. One that is not the main thread may end early: the command is not
    tied to it.
    """
    if threading.current_thread() is not threading.main_thread():
        return command
    return [sys.executable, "-IS", tied.__file__, str(os.getpid()), str(int(number)), *command]
