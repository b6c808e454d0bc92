"""`genqueue up` and `genqueue broker`: everything in one command, and nothing left when it ends."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import redis

from producer.broker.embedded import EmbeddedBroker
from producer.contract import GenerationRequest
from tests.models import random_model, save_tokenizer
from tests.submitted import request_of

from .terminal import Terminal
from .test_worker import PROMPT, answer_to
from .worker_process import engine_of

pytestmark = pytest.mark.slow

WAIT_S = 300


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "producer", *arguments]


@pytest.fixture
def environment(model_paths: Path) -> dict[str, str]:
    """Without a server, and without settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GENQUEUE_", "REDIS_URL"))}
    return {
        **kept,
        "GENQUEUE_MODEL_PATHS": str(model_paths),
        "GENQUEUE_THREADS": "1",
        "TERM": "xterm",
        "COLUMNS": "100",
    }


def worker_pid(said: str) -> int:
    return int(re.search(r"pid (\d+)", said)[1])  # type: ignore[index]


def broker_port(said: str) -> int:
    return int(re.search(r"redis://127\.0\.0\.1:(\d+)", said)[1])  # type: ignore[index]


def assert_nothing_is_left(said: str, *pids: int) -> None:
    for pid in (worker_pid(said), *pids):
        assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(redis.ConnectionError):
        redis.Redis(port=broker_port(said)).ping()


def requests_on(client: redis.Redis) -> list[GenerationRequest]:
    """What was asked for, in the order in which it came."""
    enqueued = {
        key.decode().rpartition(":")[2]: client.hget(key, "enqueued_at") for key in client.keys("rq:job:*")
    }
    return [request_of(client, job_id) for job_id in sorted(enqueued, key=enqueued.__getitem__)]


def test_lines_of_a_pipe_are_answered_and_openais_api_is_served(
    environment: dict[str, str], broker: EmbeddedBroker, redis_client: redis.Redis
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    options = ("--redis-url", broker.url, "--seed", "1", "--max-new-tokens", "200", "--serve", str(port))
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command("up", *options), env=environment, text=True, **pipes) as process:
        assert process.stderr is not None
        said = ""
        while f"gateway: http://127.0.0.1:{port}/v1" not in said:
            said += (line := process.stderr.readline())
            assert line, said
        body = json.dumps({"model": "tiny", "prompt": "Hi", "max_tokens": 3}).encode()
        headers = {"content-type": "application/json"}
        url = f"http://127.0.0.1:{port}/v1/completions"
        with urlopen(Request(url, body, headers), timeout=WAIT_S) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] == 3
        stdout, stderr = process.communicate(f"{PROMPT}\n\nWhat is genqueue?\n", timeout=WAIT_S)
    assert process.returncode == 0, said + stderr
    first, second = (request for request in requests_on(redis_client) if request.messages)
    assert stdout.startswith(f"{answer_to(PROMPT)}\n")
    assert stdout.splitlines()[-1].startswith("genqueue is a job queue")
    # Tiny knows single questions; that turns are kept is seen in unit/producer/test_up.py.
    assert [turn.content for each in (first, second) for turn in each.messages or ()] == [
        PROMPT,
        "What is genqueue?",
    ]
    assert first.seed == second.seed == 1
    assert not Path(f"/proc/{worker_pid(said)}").exists()
    [record] = redis_client.keys("rq:worker:local-*")
    assert redis_client.hget(record, "death")  # it was asked to leave, and not killed
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.fixture
def base_model(tmp_path: Path) -> Path:
    """A model folder that no file names, without a chat template."""
    folder = tmp_path / "my-base"
    random_model(context_length=1024).save_pretrained(folder)
    return save_tokenizer(folder, chat_template=False)


@pytest.fixture
def typed(environment: dict[str, str], base_model: Path) -> Iterator[Terminal]:
    terminal = Terminal(command("up", "--model-path", str(base_model), "--device", "cpu"), environment)
    yield terminal
    terminal.close()


