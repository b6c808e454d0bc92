"""`genqueue doctor`: Redis is looked at here, and the rest is what the worker says, which is a child of ours."""

import json
import subprocess
import sys

import pytest

from producer.broker.embedded import EmbeddedBroker
from producer.broker.findings import Finding, shown
from producer.cli import run
from producer.commands import doctor
from producer.contract import GenqueueError

Captured = pytest.CaptureFixture[str]
FINE = Finding(name="torch", state="ok", message="2.13")
ODD = Finding(name="device", state="warning", message="slow")
BAD = Finding(name="weights", state="wrong", message="cut off: download it again")


@pytest.fixture
def asked() -> list[list[str]]:
    """The commands that were run."""
    return []


@pytest.fixture
def worker_finds(monkeypatch: pytest.MonkeyPatch, asked: list[list[str]]):
    """Says what a worker would find."""

    def finds(*findings: Finding, text: str | None = None) -> None:
        answer = shown(findings, as_json=True) if text is None else text

        def run_child(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
            asked.append(command)
            return subprocess.CompletedProcess(command, 2, answer.encode())

        monkeypatch.setattr(doctor.subprocess, "run", run_child)

    return finds


@pytest.mark.parametrize(("found", "code"), [([FINE], 0), ([FINE, ODD], 0), ([FINE, BAD], 1)])
def test_what_redis_and_the_worker_say_is_one_list(
    capsys: Captured, broker: EmbeddedBroker, worker_finds, found: list[Finding], code: int
) -> None:
    worker_finds(*found)
    assert run(["doctor", "--redis-url", broker.url]) == code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:5]] == ["Redis", "persistence", "eviction", "clocks", "rights"]
    assert lines[-len(found) :] == [finding.line() for finding in found]


def test_json(capsys: Captured, broker: EmbeddedBroker, worker_finds) -> None:
    worker_finds(FINE)
    assert run(["doctor", "--redis-url", broker.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[-1] == {"name": "torch", "state": "ok", "message": "2.13"}


def test_the_worker_is_asked_about_the_same_model(broker: EmbeddedBroker, worker_finds, asked) -> None:
    worker_finds(FINE)
    assert run(["doctor", "--redis-url", broker.url, "--model-path", "models/mine", "--device", "cpu"]) == 0
    [command] = asked
    assert command[0] == sys.executable
    assert command[-8:] == [
        *("worker", "doctor", "--json", "--no-redis"),
        *("--model-path", "models/mine", "--device", "cpu"),
    ]


def test_a_server_that_is_not_there_is_wrong_and_the_rest_is_looked_at(capsys: Captured, worker_finds) -> None:
    worker_finds(FINE)
    with EmbeddedBroker() as gone:
        url = gone.url
    assert run(["doctor", "--redis-url", url]) == 1
    redis_line, torch_line = capsys.readouterr().out.splitlines()
    assert redis_line.startswith("wrong    Redis")
    assert "genqueue broker" in redis_line
    assert torch_line == FINE.line()


def test_a_worker_that_says_nothing_is_wrong(capsys: Captured, broker: EmbeddedBroker, worker_finds) -> None:
    worker_finds(text="")
    assert run(["doctor", "--redis-url", broker.url]) == 1
    assert "its messages stand above" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--model-name", "tiny"], 1)])
def test_without_a_worker_a_script_is_fine_and_a_model_is_not(
    capsys: Captured, broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch, options: list[str], code: int
) -> None:
    def fail() -> None:
        raise GenqueueError("the worker is not installed: pip install 'genqueue[worker,embedded]'")

    monkeypatch.setattr(doctor, "check_installed", fail)
    assert run(["doctor", "--redis-url", broker.url, *options]) == code
    assert "pip install 'genqueue[worker,embedded]'" in capsys.readouterr().out


def test_a_setting_that_cannot_be_is_wrong(capsys: Captured, worker_finds) -> None:
    worker_finds(FINE)
    assert run(["doctor", "--redis-url", "http://host"]) == 1
    assert capsys.readouterr().out.startswith("wrong    settings")
