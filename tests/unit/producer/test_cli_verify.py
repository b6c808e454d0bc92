"""`genqueue verify`: the worker's program does it, as a child of ours."""

import subprocess
import sys

import pytest

from producer.cli import run
from producer.commands import again
from producer.contract import GenqueueError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str] | None]]:
    """The commands that were run, with their environment. Each ends with exit code 1."""
    commands: list[tuple[list[str], dict[str, str] | None]] = []

    def run_child(
        command: list[str], *, env: dict[str, str] | None, check: bool
    ) -> subprocess.CompletedProcess[bytes]:
        assert not check
        commands.append((command, env))
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(again.subprocess, "run", run_child)
    return commands


def test_it_is_the_workers_own_and_so_is_the_exit_code(asked) -> None:
    assert run(["verify", "job-1"]) == 1
    [(command, environment)] = asked
    assert command[0] == sys.executable
    assert command[-3:] == ["verify", "--", "job-1"]
    assert environment is None, "as ours"


def test_options_are_passed_on_and_the_url_in_the_environment_alone(asked) -> None:
    url = "redis://:secret@127.0.0.1:6379/0"
    options = ["--model-name", "tiny", "--device", "cpu", "--dtype", "float32", "--prefix", "staging", "--json"]
    assert run(["verify", "job-1", *options, "--redis-url", url]) == 1
    [(command, environment)] = asked
    passed = command[command.index("verify") + 1 :]
    assert sorted(passed) == sorted([*options, "--", "job-1"])
    assert environment is not None
    assert environment["GENQUEUE_REDIS_URL"] == url


def test_without_the_worker_it_says_what_to_install(asked, monkeypatch, capsys) -> None:
    def missing() -> None:
        raise GenqueueError("the worker is not installed: pip install 'genqueue[worker,embedded]'")

    monkeypatch.setattr(again, "check_installed", missing)
    assert run(["verify", "job-1"]) == 2
    assert "pip install" in capsys.readouterr().err
    assert asked == []
