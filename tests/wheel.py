"""This project's wheel, and an environment that has nothing but it and what it asks for. Without a network."""

import shutil
import subprocess
import sys
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def build(folder: Path) -> Path:
    """Build it in the folder. Where this environment cannot, the test is skipped."""
    pytest.importorskip("setuptools", minversion="77")
    pytest.importorskip("pip")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in ("producer", "worker"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True, capture_output=True, cwd=folder)
    [wheel] = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path, extra: str) -> None:
    """Have the folder hold what `pip install WHEEL[EXTRA]` brings, and no other package that is installed here."""
    ZipFile(wheel).extractall(folder)
    [metadata] = folder.glob("*.dist-info")
    to_do: list[tuple[Distribution, set[str]]] = [(PathDistribution(metadata), {extra})]
    done: set[tuple[str, str]] = set()
    while to_do:
        dist, extras = to_do.pop()
        for requirement in map(Requirement, dist.requires or ()):
            marker = requirement.marker
            if marker is not None and not any(marker.evaluate({"extra": name}) for name in extras | {""}):
                continue
            wanted = {(requirement.name, name) for name in requirement.extras | {""}}
            if wanted <= done:
                continue
            done |= wanted
            found = distribution(requirement.name)
            _link(found, folder)
            to_do.append((found, set(requirement.extras)))


def _link(dist: Distribution, folder: Path) -> None:
    tops = {path.parts[0] for path in dist.files or () if path.parts[0] not in {"..", "__pycache__"}}
    for top in tops:
        place = folder / top
        if not place.exists():
            place.symlink_to(Path(str(dist.locate_file(top))).resolve())
