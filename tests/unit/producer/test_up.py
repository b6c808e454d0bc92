"""The conversation of `genqueue up`, with a worker that plays; what it starts and ends: integration/test_up.py."""

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from fakeredis import FakeRedis

from producer import Producer
from producer.cli import run
from producer.commands.up import Conversation, LinesAre
from producer.contract import BrokerUnavailable, ErrorInfo, GenqueueError
from producer.local import LocalWorker
from tests.scripted_worker import ScriptedWorker
from tests.submitted import request_of

Captured = pytest.CaptureFixture[str]
NO_ROOM = ErrorInfo(code="invalid_request", message="Set max_new_tokens to 900 or less")
TOO_LONG = ErrorInfo(code="prompt_too_long", message="the prompt does not fit: shorten it")


class Process:
    """As far as it is asked for: a worker's process, which runs until it is given an exit code."""

    code: int | None = None

    def poll(self) -> int | None:
        return self.code


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def talk(producer: Producer, process: Process) -> Callable[..., Conversation]:
    def begin(lines_are: LinesAre = "turns", **sampling: object) -> Conversation:
        local = LocalWorker("tiny", cast("Any", process), "local")
        return Conversation(producer, local, sampling, lines_are)

    return begin


@pytest.fixture
def plays(worker: ScriptedWorker) -> Iterator[Callable[..., list[str]]]:
    """Has the worker answer the next jobs with these texts, or fail with these errors; the ids of the jobs."""
    threads: list[threading.Thread] = []

    def play(*answers: str | ErrorInfo) -> list[str]:
        job_ids: list[str] = []

        def serve() -> None:
            for answer in answers:
                job_ids.append(worker.take())
                if isinstance(answer, ErrorInfo):
                    worker.finish("failed", "error", answer)
                else:
                    worker.publish(answer)
                    worker.finish()

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return job_ids

    yield play
    for thread in threads:
        thread.join(60)


def said(client: FakeRedis, job_id: str) -> list[str]:
    return [turn.content for turn in request_of(client, job_id).messages or ()]


def test_what_was_said_before_is_sent_again(client: FakeRedis, capsys: Captured, talk, plays) -> None:
    job_ids = plays("Hello.", "Fine.")
    chat = talk(max_new_tokens=9)
    chat.ask("Hi")
    chat.ask("How are you?")
    assert capsys.readouterr().out == "Hello.\nFine.\n"
    assert said(client, job_ids[1]) == ["Hi", "Hello.", "How are you?"]
    assert request_of(client, job_ids[1]).max_new_tokens == 9


def test_without_a_chat_template_a_line_is_a_prompt(client: FakeRedis, talk, plays) -> None:
    job_ids = plays("Hello.", "Fine.")
    chat = talk("prompts")
    chat.ask("Hi")
    chat.ask("How are you?")
    assert [request_of(client, job_id).prompt for job_id in job_ids] == ["Hi", "How are you?"]


def test_an_answer_comes_to_its_end_where_the_context_has_room(client: FakeRedis, talk, plays) -> None:
    job_ids = plays(NO_ROOM, "Hello.", "Fine.")
    chat = talk()
    chat.ask("Hi")
    chat.ask("How are you?")
    assert [request_of(client, job_id).max_new_tokens for job_id in job_ids] == [2048, None, None]


def test_a_model_that_knows_single_questions_is_asked_each_alone(client: FakeRedis, talk, plays) -> None:
    job_ids = plays("Hello.", "Fine.")
    chat = talk("questions")
    chat.ask("Hi")
    chat.ask("How are you?")
    assert [said(client, job_id) for job_id in job_ids] == [["Hi"], ["How are you?"]]


def test_the_oldest_turn_makes_room_for_the_newest(client: FakeRedis, capsys: Captured, talk, plays) -> None:
    job_ids = plays("1", "2", TOO_LONG, "3", "4")
    chat = talk()
    for line in ("a", "b", "c", "d"):
        chat.ask(line)
    out, err = capsys.readouterr()
    assert out == "1\n2\n3\n4\n"
    assert "its oldest turn was left out" in err
    assert said(client, job_ids[2]) == ["a", "1", "b", "2", "c"]
    assert said(client, job_ids[3]) == ["b", "2", "c"]
    assert said(client, job_ids[4]) == ["b", "2", "c", "3", "d"]


def test_a_line_that_is_too_long_by_itself_is_said_to_be(client: FakeRedis, capsys: Captured, talk, plays) -> None:
    job_ids = plays(TOO_LONG, "Yes.")
    chat = talk()
    chat.ask("long")
    chat.ask("short")
    out, err = capsys.readouterr()
    assert out == "Yes.\n"
    assert "shorten it (prompt_too_long)" in err
    assert said(client, job_ids[1]) == ["short"]  # what was not answered is no turn


def test_what_cannot_be_sent_ends_nothing(capsys: Captured, talk, plays) -> None:
    chat = talk()
    chat.ask("\udcff")
    assert "surrogate" in capsys.readouterr().err


def test_a_worker_that_has_ended_ends_it(talk, process: Process) -> None:
    process.code = 3
    with pytest.raises(GenqueueError, match=r"the worker has ended \(exit code 3\)"):
        talk().ask("Hi")


def test_a_broker_that_is_gone_ends_it(talk, fake_server) -> None:
    fake_server.connected = False
    with pytest.raises(BrokerUnavailable):
        talk().ask("Hi")


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["up", "--serve", str(port), "--redis-url", "redis://127.0.0.1:1/0"]) == 2
    said = capsys.readouterr().err
    assert f"port {port} of 127.0.0.1 cannot be had" in said
    assert "worker" not in said
