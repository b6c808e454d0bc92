"""Where torch keeps the kernels that it compiles: a folder that this user can write to, whoever that is.

No missing home or name is to keep an engine from starting: kernels are then kept in a private folder.
"""

import getpass
import logging
import os
import tempfile
from pathlib import Path

from .private_folder import is_writable, private_folder

logger = logging.getLogger(__name__)

TORCH_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
TRITON_FOLDER = "TRITON_CACHE_DIR"


def set_up_kernel_cache() -> None:
    """Point torch and Triton elsewhere if they cannot write where they would. Call it before torch is imported."""
    folder = os.environ.get(TORCH_FOLDER) or _torchs_own()
    if folder is None or not is_writable(Path(folder)):
        _use_private_folder(TORCH_FOLDER, folder)
    folder = os.environ.get(TRITON_FOLDER)  # left alone, it is a part of torch's
    if folder and not is_writable(Path(folder)):
        _use_private_folder(TRITON_FOLDER, folder)


def _torchs_own() -> str | None:
    """What torch takes when nobody says; None where it would look for the user's name in vain."""
    try:
        return str(Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}")
    except (KeyError, OSError, ImportError):  # no such user; before Python 3.13 a KeyError
        return None


def _use_private_folder(variable: str, instead_of: str | None) -> None:
    why = f"{instead_of} cannot be written to" if instead_of else f"no user has the id {os.getuid()}"
    try:
        private = private_folder("genqueue-kernels")  # code is run from there
    except OSError as error:
        logger.warning("kernels cannot be kept: %s, and there is no temporary folder (%s)", why, error)
        return
    os.environ[variable] = str(private)
    logger.warning("compiled kernels are kept in %s, because %s: set %s to change that", private, why, variable)
