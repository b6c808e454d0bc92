"""The table of a job's life: every script stands in it, and every row has its test."""

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

import producer.ledger

LEDGER = Path(producer.ledger.__file__).parent
TESTS = Path(__file__).parents[3]
STATES = {
    *(
        "queued",
        "deferred",
        "scheduled",
        "taken",
        "running",
        "parked",
        "ended, not registered",
        "settled",
        "claimed",
    ),
    *("expired", "cancelled", "stranded", "gone", "none"),
}


class Row(NamedTuple):
    """A transition."""

    before: str
    transition: str
    after: str
    who: str
    script: str
    test: str


def rows() -> list[Row]:
    """Of both tables."""
    lines = (LEDGER / "README.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [Row(*each) for each in cells if len(each) == len(Row._fields) and each[0] not in ("from", "---")]


def functions() -> set[str]:
    """Names of all tests of the project."""
    return {
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_script_is_in_the_table_and_every_script_of_the_table_exists():
    named = {row.script.strip("`") for row in rows()} - {"none"}
    assert named == {path.name for path in (LEDGER / "lua").glob("*.lua")} - {
        "guards.lua",
        "turns.lua",
        "files.lua",
    }


def test_every_row_has_a_test_that_exists():
    named = [row.test.strip("`") for row in rows()]
    assert len(named) > 40
    assert set(named) - functions() == set()


@pytest.mark.parametrize("state", sorted(STATES))
def test_every_state_is_entered_or_left_in_the_table(state):
    assert any(state in row.before or state in row.after for row in rows())


def test_every_row_says_who_may():
    assert all(row.who for row in rows())
