"""`ps`, `models`, `cancel` of many and `delete` on fakeredis: what goes to stdout, and which exit code is said."""

import json
import sys
from collections.abc import Callable
from functools import partialmethod
from types import SimpleNamespace

import pytest
from fakeredis import FakeRedis, FakeServer

from producer import Producer, client as producer_client
from producer.cli import run
from producer.commands import ps as ps_module
from producer.commands.output import EXIT_BAD_INPUT, EXIT_NOT_NOW
from producer.contract import WaitTimeout
from producer.overview_values import Overview
from tests.scripted_worker import ScriptedWorker

from .test_overview import alive

Captured = pytest.CaptureFixture[str]
EVIL = "[bold]x[/b]\x1b[2J"


@pytest.fixture(autouse=True)
def _fake_connections(fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer_client, "connect", lambda *_, **__: FakeRedis(server=fake_server))
    monkeypatch.setenv("COLUMNS", "80")


def _two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(ps_module, "time", SimpleNamespace(sleep=sleep))


def test_ps_shows_workers_and_what_waits_runs_and_has_ended(
    producer: Producer, worker: ScriptedWorker, client: FakeRedis, capsys: Captured
) -> None:
    done, running, *_ = producer.submit_many(list("abcd"), model="tiny")
    producer.submit("e", model="tiny", priority="high")
    alive(client, "genqueue-1a2b3c4d", device="cuda:0", hostname="somewhere", state="busy", job_seconds="2.5")
    worker.play("x", job_id=done.job_id)
    client.zadd("rq:finished:generate.tiny", {done.job_id: 2e9})
    client.hset(f"rq:job:{done.job_id}", "ended_at", "2026-01-01T00:00:00.000000Z")
    worker.take(running.job_id)
    client.zadd("rq:wip:generate.tiny", {f"{running.job_id}:run": "inf"})
    meta = json.dumps({"phase": EVIL, "tokens": 12, "tokens_per_second": 30.12})
    client.hset(f"rq:job:{running.job_id}", "meta", meta)

    assert run(["ps"]) == 0

    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("tiny  3 waiting (1 high, oldest 0 s; 2 normal, oldest 0 s), 1 running, 1 done")
    assert [line.split() for line in lines if "genqueue-1a2b3c4d" in line] == [
        ["genqueue-1a2b3c4d", "busy", "cuda:0", "somewhere", "2.5"]
    ]
    assert [line.split() for line in lines if running.job_id in line] == [[running.job_id, "w1", "12", "30.1"]]
    assert [line.split()[:2] for line in lines if done.job_id in line] == [[done.job_id, "finished"]]


