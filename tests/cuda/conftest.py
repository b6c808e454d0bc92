"""Streams that are lazy in one test alone, and the figures of a run."""

import os
import sysconfig
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from . import card

if card.library():
    # Where Triton looks for the driver, here and in the processes that tests start.
    os.environ["TRITON_LIBCUDA_PATH"] = str(Path(sysconfig.get_path("purelib"), "nvidia/cu13/lib"))


@pytest.fixture(autouse=True)
def _at_once() -> Iterator[None]:
    """Streams are lazy only in the test that makes them so."""
    yield
    card.be_lazy(False)


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Says a line at the end of the run."""
    return partial(record_property, "figure")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures of the run."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    for report in reports:
        if getattr(report, "when", "") == "call":
            for name, line in report.user_properties:
                if name == "figure":
                    terminalreporter.write_line(line)
