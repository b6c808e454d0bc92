"""The storm in its short form, as `make test` runs it. `make chaos` is the long one.

Its other half, a server that forgets everything, has a test of its own in tests/integration/test_survival.py.
"""

import json
import subprocess
import sys

import pytest


@pytest.mark.timeout(1300)
def test_every_promise_holds_in_a_short_storm():
    """The process prints what it did; its own exit code is the verdict."""
    command = [sys.executable, "-m", "tests.chaos", "--short", "--aof"]
    storm = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    told = storm.stderr + storm.stdout
    assert storm.returncode == 0, told
    report = json.loads(storm.stdout.splitlines()[-1])
    assert report["violations"] == 0, told
    assert report["jobs"] >= 12, told
    assert report["worker_kills"] + report["engine_kills"] >= 2, told  # which of them, the seed decides
    assert report["server_kills"] >= 1, told
    assert report["resumes"] >= 1, told
