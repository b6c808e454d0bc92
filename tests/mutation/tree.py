"""Copies of the checkout, so that nothing is mutated in place and a run that is killed leaves no trace."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRATCH = ROOT / ".cache" / "mutation"
COPIED = ("producer", "worker", "tests", "configs", "pyproject.toml")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "benchmarks")


def copy_to(target: Path) -> None:
    """Lay what tests need into `target`, over what is there; times of change are kept."""
    target.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        source = ROOT / name
        shutil.rmtree(target / name, ignore_errors=True)
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=_LEFT_OUT)
        else:
            shutil.copy2(source, target / name)
