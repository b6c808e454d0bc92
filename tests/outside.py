"""Programs that tests want and this project does not install: named where they are missing."""

import os
import shutil
from typing import NoReturn

import pytest


def need(*names: str, install: str) -> str:
    """The path of the first of these programs that is there; else the test is skipped, and on CI has failed.

    install: what brings it, as `apt-get install -y openssl`
    """
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        lack(f"no {names[0]} on the PATH: {install}")
    return found


def lack(hint: str) -> NoReturn:
    """Skip the test, or on CI fail it.  hint: what is missing, and what brings it."""
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(hint)
    pytest.skip(hint)
