"""Who computes on a graphics card: each engine keeps a lock for as long as it lives, so that another one sees it.

The lock of a process that is killed is gone with it. Engines of other users and of other containers are not
seen: only the memory that they leave is. Knows files, and nothing of torch.
"""

import fcntl
import itertools
import json
import logging
import os
from pathlib import Path
from typing import NamedTuple

from .private_folder import private_folder

logger = logging.getLogger(__name__)

FOLDER = "genqueue-cards"


class Neighbour(NamedTuple):
    """Another engine on the card."""

    worker: int
    """Its process id; 0 where it has not written it yet."""
    engine: int
    model: str

    def __str__(self) -> str:
        if not self.worker:
            return "a worker that is just starting"
        return f"the worker of {self.model!r} (process {self.worker}, its engine {self.engine})"


class Place:
    """This process' place on a card, until it ends."""

    def __init__(self, card: str, ours: Neighbour) -> None:
        """card: a name that no other card has, whatever number a process sees it under."""
        self.neighbours: list[Neighbour] = []
        """Who was there already."""
        self._lock: int | None = None
        try:
            self._take(private_folder(FOLDER), card, ours)
        except OSError as error:
            logger.warning("other workers on this card cannot be seen, nor see this one: %s", error)

    def leave(self) -> None:
        """Give the place up, as the end of the process does."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take(self, folder: Path, card: str, ours: Neighbour) -> None:
        """The first place that is free. One that was left stays as a file, for whoever comes next."""
        for number in itertools.count():
            path = folder / f"{card}.{number}"
            if self._lock is not None and not path.exists():
                return
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not _try_lock(lock):
                self.neighbours.append(_read(lock))
            elif self._lock is None:
                self._lock = lock
                os.ftruncate(lock, 0)
                os.write(lock, json.dumps(ours).encode())
                continue
            os.close(lock)


def _try_lock(descriptor: int) -> bool:
    # Not `filelock`, which empties the file that it tries: the words of whoever has it would be lost.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(descriptor: int) -> Neighbour:
    try:
        worker, engine, model = json.loads(os.read(descriptor, 4096))
        return Neighbour(int(worker), int(engine), str(model))
    except (ValueError, TypeError):  # it has the place, and has not written yet
        return Neighbour(0, 0, "")
