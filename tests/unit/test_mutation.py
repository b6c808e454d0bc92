"""The list of faults for the Lua scripts fits the scripts, and a fault is judged by its test."""

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.mutation import __main__ as mutation
from tests.mutation.lua import Edit, judge, read_edits
from tests.mutation.tree import ROOT

EDITS = {edit.fault: edit for edit in read_edits()}


def names_in(node: ast.AST) -> set[str]:
    """Tests and classes of a file, as they stand in pytest's ids."""
    names = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(child.name)
        elif isinstance(child, ast.ClassDef):
            names |= {f"{child.name}::{name}" for name in names_in(child)}
    return names


@cache
def names_of(file: Path) -> set[str]:
    return names_in(ast.parse(file.read_text()))


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_listed_fault_fits_its_script_and_names_a_test(edit: Edit) -> None:
    assert (ROOT / edit.file).read_text().count(edit.old) == 1
    file, _, name = edit.test.partition("::")
    assert name.partition("[")[0] in names_of(ROOT / file)


def test_the_module_of_a_test_is_found_by_its_name() -> None:
    assert "worker/run/event_log.py" in mutation.modules(["event_log"])
    assert mutation.tests_of("producer/ledger/take.py") == ["tests/unit/producer/ledger/test_take.py"]
    assert "tests/unit/worker/run/test_refusing.py" in mutation.tests_of("worker/run/runner.py")
    assert mutation.tests_of("worker/run/no_such_module.py") == ["tests/unit/worker/run"]


def test_a_mutant_is_known_by_the_lines_that_it_changes() -> None:
    diff = "--- a.py\n+++ a.py\n@@ -1,3 +1,3 @@\n def f():\n-    return 1\n+    return 2\n"
    assert mutation.change_of(diff) == ("return 1", "return 2")


@pytest.mark.parametrize("module", sorted({entry["file"] for entry in mutation.CONFIG["equivalent"]}))
def test_a_mutant_that_is_no_fault_is_one_of_a_line_that_is_there(module: str) -> None:
    text = " ".join(line.strip() for line in (ROOT / module).read_text().splitlines())
    assert [old for old, _ in mutation.equivalents(module) if old not in text] == []


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # to load them takes longer than to run
    (tmp_path / "script.lua").write_text("return 1\n")
    (tmp_path / "test_it.py").write_text(
        "from pathlib import Path\n"
        "TEXT = Path('script.lua').read_text()\n"
        "def test_it(): assert '1' in TEXT\n"
        "def test_wrong(): assert '2' in TEXT\n"
    )
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "test", "verdict"),
    [
        ("1", "2", "test_it.py::test_it", "killed"),
        ("return 1", "return  1", "test_it.py::test_it", "survived"),
        ("return 3", "return 1", "test_it.py::test_it", "stale"),
        ("1", "2", "test_it.py::test_wrong", "broken"),
        ("1", "2", "test_it.py::no_such_test", "broken"),
    ],
)
def test_a_fault_is_judged_and_taken_out_again(tree: Path, old: str, new: str, test: str, verdict: str) -> None:
    assert judge(Edit("script.lua", old, new, test, "a fault"), tree) == verdict
    assert (tree / "script.lua").read_text() == "return 1\n"
