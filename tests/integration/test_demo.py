"""`make demo`, as far as it is Python: the answer on stdout, the rest on stderr, and nothing left running."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from .test_worker import PROMPT, answer_to

ENGLISH = "What is genqueue?"


def demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "producer.demo", *arguments]
    unset = {key: value for key, value in os.environ.items() if key != "REDIS_URL"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=100, env={**unset, **environment}, check=False
    )


def test_the_demo_answers_and_leaves_nothing_running(model_paths):
    run = demo(GENQUEUE_MODEL_PATHS=str(model_paths))
    assert run.returncode == 0, run.stderr
    assert run.stdout == answer_to(PROMPT) + "\n"
    worker_pid, port = re.search(r"pid (\d+)", run.stderr), re.search(r"127\.0\.0\.1:(\d+)", run.stderr)
    assert not Path(f"/proc/{worker_pid[1]}").exists()
    with pytest.raises(redis.ConnectionError):
        redis.Redis(port=int(port[1])).ping()


def test_the_demo_answers_what_it_is_asked_and_uses_the_server_that_redis_url_names(
    model_paths, broker, redis_client
):
    run = demo(ENGLISH, GENQUEUE_MODEL_PATHS=str(model_paths), REDIS_URL=broker.url)
    assert run.returncode == 0, run.stderr
    assert run.stdout == answer_to(ENGLISH) + "\n"
    assert redis_client.keys("gen:{*}:result")


def test_the_demo_says_why_its_worker_did_not_start(tmp_path):
    paths = tmp_path / "model_paths.yaml"
    paths.write_text("another: somewhere\n")
    run = demo(GENQUEUE_MODEL_PATHS=str(paths))
    assert run.returncode == 1
    assert "'tiny' is not in" in run.stderr
    assert "Traceback" not in run.stderr
