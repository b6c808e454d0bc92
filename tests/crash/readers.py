"""Clients that read one answer after another: openai's by the README's helper, and a page by the gateway's."""

import contextlib
import functools
import http.server
import json
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from producer.gateway import page_files
from tests.devtools import Tab, open_tab
from tests.documents import Document

from .house import HOSTS, LONG_S, House

PAGE = Path(__file__).with_name("page.html")
SCRIPTS = ("stream.js", "fetched.js")
OF_A_HOST = 5
"""Streams of the browser. A sixth connection is for what else it asks."""


@dataclass
class Answer:
    """What a client has seen of one."""

    which: int
    """Of the requests."""
    public_id: str
    text: str
    faults: list[str] = field(default_factory=list)


class OpenAIReaders:
    """Threads, each of which reads one answer after another until told to stop; one at least."""

    def __init__(self, house: House, asked: list[dict[str, Any]], count: int, rng: random.Random) -> None:
        names: dict[str, Any] = {"__name__": "recipe"}
        exec(compile(Document("producer/gateway/README.md").blocks("Coming back")[0], "recipe", "exec"), names)
        self._answer = names["answer"]
        self._house, self._asked = house, asked
        self.answers: list[Answer] = []
        self.errors: list[str] = []
        self.is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._read, args=(random.Random(rng.random()),), daemon=True)
            for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, rng: random.Random) -> None:
        while True:
            which = rng.randrange(len(self._asked))
            try:
                chunks = list(self._answer([self._house.url()], **self._asked[which]))
            except Exception as error:  # noqa: BLE001 - whatever it is, the helper should have met it
                self.errors.append(repr(error))
            else:
                faults = [] if len({chunk.id for chunk in chunks}) == 1 else ["chunks of several answers"]
                text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
                self.answers.append(Answer(which, chunks[0].id, text, faults))
            if self.is_over.is_set():
                return

    def finish(self) -> None:
        """Until each has read its last."""
        self.is_over.set()
        for thread in self._threads:
            thread.join(LONG_S)
            assert not thread.is_alive(), "a client of openai's still waits"


class BrowserReaders:
    """Streams of a page in Chromium."""

    def __init__(self, tab: Tab, origin: str, house: House, asked: list[dict[str, Any]], count: int) -> None:
        self._tab = tab
        tab.open(f"{origin}/page.html")
        tab.until("window.isThere")
        hosts = [house.url(host) for host in HOSTS[: -(-count // OF_A_HOST)]]
        each = min(count, OF_A_HOST)
        tab.run(f"start({hosts!r}, {each}, {json.dumps(asked)})")

    def count(self) -> int:
        """Answers so far."""
        return int(self._tab.run("window.answers.length"))

    def finish(self) -> None:
        """Until each has read its last."""
        self._tab.run("window.isOver = true")
        self._tab.until("window.left === 0", LONG_S)

    @property
    def answers(self) -> list[Answer]:
        """All that were read."""
        found = []
        for said in self._tab.run("window.answers"):
            faults = [] if said["ids"] == list(range(len(said["ids"]))) else [f"cursors {said['ids']}"]
            faults += [said["error"]] if said.get("error") else []
            public_id = said.get("address", "").rpartition("/")[2]
            found.append(Answer(said["which"], public_id, said["text"], faults))
        return found


@contextlib.contextmanager
def page() -> Iterator[str]:
    """The origin of a site of somebody else, with the page that follows streams."""
    files = {f"/{name}": (page_files.FOLDER / name).read_bytes() for name in SCRIPTS}
    files["/page.html"] = PAGE.read_bytes()
    handler = functools.partial(_Site, files)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Site(http.server.BaseHTTPRequestHandler):
    def __init__(self, files: dict[str, bytes], *arguments: Any) -> None:
        self._files = files
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """One of the files."""
        content = self._files.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("content-type", "text/javascript" if self.path.endswith(".js") else "text/html")
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """A tab of Chromium, or a skipped test."""
    with open_tab(folder / "profile") as tab:
        yield tab
