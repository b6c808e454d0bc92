"""Paces the engine of any checkout of this project, as a device would that takes so long a step.

Python imports a module of this name at its start, where its folder is in PYTHONPATH. With PACED_STEP_MS set, a
token is there that long after the one before it, or after its step was launched, whichever is later. The next step
is launched before it is read, as on a GPU, so that what the host does meanwhile is hidden where it would be there.
PACED_TRACE names a file that gets the times at which tokens were read, `time.monotonic()` seconds, a line a job.
"""

import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from functools import partial, partialmethod
from pathlib import Path
from types import ModuleType

RING, ENGINE = "worker.engine.token_ring", "worker.engine.engine"


def pace_ring(module: ModuleType) -> None:
    """Let tokens come at the pace of the device."""
    step_s = float(os.environ["PACED_STEP_MS"]) / 1000
    trace = os.environ.get("PACED_TRACE")

    class PacedRing(module.TokenRing):  # type: ignore[name-defined, misc]
        def __init__(self, device: object) -> None:
            super().__init__(device)
            self._there_at: list[float] = []
            self._last = 0.0
            self._read_at: list[float] = []

        def push(self, token: object) -> None:
            self._last = max(self._last, time.monotonic()) + step_s
            self._there_at.append(self._last)
            super().push(token)

        def pop(self) -> int:
            wait_s = self._there_at.pop(0) - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            token = int(super().pop())
            self._read_at.append(time.monotonic())
            return token

        def __del__(self) -> None:
            if trace and self._read_at:
                with Path(trace).open("a") as file:
                    file.write(json.dumps(self._read_at) + "\n")

    module.TokenRing = PacedRing  # type: ignore[attr-defined]


def run_ahead(module: ModuleType) -> None:
    """As on a GPU."""
    module.Engine.__init__ = partialmethod(module.Engine.__init__, lookahead=1)  # type: ignore[attr-defined]


class Pacer(importlib.abc.MetaPathFinder):
    """Changes two modules right after they were imported."""

    changes = {RING: pace_ring, ENGINE: run_ahead}  # noqa: RUF012

    def find_spec(self, name: str, path: object, target: object = None) -> object:  # type: ignore[override]
        """Of the two, with a loader that changes them."""
        change = self.changes.get(name)
        if change is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)  # type: ignore[arg-type]
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = partial(self._run, spec.loader.exec_module, change)  # type: ignore[method-assign]
        return spec

    @staticmethod
    def _run(execute: object, change: object, module: ModuleType) -> None:
        execute(module)  # type: ignore[operator]
        change(module)  # type: ignore[operator]


if "PACED_STEP_MS" in os.environ:
    sys.meta_path.insert(0, Pacer())
