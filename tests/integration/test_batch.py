"""`genqueue batch` on a real server, with a worker that answers at once: every row once, whatever ends a run."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from producer.broker.embedded import EmbeddedBroker
from producer.cli import run
from tests.benchmarks.batch import deaths
from tests.instant_worker import InstantWorker, answer_to
from tests.scripted_worker import blocked_readers

Captured = pytest.CaptureFixture[str]
WAIT_S = 100


@pytest.fixture
def worker(redis_client: redis.Redis) -> Iterator[InstantWorker]:
    worker = InstantWorker(redis_client)
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield worker
    worker.stop()
    thread.join(WAIT_S)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "in.jsonl"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.fixture
def batch(source: Path, target: Path, broker: EmbeddedBroker) -> Callable[..., int]:
    """Runs the command on rows, or on what the source holds. Returns its exit code."""

    def run_batch(rows: list[Any] | None, *options: str) -> int:
        if rows is not None:
            write(source, rows)
        url = ("--redis-url", broker.url)
        return run(["batch", str(source), str(target), "--model-name", "tiny", *url, *options])

    return run_batch


def write(source: Path, rows: list[Any]) -> None:
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))


def answers(target: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in target.read_text().splitlines()]


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_each_row_gets_its_answer_and_a_second_run_has_nothing_to_do(
    batch: Callable[..., int], worker: InstantWorker, target: Path, capsys: Captured
) -> None:
    rows = [f"prompt {number}" for number in range(150)]
    assert batch(rows, "--in-flight", "8") == 0
    assert [each["line"] for each in answers(target)] == list(range(1, 151))
    assert [each["text"] for each in answers(target)] == [answer_to(row) for row in rows]
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("150 rows: 0 failed; ")
    before = target.read_bytes()

    assert batch(None) == 0
    assert target.read_bytes() == before
    assert len(worker.jobs) == 150
    assert "150 rows, 150 of them before: 0 failed" in capsys.readouterr().err


def test_jobs_are_of_low_priority_and_few_at_a_time(
    batch: Callable[..., int], target: Path, redis_client: redis.Redis
) -> None:
    """The worker begins once the command waits: what is in the queue then is all that may be there."""
    seen: list[tuple[int, int]] = []
    worker = InstantWorker(redis_client)

    def serve() -> None:
        try:
            wait_until(
                lambda: redis_client.llen("rq:queue:generate.tiny.low") >= 5 and blocked_readers(redis_client)
            )
            seen.append((redis_client.llen("rq:queue:generate.tiny.low"), len(blocked_readers(redis_client))))
        finally:
            worker.run()

    thread = threading.Thread(target=serve)
    thread.start()
    assert batch([f"prompt {number}" for number in range(40)], "--in-flight", "5") == 0
    worker.stop()
    thread.join(WAIT_S)
    assert seen == [(5, 1)]
    assert len(answers(target)) == 40


def test_a_batch_waits_in_the_queue_of_its_group(
    batch: Callable[..., int], worker: InstantWorker, target: Path, redis_client: redis.Redis
) -> None:
    assert batch(["a", "b", "c"], "--group", "alice") == 0
    assert len(answers(target)) == 3
    origins = {redis_client.hget(f"rq:job:{job_id}", "origin") for job_id in worker.jobs}
    assert origins == {b"generate.tiny.low@alice"}


def test_what_cannot_be_answered_is_named_and_the_others_go_on(
    batch: Callable[..., int], worker: InstantWorker, target: Path, capsys: Captured
) -> None:
    assert batch(["a", {"prompt": 3}, "fail this", "b"], "--order", "as-done") == 1
    by_line = {each["line"]: each for each in answers(target)}
    assert sorted(by_line) == [1, 2, 3, 4]
    assert [by_line[line]["text"] for line in (1, 4)] == ["a", "b"]
    assert by_line[2]["error"]["code"] == "invalid_request"
    assert by_line[3]["error"] == {"code": "engine_error", "message": "as asked"}
    err = capsys.readouterr().err
    assert "line 2: invalid request: prompt" in err
    assert "line 3: as asked (engine_error)" in err
    assert batch(None) == 1  # they have failed, and stay so


def test_fail_fast_begins_no_more(batch: Callable[..., int], worker: InstantWorker, target: Path) -> None:
    rows = [{"prompt": 3}, *(f"prompt {number}" for number in range(500))]
    assert batch(rows, "--fail-fast", "--in-flight", "1") == 1
    assert [each["line"] for each in answers(target)] == [1]


def test_openais_format_in_and_out(batch: Callable[..., int], worker: InstantWorker, target: Path) -> None:
    chat = {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "top_logprobs": 1}
    rows = [
        {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat},
        {
            "custom_id": "b",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"prompt": "Hello", "max_tokens": 3},
        },
        {"custom_id": "c", "method": "POST", "url": "/v1/embeddings", "body": {"input": "Hi"}},
    ]
    assert batch(rows) == 1
    first, second, third = answers(target)
    assert [each["custom_id"] for each in (first, second, third)] == ["a", "b", "c"]
    [choice] = first["response"]["body"]["choices"]
    assert choice["message"]["content"] == "iH"
    assert [each["token"] for each in choice["logprobs"]["content"]] == ["token_id:105", "token_id:72"]
    [choice] = second["response"]["body"]["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("oll", "length")
    assert (third["response"], third["error"]["code"]) == (None, "invalid_request")


def test_a_table_and_its_template(
    broker: EmbeddedBroker, worker: InstantWorker, tmp_path: Path, target: Path
) -> None:
    table = tmp_path / "prompts.csv"
    table.write_text("text,x\n你好,1\n")
    options = ["--model-name", "tiny", "--redis-url", broker.url, "--template", "Say {text}"]
    assert run(["batch", str(table), str(target), *options]) == 0
    assert [(each["line"], each["text"]) for each in answers(target)] == [(2, answer_to("Say 你好"))]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-new-tokens", "3"), "answers to other options"),
        (("--template", "{text}"), "add --input-format csv"),
        (("--input-format", "csv"), "there is no column 'prompt'"),
        (("--in-flight", "0"), "--in-flight"),
        (("--seed", "-1"), "seed"),
        (("--timeout-s", "0"), "timeout_s"),
        (("--model-name", "Qwen/Qwen2-7B"), "Qwen"),
    ],
)
def test_what_will_not_do_is_said_before_anything_is_asked(
    batch: Callable[..., int], worker: InstantWorker, capsys: Captured, options: tuple[str, ...], said: str
) -> None:
    if said.startswith("answers"):
        assert batch(["a"]) == 0
    assert batch(["a"], *options) == 2
    assert said in capsys.readouterr().err


def test_the_input_is_not_written_over(batch: Callable[..., int], source: Path, broker: EmbeddedBroker) -> None:
    write(source, ["a"])
    options = ["--model-name", "tiny", "--redis-url", broker.url]
    assert run(["batch", str(source), str(source), *options]) == 2
    assert run(["batch", str(source.with_name("none")), str(source), *options]) == 2
    assert source.read_text() == '"a"\n'


def test_without_a_server_a_first_run_says_so_at_once(source: Path, target: Path, capsys: Captured) -> None:
    write(source, ["a"])
    nowhere = ["--redis-url", "redis://127.0.0.1:1/0"]
    assert run(["batch", str(source), str(target), "--model-name", "tiny", *nowhere]) == 3
    assert "127.0.0.1:1" in capsys.readouterr().err


def start(source: Path, target: Path | str, url: str, **streams: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "producer", "batch", str(source), str(target), "--model-name", "tiny"]
    return subprocess.Popen([*command, "--redis-url", url, "--in-flight", "4"], stderr=subprocess.PIPE, **streams)


@pytest.mark.slow
def test_a_pipe_is_answered_as_its_rows_come(broker: EmbeddedBroker, worker: InstantWorker) -> None:
    """The second row is written once the first has its answer."""
    command = start(Path("-"), "-", broker.url, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert command.stdin
    assert command.stdout
    for prompt in ("one", "two"):
        command.stdin.write(json.dumps(prompt).encode() + b"\n")
        command.stdin.flush()
        assert json.loads(command.stdout.readline())["text"] == answer_to(prompt)
    _, err = command.communicate(timeout=WAIT_S)
    assert command.returncode == 0, err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_goes_on_and_asks_nothing_twice(
    source: Path, target: Path, broker: EmbeddedBroker, redis_client: redis.Redis, number: signal.Signals
) -> None:
    """Stopped with four jobs in the queue, which it finds there, and as many in the output."""
    rows = [f"prompt {number}" for number in range(30)]
    write(source, rows)
    worker = InstantWorker(redis_client)
    worker.register()
    with start(source, target, broker.url) as command:
        for _ in range(4):
            wait_until(worker.step)
        wait_until(lambda: target.exists() and target.read_bytes().count(b"\n") == 4)
        wait_until(lambda: redis_client.llen("rq:queue:generate.tiny.low") == 4)
        command.send_signal(number)
        _, err = command.communicate(timeout=WAIT_S)
    if number == signal.SIGINT:
        assert command.returncode == 130
        assert b"stopped after 4 of 30 rows; 4 jobs in flight go on" in err

    with start(source, target, broker.url) as command:
        while command.poll() is None:
            if not worker.step():
                time.sleep(0.005)
        _, err = command.communicate(timeout=WAIT_S)
    assert command.returncode == 0, err
    assert [each["text"] for each in answers(target)] == [answer_to(row) for row in rows]
    assert len(worker.jobs) == len(set(worker.jobs)) == 30


@pytest.mark.slow
def test_a_server_that_comes_back_empty_is_waited_for_and_told_again(source: Path, target: Path) -> None:
    write(source, [f"prompt {number}" for number in range(12)])
    with EmbeddedBroker() as broker, redis.Redis(port=broker.port) as client:
        worker = InstantWorker(client)
        worker.register()
        with start(source, target, broker.url) as command:
            wait_until(worker.step)
            wait_until(lambda: target.exists() and target.read_bytes().count(b"\n") == 1)
            wait_until(lambda: client.llen("rq:queue:generate.tiny.low") == 4)
            broker.kill()
            assert command.stderr
            said = command.stderr.readline()  # nobody is there: it waits, and says so
            assert b"Waiting for it" in said, said
            broker.start()
            worker.register()
            while command.poll() is None:
                if not worker.step():
                    time.sleep(0.005)
            _, err = command.communicate(timeout=WAIT_S)
    assert command.returncode == 0, err
    assert b"Redis is back" in err
    assert [each["line"] for each in answers(target)] == list(range(1, 13))


@pytest.mark.slow
@pytest.mark.long
def test_ten_thousand_rows_three_deaths_and_a_lost_server() -> None:
    found = deaths(10_000)
    assert (found["once"], found["twice"], found["lost"], found["wrong"]) == (10_000, 0, 0, 0)
