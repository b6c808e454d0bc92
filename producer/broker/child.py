"""How a module of our own is started as a process of its own."""

import sys
from pathlib import Path


def module_command(module: str, *arguments: str) -> list[str]:
    """`python -m MODULE …`, found where our own modules are found.

    The current folder is a place for modules only where it is one for us: a script `worker.py` there would be run
    in place of our package.
    """
    isolated = [] if {str(Path.cwd()), ""} & {*sys.path} else ["-P"]
    return [sys.executable, *isolated, "-m", module, *arguments]
