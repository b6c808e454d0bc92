"""How the dashboard's pages look, as far as that can be measured: as wide as the window, and readable."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

import pytest
import redis
from flask import Flask, request
from rq import Queue
from werkzeug.serving import make_server

from producer.broker.embedded import EmbeddedBroker
from producer.contract import FUNCTION
from producer.dashboard import make_app
from tests.browser import open_browser
from tests.dashboard_jobs import make_jobs
from tests.devtools import open_tab

REPORT = (Path(__file__).parent / "page_report.html").read_text()
LONG = "x" * 120
LONG_QUEUE = f"generate.{LONG[:60]}.high"
"""The longest name that a model can have."""
LISTS = ("queued", "finished", "failed", "canceled")
PAGES = (
    "/",
    "/0/view/workers",
    "/0/view/job/gone",
    *(f"/0/view/jobs/generate.tiny/{name}/8/asc/1" for name in LISTS),
    f"/0/view/jobs/{LONG_QUEUE}/queued/8/asc/1",
    *(f"/0/view/job/{job_id}" for job_id in ("done", "failed", "running", "waiting", LONG)),
)
WIDTHS = (800, 1280)

pytestmark = pytest.mark.slow


@pytest.fixture
def address(broker: EmbeddedBroker, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """Of a dashboard in this process, which has one page more: the one that reports on the others."""
    caplog.set_level("WARNING", "werkzeug")
    make_jobs(redis_client)
    long_queue = Queue(LONG_QUEUE, connection=redis_client, serializer="json")
    long_queue.enqueue(FUNCTION, request={"prompt": LONG * 9}, job_id=LONG, description=LONG * 9)
    app = make_app(broker.url, show_prompts=True)
    app.add_url_rule("/report", view_func=lambda: REPORT)
    with served(app) as address:
        yield address


@contextmanager
def served(app: Flask) -> Iterator[str]:
    """The application's address, while a thread serves it."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_into_its_window_and_can_be_read(address: str, tmp_path: Path, scheme: str) -> None:
    browser = open_browser(tmp_path, dark=scheme == "dark")
    query = urlencode({"page": PAGES, "width": WIDTHS}, doseq=True)
    html = browser.dom(f"{address}/report?{query}")
    found = re.search(r'<pre id="report">(.*?)</pre>', html, re.DOTALL)
    assert found, html[:2000]
    pages = json.loads(unescape(found[1]))
    assert {(page["page"], page["width"]) for page in pages} == {
        (page, width) for page in PAGES for width in WIDTHS
    }
    assert all(page["texts"] > 10 for page in pages)
    assert [(page["page"], page["width"]) for page in pages if page["scrolls"]] == []
    assert {page["page"]: page["faint"] for page in pages if page["faint"]} == {}


def test_open_pages_say_that_redis_has_gone(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """They said "Loading..." for ever, or went on showing what had been."""
    app = make_app(broker.url)

    @app.before_request
    def _lose_redis() -> None:
        """Once the page is there, and its script asks for the data."""
        if request.path.endswith(".json"):
            raise redis.ConnectionError("Connection refused")

    with served(app) as address, open_tab(tmp_path) as tab:
        for page in ("/", "/0/view/workers", "/0/view/jobs/generate.tiny/queued/8/asc/1"):
            tab.open(address + page)
            trouble = "document.querySelector('#trouble[role=alert]')"
            tab.until(f"{trouble} && !{trouble}.hidden && {trouble}.textContent.trim()")
            said = tab.run(f"{trouble}.textContent.trim()")
            assert "it cannot be reached (Connection refused): check the URL" in said
            assert said.endswith("(What is below may be old.)")
