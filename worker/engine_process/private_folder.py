"""Folders of this user's own beside other temporary files, whoever the user is: containers run under ids that no
passwd file knows, without a home and over read-only folders."""

import os
import stat
import tempfile
from pathlib import Path


def private_folder(name: str) -> Path:
    """The same at every start, so that what was left there is found; a new one where somebody has taken its name.

    Raises OSError where there is no place for temporary files.
    """
    folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if not is_ours_alone(folder) or not is_writable(folder):
        return Path(tempfile.mkdtemp(prefix=f"{name}-"))
    return folder


def is_ours_alone(folder: Path) -> bool:
    """Whether nobody else can have made it, or write to it: for a folder among those of all users."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def is_writable(folder: Path) -> bool:
    """Whether files can be made there; the folder is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
