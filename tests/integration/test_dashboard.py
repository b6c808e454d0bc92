"""The dashboard in a process of its own, on a real server with jobs in every state, seen by a real browser.

How the pages look: `make captures`. What they hold of a job: tests/unit/producer/dashboard.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import redis
from rq import Queue, SimpleWorker
from rq.job import Job

from producer.broker.embedded import EmbeddedBroker
from tests.browser import table_rows
from tests.dashboard_jobs import ANSWER, HOSTILE_ANSWER, MODEL_QUEUE, PROMPT, make_jobs
from tests.devtools import Tab, open_tab


@pytest.fixture
def jobs_in_every_state(redis_client: redis.Redis) -> SimpleWorker:
    """See `make_jobs`; the worker that is busy with one of them."""
    return make_jobs(redis_client)


@contextmanager
def started(redis_url: str, more: Sequence[str] = ()) -> Iterator[str]:
    """URL of a dashboard in a process of its own."""
    options = ["-W", "error", "-m", "producer", "dashboard", "--port", "0", "--redis-url"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GENQUEUE_")}
    # A signal to the terminal's process group is the tests' to handle.
    with subprocess.Popen(
        [sys.executable, *options, redis_url, *more],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        try:
            announced = process.stderr.readline()
            assert announced.startswith("dashboard: "), announced + process.stderr.read()
            yield announced.split()[-1]
        finally:
            process.terminate()
            errors = process.stderr.read()
    assert "Traceback" not in errors, errors


@pytest.fixture(scope="module")
def plain_dashboard(_session_broker: EmbeddedBroker) -> Iterator[str]:
    """One for all tests that name no options: it keeps nothing, and asks Redis each time."""
    with started(_session_broker.url) as url:
        yield url


@pytest.fixture
def dashboard(broker: EmbeddedBroker, request: pytest.FixtureRequest) -> Iterator[str]:
    """Its URL; of one with more options, where the test names some."""
    if not hasattr(request, "param"):
        yield request.getfixturevalue("plain_dashboard")
        return
    with started(broker.url, request.param) as url:
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """Headless Chromium with a fresh profile, for the whole module: it takes longer to start than to use."""
    with open_tab(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


def dom(browser: Tab, url: str) -> str:
    """The page as HTML, once its scripts have filled it."""
    browser.open(url)
    browser.until("!document.querySelector('[data-role=loading-placeholder]')")
    return str(browser.run("document.documentElement.outerHTML"))


def status_of(url: str, method: str = "GET", **headers: str) -> int:
    """HTTP status of one request."""
    try:
        with urlopen(Request(url, method=method, headers=headers), timeout=100) as response:
            return int(response.status)
    except HTTPError as error:
        error.close()
        return error.code


@pytest.mark.usefixtures("jobs_in_every_state")
def test_queues_page_counts_the_jobs_of_every_state(dashboard: str, browser: Tab) -> None:
    rows = table_rows(dom(browser, dashboard), "queues")
    # queue, queued, deferred, scheduled, started, finished, failed, cancelled
    assert rows == [[MODEL_QUEUE, "2", "1", "0", "1", "2", "1", "2"]]


@pytest.mark.usefixtures("jobs_in_every_state")
@pytest.mark.parametrize(
    ("registry", "job_ids"),
    [
        ("queued", ["queued-1", "queued-2"]),
        ("started", ["running"]),
        ("failed", ["failed"]),
        ("canceled", ["cancelled", "stopped"]),
    ],
)
def test_jobs_page_lists_our_jobs_without_their_prompts(
    dashboard: str, browser: Tab, registry: str, job_ids: list[str]
) -> None:
    html = dom(browser, f"{dashboard}/0/view/jobs/{MODEL_QUEUE}/{registry}/8/asc/1")
    cells = [row[0] for row in table_rows(html, "jobs")]
    for cell, job_id in zip(cells, job_ids, strict=True):
        assert cell.startswith(f"generate with tiny ({job_id}) {job_id}")
    assert PROMPT not in html


@pytest.mark.usefixtures("jobs_in_every_state")
def test_job_page_shows_the_result_of_a_finished_job(dashboard: str, browser: Tab) -> None:
    html = dom(browser, f"{dashboard}/0/view/job/done")
    assert '<strong class="status status-finished">finished</strong>' in html
    assert ANSWER in html
    assert str(2**53 + 1) in html
    assert "generate with tiny (done)" in html
    assert PROMPT not in html


@pytest.mark.usefixtures("jobs_in_every_state")
def test_job_page_links_to_the_job_that_a_deferred_one_waits_for(dashboard: str, browser: Tab) -> None:
    """rq-dashboard 0.9 answers 500 for a job with depends_on: it decodes ids that RQ 3 has decoded already."""
    html = dom(browser, f"{dashboard}/0/view/job/waiting")
    assert '<strong class="status status-deferred">deferred</strong>' in html
    assert '<a href="/0/view/job/running">running</a>' in html


@pytest.mark.usefixtures("jobs_in_every_state")
def test_workers_page_shows_a_busy_worker_and_no_prompt(dashboard: str, browser: Tab) -> None:
    """rq-dashboard 0.9 answers 500 while a worker is busy with a JSON job; mended, it would quote the prompt."""
    html = dom(browser, f"{dashboard}/0/view/workers")
    assert table_rows(html, "workers") == [["gpu-0", "generate with tiny (running)", MODEL_QUEUE]]
    assert PROMPT not in html


@pytest.mark.usefixtures("jobs_in_every_state")
def test_a_models_output_is_text_and_never_markup(dashboard: str, browser: Tab) -> None:
    """rq-dashboard 0.9 puts results into the page as HTML, so that a generated <img onerror=…> would run."""
    html = dom(browser, f"{dashboard}/0/view/job/hostile")
    assert HOSTILE_ANSWER.replace("<", "&lt;").replace(">", "&gt;") in html
    assert "<title>Job hostile</title>" in html


def test_unknown_and_impossible_job_ids_are_404(dashboard: str) -> None:
    for job_id in ("never-submitted", "a%20b", "a:b", "x" * 500):
        assert status_of(f"{dashboard}/0/view/job/{job_id}") == 404
        assert status_of(f"{dashboard}/0/data/job/{job_id}.json") == 404
        assert status_of(f"{dashboard}/job/{job_id}/requeue", method="POST") == 404


@pytest.mark.usefixtures("jobs_in_every_state")
def test_a_failed_job_can_be_requeued_and_no_other(dashboard: str, redis_client: redis.Redis) -> None:
    assert status_of(f"{dashboard}/job/done/requeue", method="POST") == 409
    assert status_of(f"{dashboard}/job/failed/requeue", method="POST") == 200
    queue = Queue(MODEL_QUEUE, connection=redis_client, serializer="json")
    assert queue.get_job_ids() == ["queued-1", "queued-2", "failed"]
    assert queue.fetch_job("failed").kwargs == {"request": {"prompt": PROMPT}}


def test_a_busy_worker_whose_job_was_deleted_is_listed(
    dashboard: str, jobs_in_every_state: SimpleWorker, redis_client: redis.Redis
) -> None:
    redis_client.delete(Job.key_for("running"))
    with urlopen(f"{dashboard}/0/data/workers.json", timeout=100) as response:
        (worker,) = json.load(response)["workers"]
    assert (worker["name"], worker["current_job"]) == (jobs_in_every_state.name, "idle")


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.makedirs, (str(self.folder), 0o700, True)


class PickledJob(Job):
    """Of another application, which shares our server and uses RQ's default serializer."""

    def perform(self) -> object:
        return Bomb(Path(self.description))


