"""Where torch keeps the kernels that it compiles: a folder that this user can write to, whoever that is.

Containers run under ids that no passwd file knows, without a home and over read-only folders. None of that is to
keep an engine from starting: kernels are then kept in a temporary folder of our own.
"""

import getpass
import logging
import os
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

TORCH_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
TRITON_FOLDER = "TRITON_CACHE_DIR"


def set_up_kernel_cache() -> None:
    """Point torch and Triton elsewhere if they cannot write where they would. Call it before torch is imported."""
    folder = os.environ.get(TORCH_FOLDER) or _torchs_own()
    if folder is None or not _is_writable(Path(folder)):
        _use_private_folder(TORCH_FOLDER, folder)
    folder = os.environ.get(TRITON_FOLDER)  # left alone, it is a part of torch's
    if folder and not _is_writable(Path(folder)):
        _use_private_folder(TRITON_FOLDER, folder)


def _torchs_own() -> str | None:
    """What torch takes when nobody says; None where it would look for the user's name in vain."""
    try:
        return str(Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}")
    except (KeyError, OSError, ImportError):  # no such user; before Python 3.13 a KeyError
        return None


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _use_private_folder(variable: str, instead_of: str | None) -> None:
    why = f"{instead_of} cannot be written to" if instead_of else f"no user has the id {os.getuid()}"
    try:
        private = _private_folder()
    except OSError as error:
        logger.warning("kernels cannot be kept: %s, and there is no temporary folder (%s)", why, error)
        return
    os.environ[variable] = str(private)
    logger.warning("compiled kernels are kept in %s, because %s: set %s to change that", private, why, variable)


def _private_folder() -> Path:
    """The same at every start, so that kernels are found again; a new one where somebody has taken its name."""
    folder = Path(tempfile.gettempdir()) / f"genqueue-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    # Code is run from there. In a folder that all can write to, only one that is surely ours will do.
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077 or not _is_writable(folder):
        return Path(tempfile.mkdtemp(prefix="genqueue-kernels-"))
    return folder
