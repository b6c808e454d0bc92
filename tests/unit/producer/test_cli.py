"""The command line on fakeredis: what goes to stdout, what to stderr, and which exit code says what."""

import io
import json
import re
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from fakeredis import FakeRedis, FakeServer

from producer import JobStatus, client as producer_client, dashboard
from producer.cli import run, submit
from producer.contract import GenerationRequest, Keys, SamplingParams
from producer.submission import SubmitOptions
from tests.scripted_worker import ScriptedWorker

KEYS = Keys()

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def client(fake_server: FakeServer) -> FakeRedis:
    return FakeRedis(server=fake_server)


@pytest.fixture(autouse=True)
def _fake_connections(fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer_client, "connect", lambda *_, **__: FakeRedis(server=fake_server))


@pytest.fixture
def worker(client: FakeRedis) -> ScriptedWorker:
    return ScriptedWorker(client)


def _submitted(captured: Captured) -> str:
    return captured.readouterr().out.strip()


def _request(client: FakeRedis, job_id: str) -> GenerationRequest:
    data = json.loads(zlib.decompress(client.hget(f"rq:job:{job_id}", "data")))  # type: ignore[arg-type]
    return GenerationRequest.parse(data[3]["request"])


def _play_when_queued(worker: ScriptedWorker, play: Callable[[], object]) -> threading.Thread:
    def take_and_play() -> None:
        worker.take()
        play()

    thread = threading.Thread(target=take_and_play)
    thread.start()
    return thread


def test_submit_prints_the_job_id_and_nothing_else(capsys: Captured, client: FakeRedis) -> None:
    assert run(["submit", "你好", "--model-name", "tiny", "--max-new-tokens", "32"]) == 0

    out, err = capsys.readouterr()
    assert err == ""
    assert client.lrange("rq:queue:generate.tiny", 0, -1) == [out.removesuffix("\n").encode()]
    assert _request(client, out.strip()) == GenerationRequest(prompt="你好", max_new_tokens=32)


