"""In which order `make test` begins its files: those that take longest first, so that none is left at the end."""

from pathlib import Path

import pytest

LONGEST = (
    "integration/test_survival.py",
    "integration/test_up.py",
    "integration/test_bad_input.py",
    "chaos/test_chaos.py",
    "integration/test_cookbook.py",
    "integration/test_acl.py",
    "integration/test_cancel.py",
    "integration/test_continue.py",
    "integration/test_producer.py",
    "integration/test_leaving.py",
    "unit/worker/engine/test_engine.py",
    "integration/test_failover.py",
    "integration/test_demo.py",
)
"""By the clock, in their order: the longest takes more than a minute and a half of the six."""
PLACES = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}


def longest_first(items: list[pytest.Item]) -> None:
    """Sort tests that were collected. Those of a file stay together, and the other files in their order."""
    items.sort(key=lambda item: PLACES.get(item.path, len(PLACES)))
