"""An engine's process with numbers: Python imports this at its start where this folder is on PYTHONPATH."""

import sys

if "worker.engine_process.server" in sys.orig_argv:
    from tests.cuda.numbers import Numbers

    Numbers().__enter__()
