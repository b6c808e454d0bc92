"""`python -m worker`."""

import sys
from importlib.util import find_spec

spec = find_spec("producer")
if spec is not None and spec.submodule_search_locations is None:
    # In a folder with a script of that name. (One that is called worker.py would be running in place of this.)
    sys.exit(f"error: {spec.origin} hides genqueue's own package `producer`: give that file another name")

from .cli import main  # noqa: E402 - it imports `producer`

main()
