"""The pytest plugin.

pytest loads it wherever genqueue is installed: nothing is imported before the fixture is used.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .worker import ScriptedWorker


@pytest.fixture
def genqueue_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator["ScriptedWorker"]:
    """A worker that answers as the test says, on a Redis in memory.

    Until the test ends, `Producer()` and `AsyncProducer()` without a URL reach it, in this process: both
    GENQUEUE_REDIS_URL and REDIS_URL lead there, so that no test reaches a real server by mistake.
    """
    from .worker import scripted_worker  # noqa: PLC0415 - nothing is imported before it is used

    with scripted_worker() as worker:
        for name in ("GENQUEUE_REDIS_URL", "REDIS_URL"):
            monkeypatch.setenv(name, worker.url)
        yield worker
