"""Which workers of this host are dead, whatever Redis says: each keeps a lock for as long as its process lives.

The kernel takes the lock back when the process has ended, however it ended, and not before: a worker that is
stopped, hangs, or has lost Redis keeps it. Nothing is compared that two hosts, containers or boots may share, such
as process ids: a worker makes its file itself, under a name that no other start has, and who sees no file knows
nothing. The files lie in memory, so that neither a copy of a disk nor an image of a container brings one along
without its lock. Knows files, and neither Redis nor what is done about the dead.
"""

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from .engine_process.private_folder import is_ours_alone

logger = logging.getLogger(__name__)

MEMORY = Path("/dev/shm")  # noqa: S108 - not a temporary file: the one folder in memory that all processes share
MOUNTS = Path("/proc/self/mounts")
KEEP_S = 600.0
"""A file whose process has ended, so that all who watch it have seen that, and what had arrived late is swept."""


class Lives:
    """The workers of this host and user.

    folder: where their files are; None where nothing can be known.  clock: in seconds, steady.
    """

    def __init__(self, folder: Path | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._lock: int | None = None
        self._ours: Path | None = None
        self._over_since: dict[Path, float] = {}

    @classmethod
    def of_this_host(cls) -> "Lives":
        """As far as they can be seen: workers of other users and of other containers cannot."""
        try:
            return cls(_shared_folder())
        except OSError as error:
            logger.info("that the process of another worker here has ended cannot be seen: %s", error)
            return cls(None)

    def begin(self, name: str) -> None:
        """This process is that worker until it ends. To be called before anybody has heard of it."""
        if self._folder is None:
            return
        path = _path(self._folder, name)
        new = path.with_suffix(".new")
        try:
            self._lock = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            new.rename(path)  # once it is locked: a file of that name without a lock is a death
        except OSError as error:
            logger.info("that this process has ended will not be seen by others here: %s", error)
            self.end()
        else:
            self._ours = path

    def end(self) -> None:
        """This process is no worker any more, and holds nothing that others would have to look for."""
        if self._ours is not None:
            self._ours.unlink(missing_ok=True)
            self._ours = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def is_over(self, name: str) -> bool:
        """Whether it is known that the process of that worker has ended."""
        return self._folder is not None and _has_ended(_path(self._folder, name))

    def tidy(self) -> None:
        """Remove files of processes that were seen to have ended long ago."""
        if self._folder is None:
            return
        now = self._clock()
        try:
            over = [path for path in self._folder.iterdir() if _has_ended(path)]
        except OSError:  # it was removed: logind does so once its user logs out (RemoveIPC), and nothing is known
            return
        self._over_since = {path: self._over_since.get(path, now) for path in over}
        for path, since in self._over_since.items():
            if now - since >= KEEP_S:
                with contextlib.suppress(OSError):
                    path.unlink()


def _path(folder: Path, name: str) -> Path:
    return folder / f"{quote(name, safe='', errors='surrogatepass')}.life"


def _has_ended(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):  # none there, or none that can be; or it is locked
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that look do not see each other
            return True
        finally:
            os.close(descriptor)
    return False


def _shared_folder() -> Path:
    """Raises OSError where there is none that is in memory, and this user's alone."""
    mounts = [line.split() for line in MOUNTS.read_text().splitlines()]
    kinds = [kind for _, place, kind, *_ in mounts if place == str(MEMORY)]
    if kinds[-1:] != ["tmpfs"]:
        raise OSError(f"{MEMORY} is not in memory")
    folder = MEMORY / f"genqueue-workers-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if not is_ours_alone(folder):
        raise OSError(f"{folder} is not this user's alone")
    return folder
