"""The line on stderr while a job waits: on a terminal only, and gone before the first token."""

import io
import json
import threading

import pytest
from fakeredis import FakeRedis, FakeServer
from rich.console import Console
from rich.status import Status

from producer import Producer
from producer.display import NoLine, WaitingLine, waiting_line
from producer.printable import printable
from tests.scripted_worker import ScriptedWorker


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> "Shown":
    shown = Shown()
    monkeypatch.setattr(Status, "update", lambda _, text: shown.add(text))
    return shown


class Shown:
    """The texts of the line, as they come."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._came = threading.Condition()

    def add(self, text: str) -> None:
        with self._came:
            self.texts.append(text)
            self._came.notify_all()

    def wait_for(self, words: str) -> bool:
        with self._came:
            return self._came.wait_for(lambda: any(words in text for text in self.texts), timeout=60)


def test_where_stderr_is_no_terminal_nothing_is_shown(
    producer: Producer, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = producer.submit("Hi", model="tiny")

    with waiting_line(producer, handle.job_id) as line:
        assert isinstance(line, NoLine)

    assert capsys.readouterr() == ("", "")


def test_the_line_says_where_the_job_stands_and_follows_it(producer: Producer, shown: Shown) -> None:
    ahead, handle = producer.submit_many(["Hi", "Ho"], model="tiny")
    line = WaitingLine(producer, handle.job_id, Console(force_terminal=True, quiet=True))

    assert shown.wait_for("queued, 2nd in line; no live worker serves tiny")
    ahead.cancel()
    assert shown.wait_for("queued, 1st in line")
    line.clear()
    line.clear()


def test_the_line_shows_an_outage_and_goes_on(producer: Producer, shown: Shown, fake_server: FakeServer) -> None:
    handle = producer.submit("Hi", model="tiny")
    fake_server.connected = False
    line = WaitingLine(producer, handle.job_id, Console(force_terminal=True, quiet=True))

    assert shown.wait_for("check the URL")
    fake_server.connected = True
    assert shown.wait_for("queued, 1st in line")
    line.clear()


@pytest.mark.parametrize("phase", ["[/b]", "[bold]x", "\x1b[2Jgone", "[link=http://x]y"])
def test_a_workers_words_are_text_and_neither_markup_nor_orders_to_the_terminal(
    producer: Producer, worker: ScriptedWorker, client: FakeRedis, phase: str
) -> None:
    """A closing tag that nobody had opened ended the waiting line's thread with a MarkupError."""
    handle = producer.submit("Hi", model="tiny")
    worker.register()
    worker.take()
    client.hset(f"rq:job:{handle.job_id}", "meta", json.dumps({"phase": phase, "tokens": 3}))
    written = Written()
    line = WaitingLine(producer, handle.job_id, Console(force_terminal=True, width=200, file=written))

    assert written.wait_for(phase.replace("\x1b", "\ufffd"))
    line.clear()


class Written(io.StringIO):
    """What a terminal is sent."""

    def __init__(self) -> None:
        super().__init__()
        self._came = threading.Condition()

    def write(self, text: str) -> int:
        with self._came:
            written = super().write(text)
            self._came.notify_all()
        return written

    def wait_for(self, words: str) -> bool:
        with self._came:
            return self._came.wait_for(lambda: words in self.getvalue(), timeout=10)


def test_what_is_printable_stays() -> None:
    assert printable("你好\n\tx 1 é 🙂") == "你好\n\tx 1 é 🙂"
    assert printable("a\x00b\x1b[31mc\x9bd\r") == "a\ufffdb\ufffd[31mc\ufffdd\ufffd"