@pytest.mark.parametrize("dashboard", [["--all"]], indirect=True, ids=["all"])
def test_nothing_is_ever_unpickled(dashboard: str, redis_client: redis.Redis, tmp_path: Path) -> None:
    """Arguments, meta and results are pickles here; each page still lists the jobs, and none of them went off."""
    exploded = tmp_path / "exploded"
    queue = Queue("elsewhere", connection=redis_client, job_class=PickledJob)
    worker = SimpleWorker([queue], name="elsewhere-0", connection=redis_client, job_class=PickledJob)
    worker.register_birth()
    bomb = Bomb(exploded)
    for job_id in ("done", "running"):
        queue.enqueue("app.work", args=(bomb,), meta={"bomb": bomb}, job_id=job_id, description=str(exploded))
    worker.execute_job(queue.fetch_job(queue.pop_job_id()), queue)
    worker.prepare_execution(queue.fetch_job(queue.pop_job_id()))
    exploded.rmdir()  # made by RQ's own worker: the bombs are armed

    for page in (
        "",
        "0/view/workers",
        "0/data/workers.json",
        "0/view/jobs/elsewhere/finished/8/asc/1",
        "0/data/queues.json",
        "0/data/jobs/elsewhere/finished/8/asc/1.json",
        "0/data/jobs/elsewhere/started/8/asc/1.json",
        "0/view/job/done",
        "0/data/job/done.json",
        "0/data/job/running.json",
    ):
        assert status_of(f"{dashboard}/{page}") == 200, page
    assert not exploded.exists()
