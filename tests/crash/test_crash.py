"""A small run of it."""

from pathlib import Path

import pytest

from .crash import Plan, crash

pytestmark = pytest.mark.long


def test_every_client_has_every_text_once(tmp_path: Path) -> None:
    seen = crash(Plan(streams=4, rounds=1, tokens=100), tmp_path)
    assert seen["wrong"] == []
    assert seen["kills"] == {"worker": 1, "gateways": 1, "engine": 1, "server": 1}
    assert min(seen["answers"].values()) >= 4
