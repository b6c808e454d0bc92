"""`python -m tests.mutation [WORD ...]`: mutmut on the modules of modules.toml, one after the other.

WORDs choose the modules whose path contains one of them. A run that was stopped goes on where it was; a module
whose text or tests have changed begins anew. Survivors are told with their change. For Lua: `tests.mutation.lua`.
The last line of stdout is one JSON object; the exit code is 1 if the score is below the goal.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .tree import ROOT, SCRATCH, copy_to

CONFIG = tomllib.loads(Path(__file__).with_name("modules.toml").read_text())
GOAL = 85.0
"""Per cent of the mutants that some test must kill."""


@dataclass
class Score:
    """What became of a module's mutants. `survivors` are changes as 'old -> new'."""

    killed: int = 0
    equivalent: int = 0
    survivors: list[str] = field(default_factory=list)

    @property
    def percent(self) -> float:
        """Of the mutants that a test could tell from the code, those that were."""
        return round(100 * self.killed / max(self.killed + len(self.survivors), 1), 1)


def modules(words: Iterable[str]) -> list[str]:
    """Paths of the modules to mutate, from the root of the checkout."""
    found = (path for package in CONFIG["packages"] for path in sorted((ROOT / package).glob("*.py")))
    paths = [str(path.relative_to(ROOT)) for path in found if path.name != "__init__.py"]
    paths = [path for path in paths if path not in CONFIG["left_out"]]
    words = list(words)
    return [path for path in paths if not words or any(word in path for word in words)]


def tests_of(module: str) -> list[str]:
    """The tests of a module: those named for it, and the file that mirrors it; else those of its package."""
    path = Path("tests/unit") / module
    mirror = path.with_name(f"test_{path.name}")
    named = [*CONFIG["tests"].get(module, []), *([str(mirror)] if (ROOT / mirror).exists() else [])]
    return named or [str(mirror.parent)]


def state_of(module: str, tests: Iterable[str]) -> str:
    """A name for the text of a module and of all that its tests are made of."""
    folders = {ROOT / "tests" / "conftest.py", ROOT / module}
    for test in tests:
        path = ROOT / test
        folders |= {path, *path.parent.glob("*.py"), *(above / "conftest.py" for above in path.parents)}
    files = {file for entry in folders for file in (entry.rglob("*.py") if entry.is_dir() else [entry])}
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file.is_relative_to(ROOT) and file.exists()):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def prepare(module: str) -> Path:
    """A copy of the checkout with mutmut's configuration for one module.  Returns its folder."""
    tests = tests_of(module)
    folder = SCRATCH / module.replace("/", ".").removesuffix(".py") / state_of(module, tests)
    for other in folder.parent.glob("*"):
        if other != folder:
            shutil.rmtree(other)
    copy_to(folder)
    # Of what mutmut copied and made before, only its verdicts on this module stay: the rest may be out of date.
    mutants = folder / "mutants"
    for path in [*mutants.rglob("*.py"), *mutants.rglob("*.lua")]:
        if path != mutants / module:
            path.unlink()
    with (folder / "pyproject.toml").open("a") as project:
        project.write(mutmut_section(module, tests))
    return folder


def mutmut_section(module: str, tests: list[str]) -> str:
    """mutmut reads one file, and has no option for these."""
    options: dict[str, Any] = {
        "source_paths": ["producer", "worker"],
        "only_mutate": [module],
        "also_copy": ["configs"],
        "pytest_add_cli_args": ["-p", "no:xdist"],
        "pytest_add_cli_args_test_selection": tests,
        "use_git_change_detection": False,
        # A mutant that waits for ever is told from a slow one by time alone: so many times what its tests take.
        "timeout_constant": 1.0,
        "timeout_multiplier": 8.0,
        # What a log line says is for people. Of a -1 in a pattern mutmut makes a +1, which is no Python.
        "do_not_mutate_patterns": [r"^\s*logger\.", r"^\s*assert ", r"^\s*case \[-"],
    }
    lines = (f"{name} = {json.dumps(value)}" for name, value in options.items())
    return "\n[tool.mutmut]\n" + "\n".join(lines) + "\n"


def mutmut(folder: Path, *arguments: str, quiet: bool = True) -> str:
    """Run mutmut in a copy.  Returns what it printed.  Raises CalledProcessError if it could not work."""
    # The copy is found first by itself, and the installed checkout last; PYTHONPATH would come between.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, check=False,
        stdout=subprocess.PIPE if quiet else sys.stderr, stderr=subprocess.STDOUT if quiet else sys.stderr,
    )  # fmt: skip
    if done.returncode:
        sys.stderr.write(done.stdout or "")
        raise subprocess.CalledProcessError(done.returncode, command)
    return done.stdout or ""


def score_of(module: str, folder: Path) -> Score:
    """Read mutmut's verdicts."""
    score = Score()
    known = equivalents(module)
    for line in mutmut(folder, "results", "--all", "true").splitlines():
        name, _, verdict = line.strip().rpartition(": ")
        if verdict in {"killed", "timeout", "segfault", "suspicious"}:
            score.killed += 1
        elif verdict in {"survived", "no tests"}:
            old, new = change_of(mutmut(folder, "show", name))
            if (old, new) in known:
                score.equivalent += 1
            else:
                score.survivors.append(f"{name}: {old}  ->  {new}" + (" (no test)" * (verdict == "no tests")))
        elif name:
            raise RuntimeError(f"{name} has no verdict but {verdict!r}: run again, it goes on where it was")
    return score


def equivalents(module: str) -> set[tuple[str, str]]:
    """The changes of a module that no test can tell from the code, as lines that go and lines that come."""
    found: set[tuple[str, str]] = set()
    for entry in (entry for entry in CONFIG.get("equivalent", []) if entry["file"] == module):
        changes = entry["new"] if isinstance(entry["new"], list) else [entry["new"]]
        found |= {(entry["old"].strip(), new.strip()) for new in changes}
    return found


def change_of(diff: str) -> tuple[str, str]:
    """The lines that a mutant takes out and puts in."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    old, new = ([line[1:].strip() for line in lines if line.startswith(sign)] for sign in "-+")
    return " ".join(old), " ".join(new)


def main() -> int:
    """Mutate module by module.  Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD")
    scores: dict[str, Score] = {}
    for module in modules(parser.parse_args().words):
        print(f"{module}: {' '.join(tests_of(module))}", file=sys.stderr, flush=True)
        folder = prepare(module)
        mutmut(folder, "run", quiet=False)
        score = scores[module] = score_of(module, folder)
        print(f"{score.percent:5.1f} %  {module}  ({score.killed} killed, {len(score.survivors)} survived)")
        for survivor in score.survivors:
            print(f"         {survivor}")
    total = Score(
        sum(score.killed for score in scores.values()),
        sum(score.equivalent for score in scores.values()),
        [survivor for score in scores.values() for survivor in score.survivors],
    )
    print(json.dumps({
        "mutants": total.killed + len(total.survivors), "killed": total.killed, "equivalent": total.equivalent,
        "score": total.percent, "modules": {module: score.percent for module, score in scores.items()},
    }))  # fmt: skip
    return 0 if total.percent >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