def test_submit_with_json_prints_what_it_made(capsys: Captured) -> None:
    assert run(["submit", "Hi", "--model-name", "tiny", "--job-id", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"job_id": "mine", "model": "tiny", "created": True}

    assert run(["submit", "Hi", "--model-name", "tiny", "--job-id", "mine", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["created"] is False
    assert "exists already" in err


def test_every_field_and_option_of_a_submission_has_its_option() -> None:
    names = {parameter.name for parameter in submit.params}

    assert set(SamplingParams.model_fields) <= names
    assert set(SubmitOptions.model_fields) <= names
    assert {"prompt", "message", "messages_file", "prompt_token_ids", "add_special_tokens", "job_id"} <= names


def test_every_option_reaches_the_request(capsys: Captured, client: FakeRedis) -> None:
    options = {
        "max_new_tokens": 9,
        "min_new_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "seed": 7,
        "logprobs": 3,
    }
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    flags = ["--stop", "END", "--stop", "\n", "--ignore-eos", "--keep-special-tokens", "--no-special-tokens"]

    assert run(["submit", "Hi", "--model-name", "tiny", *arguments, *flags]) == 0

    assert _request(client, _submitted(capsys)) == GenerationRequest.model_validate(
        {
            "prompt": "Hi",
            **options,
            "stop": ("END", "\n"),
            "ignore_eos": True,
            "skip_special_tokens": False,
            "add_special_tokens": False,
        }
    )
    assert set(options) | {"stop", "ignore_eos", "skip_special_tokens"} == set(SamplingParams.model_fields)


def test_queue_options_reach_the_job(capsys: Captured, client: FakeRedis) -> None:
    options = ["--priority", "high", "--timeout-s", "5", "--result-ttl-s", "6", "--queue-ttl-s", "7.5"]

    assert run(["submit", "Hi", "--model-name", "tiny", *options]) == 0

    job = client.hgetall(f"rq:job:{_submitted(capsys)}")
    assert (job[b"origin"], job[b"timeout"], job[b"result_ttl"]) == (b"generate.tiny.high", b"5", b"6")


def test_a_prompt_comes_from_stdin(capsys: Captured, client: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("两行\n文字\n".encode())))

    assert run(["submit", "-", "--model-name", "tiny"]) == 0

    assert _request(client, _submitted(capsys)).prompt == "两行\n文字"


def test_a_chat_comes_from_options_or_from_a_file(capsys: Captured, client: FakeRedis, tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Time: 10:30?"}]
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(turns))

    run(["submit", "--model-name", "tiny", "--message", "system:Be brief.", "--message", "user:Time: 10:30?"])
    from_options = _request(client, _submitted(capsys))
    run(["submit", "--model-name", "tiny", "--messages-file", str(path)])

    assert _request(client, _submitted(capsys)) == from_options == GenerationRequest.parse({"messages": turns})


def test_a_prompt_can_be_token_ids(capsys: Captured, client: FakeRedis) -> None:
    assert run(["submit", "--model-name", "tiny", "--prompt-token-ids", "1,2, 3"]) == 0

    assert _request(client, _submitted(capsys)).prompt_token_ids == (1, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit", "Hi"], "--model-name"),
        (["submit", "--model-name", "tiny"], "exactly one of prompt"),
        (["submit", "Hi", "--model-name", "tiny", "--message", "user:Hi"], "exactly one of prompt"),
        (["submit", "Hi", "--model-name", "a b"], "model name"),
        (["submit", "Hi", "--model-name", "tiny", "--temperature", "nan"], "temperature"),
        (["submit", "Hi", "--model-name", "tiny", "--temperature", "hot"], "temperature"),
        (["submit", "Hi", "--model-name", "tiny", "--top-p", "2"], "top_p"),
        (["submit", "Hi", "--model-name", "tiny", "--job-id", "a:b"], "job id"),
        (["submit", "Hi", "--model-name", "tiny", "--result-ttl-s", "-1"], "result_ttl_s"),
        (["submit", "Hi", "--model-name", "tiny", "--priority", "urgent"], "priority"),
        (["submit", "\udcff", "--model-name", "tiny"], "surrogate"),
        (["submit", "--model-name", "tiny", "--message", "Hi"], "ROLE:TEXT"),
        (["submit", "--model-name", "tiny", "--message", "robot:Hi"], "role"),
        (["submit", "--model-name", "tiny", "--messages-file", "/no/such/file"], "does not exist"),
        (["submit", "--model-name", "tiny", "--prompt-token-ids", "1,b"], "commas"),
        (["submit", "Hi", "--model-name", "tiny", "--prefix", "{}"], "braces"),
        (["submit", "Hi", "--model-name", "tiny", "--redis-url", "http://u:hunter2@host"], "redis://host:port/db"),
        (["stream", "unknown"], "never submitted"),
        (["stream", "a:b"], "job id"),
        (["result", "unknown"], "never submitted"),
        (["cancel", "unknown"], "never submitted"),
        (["status", "unknown"], "never submitted"),
        (["result"], "JOB"),
        (["no-such-command"], "No such command"),
    ],
)
def test_bad_input_is_exit_code_2_with_a_message_and_no_traceback(
    capsys: Captured, arguments: list[str], said: str
) -> None:
    assert run(arguments) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err
    assert "hunter2" not in err


@pytest.mark.parametrize("content", ["not json", '{"role": "user"}', "[1]"])
def test_a_broken_messages_file_is_named(capsys: Captured, tmp_path: Path, content: str) -> None:
    path = tmp_path / "chat.json"
    path.write_text(content)

    assert run(["submit", "--model-name", "tiny", "--messages-file", str(path)]) == 2
    assert re.search(r"chat\.json|messages", capsys.readouterr().err)


def test_a_broken_setting_is_exit_code_2(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENQUEUE_TIMEOUT_S", "soon")

    assert run(["status", "a"]) == 2
    assert "timeout_s" in capsys.readouterr().err


def test_no_broker_is_exit_code_3(capsys: Captured, fake_server: FakeServer) -> None:
    fake_server.connected = False

    assert run(["submit", "Hi", "--model-name", "tiny"]) == 3
    assert "check the URL" in capsys.readouterr().err


def test_a_full_queue_is_exit_code_4(capsys: Captured) -> None:
    assert run(["submit", "Hi", "--model-name", "tiny", "--max-queued", "0"]) == 4
    assert "nothing was enqueued" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["--wait", "--stream"])
def test_a_wait_that_runs_out_is_exit_code_4(capsys: Captured, mode: str) -> None:
    assert run(["submit", "Hi", "--model-name", "tiny", mode, "--wait-s", "0.05"]) == 4

    out, err = capsys.readouterr()
    assert out == ""
    assert "no live worker serves tiny" in err


@pytest.mark.parametrize("mode", ["--wait", "--stream"])
def test_submit_can_print_the_answer(capsys: Captured, worker: ScriptedWorker, mode: str) -> None:
    playing = _play_when_queued(worker, lambda: (worker.publish("你", "好"), worker.finish()))

    assert run(["submit", "Hi", "--model-name", "tiny", mode, "--wait-s", "20"]) == 0
    playing.join()

    out, err = capsys.readouterr()
    assert out == "你好\n"
    assert err == f"job {worker.job_id}\n"


def test_stream_and_result_print_the_answer(capsys: Captured, worker: ScriptedWorker) -> None:
    run(["submit", "Hi", "--model-name", "tiny", "--job-id", "a"])
    worker.play("Hello", ", you")
    capsys.readouterr()

    assert run(["stream", "a"]) == 0
    assert capsys.readouterr() == ("Hello, you\n", "")
    assert run(["stream", "a", "--after", "1-1"]) == 0
    assert capsys.readouterr() == (", you\n", "")
    assert run(["stream", "a", "--after", "1-3"]) == 0
    assert capsys.readouterr() == ("", "")
    assert run(["result", "a"]) == 0
    assert capsys.readouterr() == ("Hello, you\n", "")


def test_json_is_one_event_a_line_and_one_result(capsys: Captured, worker: ScriptedWorker) -> None:
    run(["submit", "Hi", "--model-name", "tiny", "--job-id", "a"])
    worker.play("Hi")
    capsys.readouterr()

    run(["stream", "a", "--json"])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    run(["result", "a", "--json"])
    result = json.loads(capsys.readouterr().out)

    assert [event["id"] for event in events] == ["1-0", "1-1", "1-2"]
    assert [event["type"] for event in events] == ["started", "tokens", "finished"]
    assert events[-1]["data"] == result
    assert result["text"] == "Hi"


@pytest.mark.parametrize("command", ["stream", "result"])
def test_a_job_that_failed_is_exit_code_1_and_its_text_is_printed(
    capsys: Captured, client: FakeRedis, worker: ScriptedWorker, command: str
) -> None:
    run(["submit", "Hi", "--model-name", "tiny", "--job-id", "a"])
    worker.take()
    worker.publish("so far")
    worker.finish("cancelled", "cancelled")
    capsys.readouterr()

    assert run([command, "a"]) == 1

    assert capsys.readouterr() == ("so far\n", "job a was cancelled\n")


def test_cancel_prints_what_came_of_it(capsys: Captured, worker: ScriptedWorker) -> None:
    for job_id in ("a", "b"):
        run(["submit", "Hi", "--model-name", "tiny", "--job-id", job_id])
    worker.take("b")
    capsys.readouterr()

    outcomes = []
    for job_id in ("a", "a", "b"):
        assert run(["cancel", job_id]) == 0
        outcomes.append(capsys.readouterr().out.strip())

    assert outcomes == ["cancelled", "ended", "requested"]


def test_status_prints_words_or_json(capsys: Captured) -> None:
    run(["submit", "Hi", "--model-name", "tiny", "--job-id", "a"])
    capsys.readouterr()

    assert run(["status", "a"]) == 0
    assert capsys.readouterr().out == "queued, 1st in line; no live worker serves tiny\n"
    assert run(["status", "a", "--json"]) == 0
    assert JobStatus.model_validate_json(capsys.readouterr().out).position == 0


def test_dashboard_hands_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    served = []
    monkeypatch.setattr(dashboard, "serve", lambda *args, **options: served.append((args, options)))
    monkeypatch.setenv("GENQUEUE_DASHBOARD_PASSWORD", "hunter2")

    assert run(["dashboard", "--redis-url", "redis://host", "--port", "9999", "--username", "me"]) == 0

    options = {"host": "127.0.0.1", "port": 9999, "username": "me", "password": "hunter2"}
    assert served == [(("redis://host",), options)]


@pytest.mark.parametrize("arguments", [["--help"], ["submit", "--help"], ["dashboard", "-h"]])
def test_help_is_exit_code_0(capsys: Captured, arguments: list[str]) -> None:
    assert run(arguments) == 0
    assert "Usage: genqueue" in capsys.readouterr().out
