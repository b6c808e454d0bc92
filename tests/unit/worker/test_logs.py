"""What the worker's log shows, and in which form."""

import json
import logging
import os
import re
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from producer.log_lines import TextFormatter
from worker.logs import complain, json_formatter

PROGRAM = """
import logging, sys
from worker import logs
before, level = sys.argv[1:]
if before == "before":
    logs.configure(level)
import rq.worker
if before == "after":
    logs.configure(level)
names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "rq"]
assert len(names) > 3
print(*(name for name in names if logging.getLogger(name).isEnabledFor(logging.INFO)))
"""

EVERYBODY = """
import logging, threading, warnings
theirs = logging.getLogger("transformers")
theirs.addHandler(logging.StreamHandler())
theirs.propagate = False
from worker import logs
from worker.progress import ShownProgress
logs.configure("info", "json")
logs.adopt()
theirs.warning("of a library")
logging.getLogger("worker.service").info("of ours", extra={"job_id": "a"})
warnings.warn("of Python's")
with ShownProgress() as shown:
    shown("loading", 0, 2)
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise ValueError("the end")
"""


def fresh(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """In a process of its own: what a log is, is said once for a process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("level", ["debug", "error"])
def test_rqs_steps_are_muted_whichever_comes_first_the_level_or_rqs_worker(when, level):
    """In a fresh process: RQ sets a level where none stands, and when it is imported."""
    done = fresh(PROGRAM, when, level)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.getLogger("worker.service").makeRecord(
        "worker.service", logging.INFO, "file", 1, message, args, None, extra=extra
    )
    made.created = datetime(2026, 11, 26, 4, 12, 5, 678_000, UTC).timestamp()
    return made


def test_text_has_the_time_with_its_zone():
    line = TextFormatter("engine").format(record("job %s ends", "a"))
    at, _, rest = line.partition(" ")
    assert datetime.fromisoformat(at) == datetime(2026, 11, 26, 4, 12, 5, 678_000, UTC)
    assert re.search(r"[+-]\d\d:\d\d$", at)
    assert rest == "INFO    engine: job a ends"


def test_a_message_cannot_break_its_line():
    line = TextFormatter().format(record("job %s", "a\nINFO job b\r\x1b[2J\u2028你好"))
    assert line.endswith(r"INFO    job a\nINFO job b\r\x1b[2J\u2028你好")


def test_what_ends_the_program_cannot_move_the_terminal(capsys):
    complain("the folder a\x1b[2J is none")
    assert capsys.readouterr().err == "error: the folder a\ufffd[2J is none\n"


def test_a_traceback_stands_below_its_line():
    try:
        int("no number")
    except ValueError:
        failed = record("job a fails")
        failed.exc_info = sys.exc_info()
    first, second, *_ = TextFormatter().format(failed).splitlines()
    assert first.endswith("job a fails")
    assert second == "Traceback (most recent call last):"


def test_json_is_one_object_a_line():
    line = json_formatter().format(record("job %s\n你好", "a", job_id="a", ms=3))
    assert "\n" not in line
    assert "你好" in line
    said = json.loads(line)
    assert datetime.fromisoformat(said.pop("time")) == datetime(2026, 11, 26, 4, 12, 5, 678_000, UTC)
    assert said == {
        "level": "INFO",
        "logger": "worker.service",
        "message": "job a\n你好",
        "job_id": "a",
        "ms": 3,
    }


def test_everybody_who_writes_to_the_log_writes_json():
    """Libraries with handlers of their own, Python's warnings, progress, and what ends a thread or the process."""
    done = fresh(EVERYBODY)
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, said))
    assert [(each["logger"], each.get("job_id")) for each in said] == [
        ("transformers", None),
        ("worker.service", "a"),
        ("py.warnings", None),
        ("worker.progress", None),
        ("worker.logs", None),
        ("worker.logs", None),
    ]
    assert "ZeroDivisionError" in said[-2]["exc_info"]
    assert said[-1]["exc_info"].endswith("ValueError: the end")
