"""The tool that draws what a person sees: it runs every command there is, and finds what a program can find."""

import os
import sys

import pytest

from tests.captures.scenes import helps
from tests.captures.terminal import Capture, capture


def test_it_knows_every_command_by_clicks_own_tree() -> None:
    lines = {scene.shown_as for scene in helps()}
    assert {
        "genqueue --help",
        "genqueue submit --help",
        "genqueue-worker run --help",
        "genqueue --version",
    } <= lines


def taken(code: str, columns: int = 80) -> Capture:
    return capture([sys.executable, "-c", code], columns, os.environ, shown_as="it", until="waiting")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "faults"),
    [
        ("print('word ' * 15 + 'x' * 5)", []),
        ("print('word ' * 15 + 'xxxxx yyyyy')", []),
        ("print('word ' * 15 + 'x' * 6)", ["cut in a word: 'word word word word word xxxxx' 'x'"]),
        ("print('word ' * 15 + 'xxxxx'); print('next')", []),
        ("print('你' * 50)", []),
        ("", ["nothing is shown"]),
        ("int('x')", ["a traceback"]),
    ],
)
def test_it_finds_what_is_wrong(code: str, faults: list[str]) -> None:
    assert taken(code).faults(has_records=False) == faults


@pytest.mark.slow
def test_it_interrupts_what_would_go_on_and_answers_what_is_asked(tmp_path) -> None:
    code = "import time\ntry:\n print('waiting', flush=True); time.sleep(600)\nexcept KeyboardInterrupt:\n"
    seen = taken(code + " print(repr(input('Leave it? [leave]: ')))")
    assert (seen.exit_code, seen.text.splitlines()[-1]) == (0, "''")
    seen.save(tmp_path / "it")
    assert "(exit code 0)" in (tmp_path / "it.txt").read_text()
    assert "Leave&#160;it?" in (tmp_path / "it.dark.svg").read_text()
