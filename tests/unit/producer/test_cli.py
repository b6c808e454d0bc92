"""The command line on fakeredis: what goes to stdout, what to stderr, and which exit code says what."""

import io
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fakeredis import FakeRedis, FakeServer

from producer import JobStatus, client as producer_client, dashboard
from producer.cli import run
from producer.commands.submit import submit
from producer.contract import (
    DEFAULT_MAX_NEW_TOKENS,
    ErrorInfo,
    GenerationRequest,
    GenerationResult,
    SamplingParams,
    encode_entry,
    terminal_event,
)
from producer.settings import DEFAULT_REDIS_URL, ProducerSettings
from producer.submission import SubmitOptions
from tests.scripted_worker import ScriptedWorker
from tests.submitted import request_of

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _fake_connections(fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer_client, "connect", lambda *_, **__: FakeRedis(server=fake_server))


def _submitted(captured: Captured) -> str:
    return captured.readouterr().out.strip()


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
    assert request_of(client, out.strip()) == GenerationRequest(prompt="你好", max_new_tokens=32)


def test_submit_with_json_prints_what_it_made(capsys: Captured) -> None:
    assert run(["submit", "Hi", "--model-name", "tiny", "--job-id", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"job_id": "mine", "model": "tiny", "created": True}

    assert run(["submit", "Hi", "--model-name", "tiny", "--job-id", "mine", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["created"] is False
    assert "exists already" in err


def test_every_field_and_option_of_a_submission_has_its_option() -> None:
    names = {parameter.name for parameter in submit.params}
    fields = {*GenerationRequest.model_fields, *SubmitOptions.model_fields, "job_id"}

    assert fields - {"messages"} | {"message", "messages_file"} <= names


def test_every_option_reaches_therequest_of(capsys: Captured, client: FakeRedis) -> None:
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
    flags = ["--stop", "END", "--stop", "\n", "--ignore-eos", "--keep-special-tokens"]
    flags += ["--no-special-tokens", "--no-prompt-lookup"]

    assert run(["submit", "Hi", "--model-name", "tiny", *arguments, *flags]) == 0

    assert request_of(client, _submitted(capsys)) == GenerationRequest.model_validate(
        {
            "prompt": "Hi",
            **options,
            "stop": ("END", "\n"),
            "ignore_eos": True,
            "skip_special_tokens": False,
            "add_special_tokens": False,
            "prompt_lookup": False,
        }
    )
    others = {"stop", "ignore_eos", "skip_special_tokens", "logit_bias", "bad_words", "allowed_token_ids"}
    assert set(options) | others == set(SamplingParams.model_fields)


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a person.json").write_text(json.dumps(SCHEMA))
    Path("whole.json").write_text('{"type": "json_object"}')
    Path("g.lark").write_text('start: "a"')


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (["--response-format", "json_object"], {"response_format": {"type": "json_object"}}),
        (
            ["--response-format", "a person.json"],
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a_person", "schema": SCHEMA}}},
        ),
        (["--response-format", "whole.json"], {"response_format": {"type": "json_object"}}),
        (["--regex", "a+"], {"grammar": {"type": "regex", "regex": "a+"}}),
        (["--choice", "a", "--choice", "b"], {"grammar": {"type": "choice", "choice": ["a", "b"]}}),
        (["--grammar", "g.lark"], {"grammar": {"type": "lark", "lark": 'start: "a"'}}),
        (["--logit-bias", "5=-1.5", "--logit-bias", "7=2"], {"logit_bias": {5: -1.5, 7: 2.0}}),
        (["--bad-word", "a", "--bad-word", "b"], {"bad_words": ["a", "b"]}),
        (["--allowed-token-ids", "1,2"], {"allowed_token_ids": [1, 2]}),
    ],
)
def test_an_answer_is_bound_by_options_and_files(
    capsys: Captured, client: FakeRedis, files: None, arguments: list[str], fields: dict[str, object]
) -> None:

    assert run(["submit", "Hi", "--model-name", "tiny", *arguments]) == 0

    assert request_of(client, _submitted(capsys)) == GenerationRequest.parse({"prompt": "Hi", **fields})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--response-format", "nowhere.json"], "--response-format takes json_object, or a file"),
        (["--response-format", json.dumps(SCHEMA) * 20], "--response-format takes json_object, or a file"),
        (["--regex", "a", "--choice", "b"], "give one of --response-format, --regex, --choice and --grammar"),
        (["--logit-bias", "5"], "--logit-bias has the form ID=BIAS"),
        (["-n", "0"], "n: it takes the number of answers"),
    ],
)
def test_what_binds_an_answer_wrongly_is_said(capsys: Captured, arguments: list[str], said: str) -> None:
    assert run(["submit", "Hi", "--model-name", "tiny", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_n_answers_are_n_jobs_with_seeds_apart(capsys: Captured, client: FakeRedis) -> None:
    assert run(["submit", "Hi", "--model-name", "tiny", "-n", "3", "--seed", "7", "--job-id", "mine"]) == 0

    job_ids = capsys.readouterr().out.split()
    assert job_ids == ["mine-0", "mine-1", "mine-2"]
    assert [request_of(client, job_id).seed for job_id in job_ids] == [7, 8, 9]


def test_queue_options_reach_the_job(capsys: Captured, client: FakeRedis) -> None:
    options = ["--priority", "high", "--timeout-s", "5", "--result-ttl-s", "6", "--queue-ttl-s", "7.5"]
    before = time.time()

    assert run(["submit", "Hi", "--model-name", "tiny", *options]) == 0

    job = client.hgetall(f"rq:job:{_submitted(capsys)}")
    assert (job[b"origin"], job[b"timeout"], job[b"result_ttl"]) == (b"generate.tiny.high", b"5", b"6")
    assert before + 7.5 <= json.loads(job[b"meta"])["expires_at"] <= time.time() + 7.5


def test_a_prompt_comes_from_stdin(capsys: Captured, client: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("两行\n文字\n".encode())))

    assert run(["submit", "-", "--model-name", "tiny"]) == 0

    assert request_of(client, _submitted(capsys)).prompt == "两行\n文字"


def test_a_stdin_that_the_shell_has_closed_is_no_prompt(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)

    assert run(["submit", "-", "--model-name", "tiny"]) == 2

    assert "stdin, which is closed" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full_gets_no_traceback(
    capsys: Captured, client: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run(["submit", "Hi", "--model-name", "tiny"]) == 2

    assert "stdout cannot be written (No space left on device)" in capsys.readouterr().err
    assert client.llen("rq:queue:generate.tiny") == 1


def test_a_chat_comes_from_options_or_from_a_file(capsys: Captured, client: FakeRedis, tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Time: 10:30?"}]
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(turns))

    run(["submit", "--model-name", "tiny", "--message", "system:Be brief.", "--message", "user:Time: 10:30?"])
    from_options = request_of(client, _submitted(capsys))
    run(["submit", "--model-name", "tiny", "--messages-file", str(path)])

    assert request_of(client, _submitted(capsys)) == from_options == GenerationRequest.parse({"messages": turns})


def test_a_prompt_can_be_token_ids(capsys: Captured, client: FakeRedis) -> None:
    assert run(["submit", "--model-name", "tiny", "--prompt-token-ids", "1,2, 3"]) == 0

    assert request_of(client, _submitted(capsys)).prompt_token_ids == (1, 2, 3)


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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("not json", "chat.json cannot be read as JSON"),
        ('{"role": "user"}', "chat.json must hold a list"),
        ("[1]", "messages.0: "),
    ],
)
def test_a_broken_messages_file_is_exit_code_2(capsys: Captured, tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "chat.json"
    path.write_text(content)

    assert run(["submit", "--model-name", "tiny", "--messages-file", str(path)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--max-tokens", "No such option '--max-tokens': it is called --max-new-tokens"),
        ("--max-length", "it is called --max-new-tokens, and counts the answer alone"),
        ("--do-sample", "temperature says it: 0 is greedy"),
        ("--n", "a job has one answer"),
        ("--timeout", "it is called --timeout-s, in seconds"),
        ("--temprature", "Did you mean '--temperature'?"),
    ],
)
def test_an_option_of_another_name_is_told_ours(capsys: Captured, option: str, said: str) -> None:
    assert run(["submit", "Hi", "--model-name", "tiny", option, "3"]) == 2
    assert said in capsys.readouterr().err


def test_a_job_that_nobody_will_end_is_exit_code_1(capsys: Captured, client: FakeRedis) -> None:
    run(["submit", "Hi", "--model-name", "tiny", "--job-id", "a"])
    client.lrem("rq:queue:generate.tiny", 0, "a")

    assert run(["result", "a"]) == 1
    assert "in no queue and with no live worker" in capsys.readouterr().err


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
    at_once, in_the_end = err.split("no live worker serves tiny")[1:]
    assert at_once.startswith(": start one, as `genqueue-worker run")
    assert in_the_end.startswith(". Job ")  # what to do about it stands above
    assert " was waited for " in in_the_end


@pytest.mark.parametrize("mode", ["--wait", "--stream"])
def test_submit_can_print_the_answer(capsys: Captured, worker: ScriptedWorker, mode: str) -> None:
    worker.register()  # or it is said that nobody serves the model
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


CANCELLED = {"status": "cancelled", "finish_reason": "cancelled"}
FAILED = {"status": "failed", "finish_reason": "error", "error": {"code": "timeout", "message": "raise timeout_s"}}
ENDS = pytest.mark.parametrize(
    ("end", "said"),
    [(CANCELLED, "job a was cancelled\n"), (FAILED, "job a failed: raise timeout_s (timeout)\n")],
)


def _end_badly(client: FakeRedis, end: dict[str, object]) -> None:
    """One attempt, whose terminal event is 1-2."""
    worker = ScriptedWorker(client)
    worker.take("a")
    worker.publish("so far")
    result = GenerationResult.model_validate({"job_id": "a", "model": "tiny", "text": "so far", **end})
    client.xadd(worker.keys.events("a"), encode_entry(terminal_event(result)), id="1-2")


def test_a_job_that_failed_without_a_text_prints_no_empty_one(capsys: Captured, client: FakeRedis) -> None:
    run(["submit", "Hi", "--model-name", "tiny", "--job-id", "a"])
    worker = ScriptedWorker(client)
    worker.take("a")
    worker.finish("failed", "error", ErrorInfo(code="prompt_too_long", message="shorten it"))
    capsys.readouterr()

    assert run(["result", "a"]) == 1

    out, err = capsys.readouterr()
    assert (out, err) == ("", "job a failed: shorten it (prompt_too_long)\n")


@ENDS
@pytest.mark.parametrize("command", ["stream", "result"])
def test_a_job_that_ended_badly_is_exit_code_1_and_its_text_is_printed(
    capsys: Captured, client: FakeRedis, command: str, end: dict[str, object], said: str
) -> None:
    run(["submit", "Hi", "--model-name", "tiny", "--job-id", "a"])
    _end_badly(client, end)
    capsys.readouterr()

    assert run([command, "a"]) == 1

    assert capsys.readouterr() == ("so far\n", said)


@ENDS
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_job_that_ended_badly_is_exit_code_1_also_when_nothing_comes_after_the_cursor(
    capsys: Captured, client: FakeRedis, flags: list[str], end: dict[str, object], said: str
) -> None:
    """It was 0, so that a script that came back with its last cursor took the job for a finished one."""
    run(["submit", "Hi", "--model-name", "tiny", "--job-id", "a"])
    _end_badly(client, end)
    capsys.readouterr()

    assert run(["stream", "a", "--after", "1-2", *flags]) == 1

    assert capsys.readouterr() == ("", said)


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

    options = {"host": "127.0.0.1", "port": 9999, "username": "me", "password": "hunter2", "prefix": "gen"}
    options["show_prompts"] = False
    assert served == [(("redis://host",), options)]


def test_help_says_where_a_default_comes_from(capsys: Captured) -> None:
    """It named the setting's own default alone, as if the environment could not say otherwise."""
    run(["submit", "--help"])

    words = " ".join(capsys.readouterr().out.split())
    assert f"[default: {DEFAULT_MAX_NEW_TOKENS}, or what fits]" in words
    for name in ("wait_s", "queue_ttl_s", "timeout_s", "result_ttl_s", "prefix"):
        default = ProducerSettings.model_fields[name].default
        assert f"[env: GENQUEUE_{name.upper()}; default: {default}]" in words
    assert f"[env: GENQUEUE_REDIS_URL, REDIS_URL; default: {DEFAULT_REDIS_URL}]" in words


@pytest.mark.parametrize("arguments", [["--help"], ["submit", "--help"], ["dashboard", "-h"]])
def test_help_is_exit_code_0(capsys: Captured, arguments: list[str]) -> None:
    assert run(arguments) == 0
    assert "Usage: genqueue" in capsys.readouterr().out
