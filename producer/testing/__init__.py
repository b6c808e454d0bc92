"""For tests of code that uses genqueue: a Redis in memory and a worker that answers as it is told.

pip install 'genqueue[testing]' gives pytest the fixture `genqueue_worker`, a `ScriptedWorker`:

    def test_my_code(genqueue_worker):
        genqueue_worker.answers("What is genqueue?", "A job queue.")
        assert my_code() == "A job queue."

No torch, no server, nothing of the worker; and nothing is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answers import Asked
    from .worker import ScriptedWorker, scripted_worker

__all__ = ["Asked", "ScriptedWorker", "scripted_worker"]

_WHERE = {"Asked": "answers", "ScriptedWorker": "worker", "scripted_worker": "worker"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)
