"""`pip install 'genqueue[testing]'` and nothing else: somebody's own test passes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import wheel
from tests.documents import Document

BESIDE = """

def test_what_it_takes(genqueue_worker):
    import importlib.util
    import sys

    assert importlib.util.find_spec("torch") is None
    assert "worker" not in sys.modules
"""


@pytest.mark.slow
def test_a_users_test_passes_without_torch_and_without_a_server(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    wheel.install(wheel.build(tmp_path), environment, "testing")
    [code] = Document("README.md").blocks("Testing your own code")
    (tmp_path / "test_ask.py").write_text(code + BESIDE, encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-S", "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", "-q", "test_ask.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(environment), "REDIS_URL": "redis://nowhere.invalid:1/0"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert re.search(r"^2 passed in", done.stdout, re.MULTILINE), done.stdout + done.stderr
