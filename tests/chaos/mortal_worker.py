"""The real worker, which strikes itself with a signal when it comes to a chosen point for the nth time.

The points lie between two steps that a signal from outside hits only by luck. Nothing in `worker` knows of them:
the methods on both sides are wrapped here. Before it strikes, the worker writes the moment to a file.

    python -m tests.chaos.mortal_worker SIGKILL POINT NTH FILE run --model-name tiny …
"""

import functools
import inspect
import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker.cli import main
from worker.queue.rq_worker import GenerationWorker
from worker.queue.sweeping import Sweeper
from worker.registering import Registrar
from worker.run.attempt import Attempt
from worker.run.event_log import EventLog
from worker.run.runner import Runner
from worker.run.turn import Turn

POINTS: dict[str, tuple[type, str, bool]] = {
    "between pop and start": (Runner, "run", False),
    "before RQ hears of the start": (GenerationWorker, "begin", False),
    "after RQ has heard of the start": (GenerationWorker, "begin", True),
    "mid-prefill": (Attempt, "_accept", True),
    "between a token and its append": (EventLog, "_send", False),
    "between an append and its answer": (EventLog, "_send", True),
    "before a job is parked": (Turn, "take_away", False),
    "after a job is parked": (Turn, "take_away", True),
    "before it stands that a job is parked": (Runner, "note_parked", False),
    "before a parked job goes on": (Turn, "give_back", False),
    "after a parked job goes on": (Turn, "give_back", True),
    "between the end and RQ's bookkeeping": (Registrar, "_register", False),
    "between RQ's bookkeeping and putting down": (GenerationWorker, "succeed", True),
    "during the sweep, before a job is put back": (Sweeper, "_sweep_list", False),
    "during the sweep, after a job is put back": (Sweeper, "_sweep_list", True),
    "during the sweep, before an end is settled": (Sweeper, "_settle", False),
    "during the sweep, after an end is settled": (Sweeper, "_settle", True),
}
"""Each point: a method, and whether it lies after the call or before it."""


class Fate:
    """Decides when, and strikes."""

    def __init__(self, number: signal.Signals, point: str, nth: int, note: Path) -> None:
        self.number, self.point, self.left, self.note = number, point, nth, note

    def arrive(self) -> None:
        """The point has been reached once more."""
        self.left -= 1
        if self.left == 0:
            self.note.write_text(json.dumps({"point": self.point, "at": time.monotonic()}))
            # This very thread: a signal to the process would let it run on until another thread has heard it.
            signal.pthread_kill(threading.get_ident(), self.number)


def arm(fate: Fate) -> None:
    """Wrap the method of the fate's point."""
    owner, name, after = POINTS[fate.point]
    method: Callable[..., Any] = getattr(owner, name)
    wrap = _wrapped_async if inspect.iscoroutinefunction(method) else _wrapped
    setattr(owner, name, wrap(method, fate, after))


def _wrapped(method: Callable[..., Any], fate: Fate, after: bool) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not after:
            fate.arrive()
        answer = method(*args, **kwargs)
        if after:
            fate.arrive()
        return answer

    return call


def _wrapped_async(method: Callable[..., Any], fate: Fate, after: bool) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(*args: Any, **kwargs: Any) -> Any:
        if not after:
            fate.arrive()
        answer = await method(*args, **kwargs)
        if after:
            fate.arrive()
        return answer

    return call


if __name__ == "__main__":
    number, point, nth, note = sys.argv[1:5]
    arm(Fate(signal.Signals[number], point, int(nth), Path(note)))
    sys.argv[1:5] = []
    main()
