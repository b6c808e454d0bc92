"""The page of a job: what a person reads there, and what nobody reads who was not to."""

from html.parser import HTMLParser
from typing import Any

import pytest
from flask.testing import FlaskClient
from rq import Queue
from rq.results import Result

from producer.contract import FUNCTION
from producer.dashboard import make_app

from .conftest import PROMPT, URL, cancel, enqueue, fail, finish, stop

HOSTILE = "<script>alert('owned')</script>"


class Page(HTMLParser):
    """A page as a browser has it: the texts of its elements by their classes, and what is folded away."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.pre: dict[str, list[str]] = {}
        self.facts: dict[str, str] = {}
        self.folded: dict[str, str] = {}
        self.scripts = 0
        self._open: list[tuple[str, str]] = []
        self._details = self._name = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "script" and "src" not in attributes:
            self.scripts += 1
        if tag == "pre":
            self.pre.setdefault((attributes.get("class") or "").split()[-1], []).append("")
        if tag == "details":
            self._details = "open" if "open" in attributes else "folded"
        self._open.append((tag, attributes.get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass
        if tag == "details":
            self._details = ""

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self._open]
        if "pre" in tags:
            kind = next(kind for tag, kind in self._open if tag == "pre").split()[-1]
            # A browser drops a line break right behind <pre>.
            self.pre[kind][-1] += data if self.pre[kind][-1] else data.removeprefix("\n")
            if self._details == "folded":
                self.folded[kind] = data
        elif "dt" in tags:
            self._name = data.strip()
        elif "dd" in tags and data.strip():
            self.facts[self._name] = data.strip()


def page(client: FlaskClient, job_id: str) -> Page:
    response = client.get(f"/0/view/job/{job_id}")
    assert response.status_code == 200, response.text
    return Page(response.text)


@pytest.fixture
def open_client() -> FlaskClient:
    """Of a dashboard that shows prompts."""
    return make_app(URL, show_prompts=True).test_client()


@pytest.mark.parametrize(
    "text", ["你好，\n\n  eins\tzwei\n", "\nbegins with a line break", HOSTILE, "a & b &amp; c", ""]
)
def test_the_answer_is_there_as_it_is(client: FlaskClient, queue: Queue, text: str) -> None:
    finish(queue, "a", text=text)
    shown = page(client, "a")
    assert shown.pre["answer"] == [text]
    assert shown.scripts == 1, "its own"


def test_token_ids_are_folded(client: FlaskClient, queue: Queue) -> None:
    finish(queue, "a", token_ids=list(range(1000, 1009)))
    assert page(client, "a").folded["ids"].split(", ")[-1] == "1008"


def test_numbers_are_exact(client: FlaskClient, queue: Queue) -> None:
    finish(queue, "a", seed=2**53 + 1)
    shown = page(client, "a")
    assert shown.facts["Seed"] == str(2**53 + 1)
    assert f'"seed": {2**53 + 1}' in shown.folded["json"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "stop"),
        ({"stop": "\n\n"}, r"stop: '\n\n'"),
        ({"finish_reason": "length"}, "length: the answer was cut off"),
    ],
)
def test_it_says_why_the_answer_ends(
    client: FlaskClient, queue: Queue, fields: dict[str, Any], reason: str
) -> None:
    finish(queue, "a", **fields)
    assert page(client, "a").facts["Finish reason"] == reason


def test_times_have_a_zone(client: FlaskClient, queue: Queue) -> None:
    finish(queue, "a")
    assert page(client, "a").facts["Created"].endswith(" UTC")


REQUESTS = [
    ({"prompt": f"{PROMPT}\n{HOSTILE}"}, [f"{PROMPT}\n{HOSTILE}"]),
    (
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]},
        ["Be brief.", PROMPT],
    ),
    ({"prompt_token_ids": [1, 2]}, ["[\n  1,\n  2\n]"]),
]


@pytest.mark.parametrize(("request_", "shown"), REQUESTS)
def test_the_prompt_is_shown_where_that_is_asked_for(
    open_client: FlaskClient, queue: Queue, request_: dict[str, Any], shown: list[str]
) -> None:
    enqueue(queue, "a", **request_)
    assert page(open_client, "a").pre["prompt"] == shown


def test_it_is_shown_nowhere_else(client: FlaskClient, queue: Queue) -> None:
    """RQ's own description, of a script that gives none, is the call with its arguments."""
    for registry in ("queued", "failed"):
        job = queue.enqueue(FUNCTION, request={"prompt": PROMPT}, job_id=registry)
        assert PROMPT in job.description
        if registry == "failed":
            fail(queue, registry)
        for path in (
            f"view/job/{registry}",
            f"data/job/{registry}.json",
            f"data/jobs/{queue.name}/{registry}/8/asc/1.json",
        ):
            answer = client.get(f"/0/{path}").text
            assert registry in answer
            assert PROMPT not in answer, path


def test_a_requeue_leaves_the_description_as_it_was(client: FlaskClient, queue: Queue) -> None:
    fail(queue, "a")
    job = queue.fetch_job("a")
    assert job is not None
    job.description = f"{FUNCTION}(request={{'prompt': 'Hi'}})"
    job.save()
    assert client.post("/job/a/requeue").status_code == 200
    requeued = queue.fetch_job("a")
    assert requeued is not None
    assert requeued.description == job.description


def test_a_failed_job_shows_its_error_and_can_be_requeued(client: FlaskClient, queue: Queue) -> None:
    fail(queue, "a", f"engine_error: {HOSTILE}")
    assert page(client, "a").pre["error"] == [f"engine_error: {HOSTILE}"]
    assert 'id="requeue-job-btn"' in client.get("/0/view/job/a").text


@pytest.mark.parametrize("end", [stop, cancel])
def test_a_cancelled_job_has_not_failed(client: FlaskClient, queue: Queue, end: Any) -> None:
    """While it ran: RQ calls it stopped, and files it under the failed ones."""
    end(queue, "a")
    html = client.get("/0/view/job/a").text
    assert '<strong class="status status-cancelled">cancelled</strong>' in html
    assert "error" not in Page(html).pre
    assert 'id="requeue-job-btn"' not in html


def test_another_applications_result_is_shown_as_it_is(client: FlaskClient, queue: Queue) -> None:
    job = enqueue(queue, "a")
    Result.create(job, Result.Type.SUCCESSFUL, ttl=600, return_value={"sum": 3, "text": HOSTILE})
    shown = page(client, "a")
    assert "answer" not in shown.pre
    assert HOSTILE in shown.pre["json"][0]
    assert "json" not in shown.folded


def test_a_running_job_says_how_far_it_is(client: FlaskClient, queue: Queue) -> None:
    job = enqueue(queue, "a")
    job.meta = {"phase": "decode", "tokens": 12, "tokens_per_second": 30.06}
    job.save_meta()
    facts = page(client, "a").facts
    assert (facts["Phase"], facts["Tokens"], facts["Speed"]) == ("decode", "12", "30.1 tokens/s")


@pytest.mark.parametrize("meta", [["a", "list"], {"phase": HOSTILE, "tokens": None}, {"mine": 1}])
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"request": 3}, {"request": {"messages": ["x", {"role": HOSTILE}]}}, {"request": {"prompt": {}}}],
)
def test_whatever_somebody_has_written_the_page_is_there(
    open_client: FlaskClient, queue: Queue, meta: Any, kwargs: dict[str, Any]
) -> None:
    job = queue.enqueue(FUNCTION, kwargs=kwargs, job_id="a", description=HOSTILE)
    job.meta = meta
    job.save_meta()
    assert page(open_client, "a").scripts == 1
