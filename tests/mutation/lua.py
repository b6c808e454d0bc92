"""`python -m tests.mutation.lua [WORD ...]`: puts listed faults into Lua scripts, and sees the listed test fail.

Each edit is made on a copy of the checkout. WORDs choose the edits whose file or fault contains one of them. The
last line of stdout is one JSON object; the exit code is 1 unless every edit was killed.
"""

import argparse
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .tree import SCRATCH, copy_to

EDITS = Path(__file__).with_name("lua_edits.toml")
TREE = SCRATCH / "lua"
TIMEOUT_S = 300
"""Of one test. A fault that makes it hang is seen, too."""

Verdict = Literal["killed", "survived", "stale", "broken"]
"""stale: the script does not have that text once. broken: the test is not there, or fails without the edit."""


@dataclass(frozen=True)
class Edit:
    """One fault, as in lua_edits.toml."""

    file: str
    old: str
    new: str
    test: str
    fault: str

    def __post_init__(self) -> None:
        assert self.old.strip(), f"{self.fault}: `old` is empty"
        assert self.old != self.new, f"{self.fault}: `old` and `new` are the same"

    def apply(self, root: Path) -> str | None:
        """Put the fault in.  Returns the text as it was, or None if this edit fits it no more."""
        script = root / self.file
        text = script.read_text() if script.exists() else ""
        if text.count(self.old) != 1:
            return None
        script.write_text(text.replace(self.old, self.new))
        return text


def read_edits(path: Path = EDITS) -> list[Edit]:
    """The edits of a file.  Raises TypeError where one has a field too many or too few."""
    return [Edit(**entry) for entry in tomllib.loads(path.read_text())["edit"]]


def passes(root: Path, tests: Iterable[str]) -> bool | None:
    """Whether tests pass in a copy of the checkout; None if pytest could not run them."""
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:xdist", *tests]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return {0: True, 1: False}.get(done.returncode)


def judge(edit: Edit, root: Path) -> Verdict:
    """Put the fault in, run its test, and take the fault out again."""
    if not passes(root, [edit.test]):
        return "broken"
    original = edit.apply(root)
    if original is None:
        return "stale"
    try:
        return {True: "survived", False: "killed", None: "broken"}[passes(root, [edit.test])]  # type: ignore[return-value]
    finally:
        (root / edit.file).write_text(original)


def main() -> int:
    """Judge every edit.  Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.lua", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD")
    words = parser.parse_args().words
    edits = [edit for edit in read_edits() if not words or any(word in edit.file + edit.fault for word in words)]
    copy_to(TREE)
    verdicts: dict[str, list[str]] = {verdict: [] for verdict in ("killed", "survived", "stale", "broken")}
    for edit in edits:
        verdict = judge(edit, TREE)
        verdicts[verdict].append(edit.fault)
        print(f"{verdict:8} {edit.file}: {edit.fault} ({edit.test})", flush=True)
    killed = len(verdicts["killed"])
    score = round(100 * killed / max(len(edits), 1), 1)
    print(json.dumps({"edits": len(edits), "killed": killed, "score": score, **{
        verdict: faults for verdict, faults in verdicts.items() if verdict != "killed"
    }}))  # fmt: skip
    return 0 if killed == len(edits) else 1


if __name__ == "__main__":
    sys.exit(main())
