"""The command line as a process, on a real server: pipes, terminals and Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO

import pytest
import redis

from producer.broker.embedded import EmbeddedBroker
from producer.contract import Keys
from tests.scripted_worker import ScriptedWorker

from .terminal import Terminal

KEYS = Keys()


@pytest.fixture
def worker(redis_client: redis.Redis) -> ScriptedWorker:
    return ScriptedWorker(redis_client)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "producer", *arguments]


@pytest.fixture
def environment(broker: EmbeddedBroker) -> dict[str, str]:
    return {**os.environ, "GENQUEUE_REDIS_URL": broker.url, "TERM": "xterm", "COLUMNS": "100"}


OpenTerminal = Callable[..., Terminal]
"""Takes the command's arguments."""


@pytest.fixture
def terminal(environment: dict[str, str]) -> Iterator[OpenTerminal]:
    opened: list[Terminal] = []

    def on_terminal(*arguments: str) -> Terminal:
        opened.append(Terminal(_command(*arguments), environment))
        return opened[-1]

    yield on_terminal
    for each in opened:
        each.close()


def test_on_a_terminal_the_wait_is_explained_and_the_tokens_follow(
    terminal: OpenTerminal, worker: ScriptedWorker
) -> None:
    seen = terminal("submit", "Hi", "--model-name", "tiny", "--stream")
    seen.wait_for("1st in line; no live worker serves tiny")
    worker.register("loading")
    seen.wait_for("w1 is loading tiny")
    worker.take()
    seen.wait_for("running on w1")
    worker.publish("你")
    seen.wait_for("你")
    before = len(seen.seen)
    worker.publish("好")
    worker.finish()

    assert seen.exit_code() == 0
    assert seen.seen[before:].strip() == "好"  # the line is gone, and nothing but the answer follows


@pytest.mark.parametrize(("answer", "cancelled"), [("cancel\n", True), ("leave\n", False), ("\n", False)])
def test_ctrl_c_on_a_terminal_asks_what_to_do_with_the_job(
    terminal: OpenTerminal, worker: ScriptedWorker, answer: str, cancelled: bool
) -> None:
    seen = terminal("submit", "Hi", "--model-name", "tiny", "--stream")
    worker.take()
    worker.publish("so far")
    seen.wait_for("so far")

    seen.interrupt()
    seen.wait_for("Leave the job running, or cancel it?")
    seen.type(answer)

    assert seen.exit_code() == 130
    assert bool(worker.client.exists(KEYS.cancel(worker.job_id))) is cancelled
    assert ("requested" in seen.seen) is cancelled
    assert (f"genqueue stream {worker.job_id} --after 1-1" in seen.seen) is not cancelled


@pytest.mark.parametrize(("flags", "cancelled"), [([], False), (["--on-interrupt", "cancel"], True)])
@pytest.mark.parametrize("mode", ["--stream", "--wait"])
def test_ctrl_c_without_a_terminal_does_as_the_flag_says(
    environment: dict[str, str], worker: ScriptedWorker, mode: str, flags: list[str], cancelled: bool
) -> None:
    process = subprocess.Popen(
        _command("submit", "Hi", "--model-name", "tiny", mode, *flags),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    worker.take()
    worker.wait_for_reader()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)

    assert process.returncode == 130
    assert bool(worker.client.exists(KEYS.cancel(worker.job_id))) is cancelled
    assert ("requested" in err) is cancelled
    assert ("goes on" in err) is not cancelled
    assert "Traceback" not in err


def _stream_to_pipes(environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]:
    """`submit --stream`, its stdout and its stderr. As a context, the process closes them."""
    command = _command("submit", "Hi", "--model-name", "tiny", "--stream")
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    return process, process.stdout, process.stderr


def test_tokens_come_one_by_one_through_a_pipe(environment: dict[str, str], worker: ScriptedWorker) -> None:
    process, stdout, _ = _stream_to_pipes(environment)
    worker.take()

    for text in ("one", "two"):  # each is read before the next is published: nothing is held back in a buffer
        worker.publish(text)
        assert stdout.read(3).decode() == text
    worker.finish()

    with process:
        assert stdout.read() == b"\n"
        assert process.wait(100) == 0


def test_a_reader_that_leaves_gets_no_traceback(environment: dict[str, str], worker: ScriptedWorker) -> None:
    worker.register()  # or it is said that nobody serves the model, if the job waits long enough for that
    process, stdout, stderr = _stream_to_pipes(environment)
    worker.take()
    worker.publish("one")
    assert stdout.read(3) == b"one"
    stdout.close()

    worker.publish("two")

    with process:
        assert process.wait(100) == 141
        assert re.fullmatch(r"job [0-9a-f-]+\n", stderr.read().decode())


def test_a_broker_that_is_not_there_is_reported_soon(environment: dict[str, str]) -> None:
    with EmbeddedBroker() as gone:
        url = gone.url.replace("redis://", "redis://:hunter2@")
    begin = time.monotonic()

    ran = subprocess.run(
        _command("submit", "Hi", "--model-name", "tiny", "--redis-url", url),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 3
    assert "check the URL and that the server runs" in ran.stderr
    assert "hunter2" not in ran.stderr
    assert "Traceback" not in ran.stderr
    assert time.monotonic() - begin < 60
