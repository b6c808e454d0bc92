"""Runs the cells of a notebook as Jupyter's kernel does: one IPython shell, and one event loop for all of them.

python notebook.py CELLS    a JSON list of the cells; each one's value is printed, as below a cell
"""

import asyncio
import json
import sys
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell


async def run(cells: list[str]) -> None:
    """Run them in order.  Raises what a cell raises."""
    shell = InteractiveShell.instance()
    for cell in cells:
        transformed = shell.transform_cell(cell)
        (await shell.run_cell_async(cell, transformed_cell=transformed)).raise_error()


if __name__ == "__main__":
    asyncio.run(run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
