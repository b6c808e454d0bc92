"""What the worker's log shows of RQ."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import logging, sys
from worker import logs
before, level = sys.argv[1:]
if before == "before":
    logs.configure(level)
import rq.worker
if before == "after":
    logs.configure(level)
names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "rq"]
assert len(names) > 3
print(*(name for name in names if logging.getLogger(name).isEnabledFor(logging.INFO)))
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("level", ["debug", "error"])
def test_rqs_steps_are_muted_whichever_comes_first_the_level_or_rqs_worker(when, level):
    """In a fresh process: RQ sets a level where none stands, and when it is imported."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, when, level], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"