def test_ctrl_c_cancels_an_answer_and_at_the_prompt_ends_everything(typed: Terminal) -> None:
    typed.wait_for("each line is a prompt of its own")
    typed.wait_for("> ")
    engine = engine_of(worker_pid(typed.seen))
    os.kill(engine, signal.SIGSTOP)  # else how fast it answers decides what Ctrl-C meets
    typed.type("Hello\n")
    typed.wait_for("running on local-")
    with redis.Redis(port=broker_port(typed.seen)) as client:
        [request] = requests_on(client)
        typed.interrupt()
        os.kill(engine, signal.SIGCONT)
        typed.wait_for("was cancelled")
    assert request.prompt == "Hello"
    typed.wait_for("> ", after="was cancelled")
    typed.interrupt_at_the_prompt()

    assert typed.exit_code() == 0
    assert "Traceback" not in typed.seen
    assert_nothing_is_left(typed.seen, engine)


def test_a_signal_while_the_worker_starts_leaves_nothing(environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        command("up"), env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = process.stderr.readline() + process.stderr.readline()
    process.terminate()
    with process:
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert_nothing_is_left(said)


def test_a_kill_leaves_neither_broker_nor_worker(environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        command("up"), env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    port = broker_port(process.stderr.readline())
    process.stderr.readline()  # the worker has been started
    process.kill()
    process.communicate(timeout=WAIT_S)  # to the end of stderr, which the worker has, too
    with contextlib.suppress(redis.ConnectionError), redis.Redis(port=port) as client:
        client.blpop(["never"], timeout=WAIT_S)
        pytest.fail("the broker is still there")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model-path", "/no/such/model"], "hf download"),
        (
            ["--model-name", "Qwen/Qwen2-7B-Instruct"],
            "hf download Qwen/Qwen2-7B-Instruct --local-dir models/Qwen2-7B",
        ),
    ],
)
def test_a_model_that_is_not_there_ends_it_with_what_to_do(
    environment: dict[str, str], options: list[str], said: str
) -> None:
    done = subprocess.run(
        command("up", *options), env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert_nothing_is_left(done.stderr)


def test_a_script_that_hides_the_worker_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    """`up` would have run it in place of the worker."""
    (tmp_path / "worker.py").write_text("print('mine')\n")
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        command("up"),
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 2
    assert f"{tmp_path}/worker.py hides genqueue's own package" in done.stderr


class Server:
    """`genqueue broker`, and the URL that it printed."""

    def __init__(self, environment: dict[str, str], *options: str) -> None:
        self.process = subprocess.Popen(
            command("broker", *options),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        with self.process:
            return self.process.wait(WAIT_S)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_broker_with_a_folder_keeps_what_it_has(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    folder = str(tmp_path / "kept")
    first = Server(environment, "--port", "0", "--directory", folder)
    with redis.Redis.from_url(first.url) as client:
        client.set("a", "b")
    taken = subprocess.run(
        command("broker", "--port", "0", "--directory", folder),
        env=environment,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert taken.returncode == 2
    assert "in use by another" in taken.stderr
    assert first.end(number) == 0
    with pytest.raises(redis.ConnectionError):
        redis.Redis.from_url(first.url).ping()

    port = first.url.rpartition(":")[2].partition("/")[0]
    second = Server(environment, "--port", port, "--directory", folder)
    assert second.url == first.url
    with redis.Redis.from_url(second.url) as client:
        assert client.get("a") == b"b"
    assert second.end(number) == 0


def test_a_broker_whose_server_is_killed_says_so(environment: dict[str, str]) -> None:
    server = Server(environment, "--port", "0")
    with redis.Redis.from_url(server.url) as client:
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
    _, said = server.process.communicate(timeout=WAIT_S)
    assert server.process.returncode == 3
    assert "ended by itself" in said


def test_a_port_that_is_taken_is_named(environment: dict[str, str], broker: EmbeddedBroker) -> None:
    done = subprocess.run(
        command("broker", "--port", str(broker.port)),
        env=environment,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 3
    assert done.stdout == ""
    assert f"port {broker.port} of 127.0.0.1 cannot be had" in done.stderr