def test_ps_shows_which_jobs_are_paused(
    producer: Producer, worker: ScriptedWorker, client: FakeRedis, capsys: Captured
) -> None:
    for job, phase in zip(producer.submit_many(["a", "b"], model="tiny"), ("paused", "decode"), strict=True):
        worker.take(job.job_id)
        client.zadd("rq:wip:generate.tiny", {f"{job.job_id}:run": "inf"})
        client.hset(f"rq:job:{job.job_id}", "meta", json.dumps({"phase": phase, "tokens": 12}))
    assert run(["ps"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ", 1 running, 1 paused, 0 done" in lines[0]
    assert sum("w1 (paused)" in line for line in lines) == 1


def test_ps_with_json_is_one_object(producer: Producer, capsys: Captured) -> None:
    producer.submit("a", model="tiny")
    assert run(["ps", "--json", "--model-name", "tiny"]) == 0
    seen = Overview.model_validate_json(capsys.readouterr().out)
    assert (seen.models[0].model, seen.models[0].queued) == ("tiny", 1)


def test_what_a_record_says_is_text(client: FakeRedis, producer: Producer, capsys: Captured) -> None:
    alive(client, "w1", hostname=EVIL, device=EVIL, state=EVIL)
    assert run(["ps"]) == 0
    out = capsys.readouterr().out
    assert "[bold]x[/b]\ufffd[2J" in out
    assert "\x1b[2J" not in out


def test_where_nothing_is_known_it_says_what_to_do(capsys: Captured) -> None:
    assert run(["ps"]) == 0
    assert "submit a job, or start a worker" in capsys.readouterr().out
    assert run(["models"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "genqueue-worker run --model-name NAME" in err


def test_that_workers_are_suspended_stands_above(client: FakeRedis, producer: Producer, capsys: Captured) -> None:
    producer.submit("a", model="tiny")
    alive(client, "w1", state="suspended")
    client.set("rq:suspended", "1")
    assert run(["ps"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("suspended through RQ: no worker takes a job until `rq resume`\n")
    assert "w1      suspended" in out


def test_a_model_that_nobody_serves_is_shown_as_that(producer: Producer, capsys: Captured) -> None:
    producer.submit("a", model="tiny")
    assert run(["ps"]) == 0
    assert "no live worker serves tiny" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["ps", "--watch"], ["ps", "--watch", "--json"]])
def test_piped_watch_shows_one_look_after_the_other(
    producer: Producer, capsys: Captured, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    producer.submit("a", model="tiny")
    _two_looks(monkeypatch)
    assert run(arguments) == 130
    out = capsys.readouterr().out
    if "--json" in arguments:
        assert [json.loads(line)["models"][0]["model"] for line in out.splitlines()] == ["tiny", "tiny"]
    else:
        assert out.count("tiny  1 waiting") == 2
        assert "\x1b" not in out


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e300", "0"])
def test_an_interval_that_nobody_can_wait_for_is_refused(capsys: Captured, seconds: str) -> None:
    assert run(["ps", "--watch", "--interval-s", seconds]) == EXIT_BAD_INPUT
    assert "--interval-s" in capsys.readouterr().err


def test_watch_goes_on_after_an_outage(
    producer: Producer, capsys: Captured, monkeypatch: pytest.MonkeyPatch, fake_server: FakeServer
) -> None:
    producer.submit("a", model="tiny")
    monkeypatch.setattr("producer.broker.tries.REFUSED_S", 0.01)
    fake_server.connected = False
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        fake_server.connected = True
        if len(looks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(ps_module, "time", SimpleNamespace(sleep=sleep))
    assert run(["ps", "--watch", "--interval-s", "3"]) == 130
    out, err = capsys.readouterr()
    assert "check the URL" in err
    assert out.count("tiny  1 waiting") == 1
    assert looks == [3, 3]


def test_models_says_who_serves_what(producer: Producer, client: FakeRedis, capsys: Captured) -> None:
    producer.submit("a", model="tiny")
    alive(client, "w1", chat_template="1", context_length="4096")
    alive(client, "w2", chat_template="1", context_length="2048", state="suspended")
    alive(client, "w3", model_state="loading")
    client.sadd("rq:queues", "rq:queue:generate.once")
    assert run(["models"]) == 0
    head, tiny = capsys.readouterr().out.splitlines()
    assert head.split() == ["MODEL", "CHAT", "READY", "LOADING", "SUSPENDED", "CONTEXT", "WAITING", "RUNNING"]
    assert tiny.split() == ["tiny", "yes", "1", "1", "1", "2048-4096", "1", "0"]

    assert run(["models", "--json"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["model"] == "tiny"


# -- cancel and delete


def test_several_jobs_are_cancelled_with_a_line_for_each(producer: Producer, capsys: Captured) -> None:
    ids = [job.job_id for job in producer.submit_many(list("ab"), model="tiny")]
    assert run(["cancel", *ids]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"{job_id} cancelled" for job_id in ids]
    assert err == "2 cancelled\n"

    assert run(["cancel", ids[0], "unknown"]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"{ids[0]} ended", "unknown no_such_job"]
    assert err == "1 had ended before, 1 not known\n"


@pytest.mark.parametrize("option", ["--queued", "--all"])
def test_all_that_wait_are_cancelled(
    producer: Producer, worker: ScriptedWorker, capsys: Captured, option: str
) -> None:
    running, *_ = producer.submit_many(list("abc"), model="tiny")
    producer.submit("a", model="small")
    worker.take(running.job_id)
    worker.client.zadd("rq:wip:generate.tiny", {f"{running.job_id}:run": "inf"})
    assert run(["cancel", option, "--model-name", "tiny"]) == 0
    requested = ", 1 requested of their workers" if option == "--all" else ""
    assert capsys.readouterr().out == f"2 cancelled{requested}\n"
    assert run(["cancel", option, "--model-name", "other"]) == 0
    assert capsys.readouterr().out == "0 cancelled\n"


@pytest.mark.parametrize(("answer", "exit_code"), [("y", 0), ("n", 1), ("", 1)])
def test_on_a_terminal_all_asks_first(
    producer: Producer, capsys: Captured, monkeypatch: pytest.MonkeyPatch, answer: str, exit_code: int
) -> None:
    job = producer.submit("a", model="tiny")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: answer)
    assert run(["cancel", "--all"]) == exit_code
    assert job.status().state == ("cancelled" if exit_code == 0 else "queued")
    assert run(["cancel", "--all", "--yes"]) == 0
    assert job.status().state == "cancelled"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "ids of jobs, or --queued, or --all"),
        (["a", "--all"], "ids of jobs, or --queued, or --all"),
        (["--queued", "--all"], "ids of jobs, or --queued, or --all"),
        (["a", "--model-name", "tiny"], "--model-name goes with"),
    ],
)
def test_what_is_to_be_cancelled_has_to_be_said(capsys: Captured, arguments: list[str], said: str) -> None:
    assert run(["cancel", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_job_is_deleted(producer: Producer, client: FakeRedis, capsys: Captured) -> None:
    first, *others = (job.job_id for job in producer.submit_many(list("abc"), model="tiny"))
    assert run(["delete", first]) == 0
    assert capsys.readouterr().out == "deleted\n"
    assert not [key for key in client.keys("*") if first.encode() in key]

    assert run(["delete", others[0], first, others[1]]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"{job_id} deleted" for job_id in others]
    assert "deleted before" in err


def test_one_that_a_worker_has_keeps_no_other_from_being_deleted(
    producer: Producer, client: FakeRedis, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (job.job_id for job in producer.submit_many(list("ab"), model="tiny"))
    monkeypatch.setattr(Producer, "delete", partialmethod(_held_delete, Producer.delete, first))
    assert run(["delete", first, second]) == EXIT_NOT_NOW
    assert run(["delete", first, "no job id", second]) == EXIT_BAD_INPUT
    out, err = capsys.readouterr()
    assert out == f"{second} deleted\n"
    assert "is with w1" in err
    assert "job id 'no job id' is not valid" in err


def _held_delete(self: Producer, delete: Callable[..., None], held: str, job_id: str) -> None:
    if job_id == held:
        raise WaitTimeout(f"job {job_id} is with w1")
    delete(self, job_id)
