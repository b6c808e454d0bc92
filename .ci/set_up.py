"""Make the virtual environment, and say how far it is: `python3 .ci/set_up.py FOLDER`. The standard library alone.

pip is silent for minutes with --quiet, and says hundreds of lines without. Here a large package is a line, the
small ones are counted, and whatever takes longer than a few seconds is said again, with what has come of it.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TICK_S = 4.0
COLLECTING = re.compile(r"Collecting (?P<name>[\w.-]+)")
FETCHING = re.compile(
    r"\s*(?:Downloading|Using cached) (?:\S*/)?(?P<file>[^\s/]+\.(?:whl|tar\.gz))(?!\.metadata)"
    r"(?: \((?P<size>.+)\))?"
)
INSTALLING = re.compile(r"Installing collected packages: (?P<names>.+)")


class Progress:
    """One line for each step; the step of the moment again, when it takes its time."""

    def __init__(self) -> None:
        self._begun = self._said = time.monotonic()
        self._step = ""
        self._far: Callable[[], str] = str
        self._lock = threading.Lock()

    def step(self, text: str, far: Callable[[], str] = str, *, aloud: bool = True) -> None:
        """Say what begins now; or only where nothing else is said for a while, if it is not to be said aloud.

        far: how far it has come, asked while it goes on.
        """
        with self._lock:
            self._step, self._far = text, far
            if aloud:
                self._say(text)

    def tick(self) -> None:
        """Say it again, where nothing was said for a while."""
        with self._lock:
            if self._step and time.monotonic() - self._said >= TICK_S:
                self._say(f"{self._step} ... {self._far()}".rstrip(". "))

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        sys.stdout.write(f"  {self._said - self._begun:4.0f} s  {text}\n")
        sys.stdout.flush()


def main(folder: Path) -> int:
    """Returns pip's exit code."""
    packages = pinned(ROOT / "constraints.txt")
    sys.stdout.write(
        f"Setting up {folder.name}, once: about {packages} packages from PyPI. The largest is torch: 200 MB\n"
        "for a CPU; some gigabytes for CUDA, with the libraries that it brings.\n"
    )
    progress = Progress()
    over = threading.Event()
    ticking = threading.Thread(target=lambda: _tick(progress, over), daemon=True)
    ticking.start()
    try:
        progress.step("making the virtual environment")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)  # noqa: S603 - our own words
        return install(folder, packages, progress)
    finally:
        over.set()
        ticking.join()


def install(folder: Path, packages: int, progress: Progress) -> int:
    """Run pip, and put its lines into few words. What it says last is said whole if it fails."""
    downloads = folder / "downloads"
    downloads.mkdir(exist_ok=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", "--no-input", "-c", "constraints.txt", "-e", ".[dev]"]
    lines: list[str] = []
    process = subprocess.Popen(  # noqa: S603 - our own words
        command,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(downloads.resolve()), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    found = fetched = 0
    with process:
        progress.step("asking for what is needed")
        for line in process.stdout:
            lines.append(line)
            if match := COLLECTING.match(line):
                found += 1
                progress.step(f"found   {found:3} of about {packages}: {match['name']}", aloud=False)
            elif match := FETCHING.match(line):
                fetched += 1
                name, version, *_ = match["file"].split("-")
                weight = match["size"] or "of unknown size"
                progress.step(
                    f"fetched {fetched:3} of about {packages}: {name} {version}, {weight}",
                    lambda: held(downloads),
                    aloud="MB" in weight or "GB" in weight,
                )
            elif match := INSTALLING.match(line):
                count = len(match["names"].split(", "))
                progress.step(f"installing {count} packages", lambda: f"{installed(folder)} of them so far")
    code = process.returncode
    shutil.rmtree(downloads, ignore_errors=True)
    progress.step("done" if code == 0 else f"pip has failed, exit code {code}; its last lines:")
    if code != 0:
        sys.stdout.writelines(lines[-20:])
    return code


def pinned(constraints: Path) -> int:
    """How many packages it names."""
    lines = constraints.read_text(encoding="utf-8").splitlines()
    return sum(1 for line in lines if "==" in line and not line.startswith("#"))


def held(downloads: Path) -> str:
    """What pip has fetched and not yet installed."""
    size = sum(path.stat().st_size for path in downloads.rglob("*") if path.is_file())
    return f"{size / 1e6:,.0f} MB in all"


def installed(folder: Path) -> int:
    """Packages that are there, but for pip and setuptools, which came with the environment."""
    return max(0, len(list(folder.glob("lib/*/site-packages/*.dist-info"))) - 2)


def _tick(progress: Progress, over: threading.Event) -> None:
    while not over.wait(0.5):
        progress.tick()


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]).absolute()))
    except KeyboardInterrupt:
        sys.exit(130)
