"""The programs of README.md and of the cookbook, run as they stand there, against one worker."""

import ast
import contextlib
import csv
import http.client
import inspect
import json
import os
import re
import runpy
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from transformers import GenerationConfig

from producer import GenerationRequest, Producer
from producer.broker.embedded import EmbeddedBroker
from producer.contract import (
    EventId,
    Keys,
    Markup,
    StreamedEvent,
    Tokens,
    TokensData,
    encode_entry,
    terminal_event,
)
from producer.contract.assemble import assemble
from producer.waking import WAKES_KEPT
from tests.browser import open_browser
from tests.documents import Document
from tests.outside import lack, need
from tests.scripted_worker import ScriptedWorker, blocked_readers

from .test_worker import answer_to, wait_for
from .worker_process import WorkerProcess

README = Document("README.md")
COOKBOOK = Document("producer/README.md")
NODE = Path(__file__).parent / "node"
GENQUEUE, WHO, KILL = "What is genqueue?", "Who are you?", "What survives a kill -9?"
TOOLS = Markup(tool_calls="hermes")
TIMEOUT_S = 100

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("serving")]


class Kitchen:
    """A folder in which the programs of the documents run; they find the module's server in REDIS_URL."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.environment = {**os.environ, "REDIS_URL": redis_url}

    def python(self, code: str, *arguments: str) -> str:
        """What the program prints."""
        (self.folder / "recipe.py").write_text(code, encoding="utf-8")
        return self.run(sys.executable, "recipe.py", *arguments)

    def run(self, *command: str) -> str:
        """What the command prints.  Raises AssertionError where it fails."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextlib.contextmanager
    def web_app(self, code: str) -> Iterator[str]:
        """The program as app.py under uvicorn; gives its address."""
        (self.folder / "app.py").write_text(code, encoding="utf-8")
        command = [sys.executable, "-m", "uvicorn", "app:app", "--port", "0"]
        log = self.folder / "uvicorn.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stderr=output, stdout=output
            )
        try:
            address = wait_for(
                lambda: process.poll() is not None or re.search(r"http://[\d.]+:\d+", log.read_text()),
                "uvicorn to serve",
            )
            assert process.poll() is None, log.read_text()
            yield address[0]
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)


@pytest.fixture
def kitchen(tmp_path: Path, serving_broker: EmbeddedBroker) -> Kitchen:
    return Kitchen(tmp_path, serving_broker.url)


def test_the_first_script(kitchen: Kitchen) -> None:
    [script] = README.blocks("A script")
    text, usage = kitchen.python(script).splitlines()
    assert text == answer_to(GENQUEUE)
    assert "completion_tokens" in usage


def test_a_script_with_rq_alone(kitchen: Kitchen) -> None:
    [script] = COOKBOOK.blocks("rq alone")
    assert kitchen.python(script) == answer_to(GENQUEUE) + "\n"


def test_a_chat(kitchen: Kitchen) -> None:
    [script] = README.blocks("Chat")
    first, second = kitchen.python(script).splitlines()
    assert first == answer_to(WHO)
    assert second


def test_tools(kitchen: Kitchen, broker: EmbeddedBroker, redis_client: redis.Redis) -> None:
    """`tiny` knows none: the worker is one that answers as it is told."""
    [script] = COOKBOOK.blocks("Tools")
    kitchen.environment["REDIS_URL"] = broker.url
    worker = ScriptedWorker(redis_client, model="Qwen2.5-0.5B-Instruct")
    with ThreadPoolExecutor(1) as pool:
        printed = pool.submit(kitchen.python, script)
        worker.play(
            '<tool_call>{"name": "weather", "arguments": ', '{"city": "Vienna"}}</tool_call>', markup=TOOLS
        )
        worker.play("It is ", "sunny.", markup=TOOLS)
        assert printed.result(TIMEOUT_S) == "It is sunny.\n"


def test_a_script_that_is_started_again(kitchen: Kitchen) -> None:
    [script] = COOKBOOK.blocks("A script that is started again")
    first, second = kitchen.python(script).splitlines(), kitchen.python(script).splitlines()
    assert first[:2] == ["submitted", answer_to(KILL)]
    assert second == ["submitted before", *first[1:]]


def test_an_answer_that_was_cut_off(kitchen: Kitchen) -> None:
    [script] = COOKBOOK.blocks("An answer that was cut off")
    assert kitchen.python(script) == answer_to(GENQUEUE) + "\n"


def test_answers_of_a_form(kitchen: Kitchen) -> None:
    [script] = COOKBOOK.blocks("Answers of a form")
    city, answers = kitchen.python(script).splitlines()
    assert re.fullmatch(r"\['continent', 'name', 'population'\] \d+", city)
    assert set(ast.literal_eval(answers)) <= {"yes", "no"}


def test_several_users(kitchen: Kitchen) -> None:
    [script] = COOKBOOK.blocks("Several users")
    place, refusal, text = kitchen.python(script).splitlines()
    assert place.startswith(("queued, 1st in line", "queued, 2nd in line"))
    assert "jobs of group 'alice' wait for tiny and max_queued is 50" in refusal
    assert text == answer_to(GENQUEUE)


def test_asyncio(kitchen: Kitchen) -> None:
    [script] = COOKBOOK.blocks("asyncio")
    assert kitchen.python(script).splitlines() == [answer_to(prompt) for prompt in (GENQUEUE, WHO, KILL)]


def test_prompts_from_a_csv(kitchen: Kitchen) -> None:
    [script] = COOKBOOK.blocks("Prompts from a CSV")
    prompts = [GENQUEUE, "too long " * 2000, WHO]
    with (kitchen.folder / "prompts.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["number", "prompt"], *enumerate(prompts)])
    kitchen.python(script)
    with (kitchen.folder / "answers.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == ["0", "1", "2"]
    assert [row["answer"] for row in rows] == [answer_to(GENQUEUE), "", answer_to(WHO)]
    assert [row["finish_reason"] for row in rows] == ["stop", "", "stop"]
    assert [row["error"].partition(":")[0] for row in rows] == ["", "prompt_too_long", ""]


def end_all(client: redis.Redis) -> None:
    """End all jobs of the queue, each with one token, as its worker would."""
    keys = Keys()
    token = StreamedEvent(EventId(1, 0), Tokens(data=TokensData(index=0, ids=(5,), text="a")))
    pipeline = client.pipeline()
    for raw in client.lrange("rq:queue:generate.tiny", 0, -1):
        job_id = raw.decode()
        ended = terminal_event(assemble(job_id, "tiny", [token], status="finished", finish_reason="stop"))
        pipeline.xadd(keys.events(job_id), encode_entry(ended), id="1-1")
        for wake_key in client.smembers(keys.waiters(job_id)):
            pipeline.xadd(wake_key, {"ended": job_id}, maxlen=WAKES_KEPT)
    pipeline.execute()


def test_many_at_once(kitchen: Kitchen, broker: EmbeddedBroker, redis_client: redis.Redis) -> None:
    """What is looked at is the waiting: while all of them are waited for, one read is blocked, and no other."""
    [script] = README.blocks("Many at once")
    kitchen.environment["REDIS_URL"] = broker.url
    ScriptedWorker(redis_client).register()
    with ThreadPoolExecutor(1) as pool:
        printed = pool.submit(kitchen.python, script)
        wait_for(lambda: sum(1 for _ in redis_client.scan_iter("gen:{*}:waiters")) == 900, "all to be waited for")
        readers = {each["id"] for each in blocked_readers(redis_client)}
        end_all(redis_client)
        assert printed.result(TIMEOUT_S) == "900 tokens\n"
    assert len(readers) == 1


def test_waiting_for_many_jobs(kitchen: Kitchen) -> None:
    [script] = COOKBOOK.blocks("Waiting for many jobs")
    lines = dict(line.split(" ", 1) for line in kitchen.python(script).splitlines())
    assert lines == {"0": answer_to(GENQUEUE), "1": "prompt_too_long", "2": answer_to(WHO)}


def taken_by(worker: WorkerProcess, client: redis.Redis) -> list[str]:
    """The jobs that it has in hand."""
    return [job_id.decode() for job_id in client.lrange(f"gen:{{taken:{worker.name}}}", 0, -1)]


def events_of(lines: Iterator[bytes]) -> Iterator[tuple[str, str, dict]]:
    """The id, event and data of each server-sent event."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif fields:
            yield fields["id"], fields["event"], json.loads(fields["data"])
            fields = {}


def text_of(events: list[tuple[str, str, dict]]) -> str:
    return "".join(data["text"] for _, kind, data in events if kind == "tokens")


def test_a_web_app_that_cancels_when_its_reader_leaves(
    kitchen: Kitchen, client: redis.Redis, serving: WorkerProcess
) -> None:
    [app] = COOKBOOK.blocks("FastAPI for one reader")
    with kitchen.web_app(app) as address:
        with urllib.request.urlopen(f"{address}/answer?prompt=Hi", timeout=TIMEOUT_S) as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            events = list(events_of(response))
        assert text_of(events) == events[-1][2]["text"] == answer_to("Hi")

        host = urllib.parse.urlsplit(address).netloc
        wait_for(lambda: not taken_by(serving, client), "the worker to put the first job down")
        with serving.engine_stopped():  # or the job could end before its reader leaves
            with contextlib.closing(http.client.HTTPConnection(host, timeout=TIMEOUT_S)) as reader:
                reader.request("GET", "/answer?prompt=Hi")
                job_id = wait_for(lambda: taken_by(serving, client), "the worker to take the job")[0]
            wait_for(lambda: client.exists(f"gen:{{{job_id}}}:cancel"), "the request to cancel")
    with Producer(kitchen.environment["REDIS_URL"]) as producer:
        assert [event.event.type for event in producer.stream(job_id)][-1] == "cancelled"


def ask(address: str, **body: object) -> dict:
    """POST /jobs."""
    request = urllib.request.Request(
        f"{address}/jobs", json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        return json.load(response)


def follow(address: str, job_id: str, after: str | None = None) -> list[tuple[str, str, dict]]:
    """GET the job's events, as an EventSource does that has lost its connection after an event."""
    headers = {"Last-Event-ID": after} if after else {}
    request = urllib.request.Request(f"{address}/jobs/{job_id}/events", headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        return list(events_of(response))


def test_a_web_app_whose_streams_are_picked_up_again(
    kitchen: Kitchen, client: redis.Redis, serving: WorkerProcess
) -> None:
    [app] = COOKBOOK.blocks("FastAPI")
    with kitchen.web_app(app) as address:
        job_id = ask(address, prompt=KILL)["job_id"]
        events = follow(address, job_id)
        assert text_of(events) == events[-1][2]["text"] == answer_to(KILL)
        middle = (len(events) - 1) // 2
        assert follow(address, job_id, after=events[middle][0]) == events[middle + 1 :]

        with pytest.raises(urllib.error.HTTPError) as missing:
            follow(address, "never-submitted")
        assert (missing.value.code, json.load(missing.value)["code"]) == (404, "no_such_job")
        with pytest.raises(urllib.error.HTTPError) as empty:
            ask(address, prompt="")
        assert (empty.value.code, json.load(empty.value)["code"]) == (400, "invalid_request")

        with serving.engine_stopped():
            job_id = ask(address, prompt=KILL)["job_id"]
            wait_for(lambda: job_id in taken_by(serving, client), "the worker to take the job")
            request = urllib.request.Request(f"{address}/jobs/{job_id}", method="DELETE")
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                assert json.load(response) == {"outcome": "requested"}
        assert follow(address, job_id)[-1][1] == "cancelled"


def test_a_page_in_a_browser(kitchen: Kitchen, tmp_path: Path) -> None:
    browser = open_browser(tmp_path / "profile")
    [app] = COOKBOOK.blocks("FastAPI")
    [page] = COOKBOOK.blocks("A page in a browser", "html")
    (kitchen.folder / "index.html").write_text(page, encoding="utf-8")
    with kitchen.web_app(app) as address:
        asked = browser.dom(f"{address}/?{urllib.parse.urlencode({'prompt': GENQUEUE})}")
        job_id = ask(address, prompt=KILL)["job_id"]
        reloaded = browser.dom(f"{address}/#{job_id}")
    for html, prompt in ((asked, GENQUEUE), (reloaded, KILL)):
        assert f'<p id="answer">{answer_to(prompt)}</p>' in html
        assert "<title>finished</title>" in html


def test_a_notebook(kitchen: Kitchen) -> None:
    cells = kitchen.folder / "cells.json"
    cells.write_text(json.dumps(COOKBOOK.blocks("Jupyter")), encoding="utf-8")
    printed = kitchen.run(sys.executable, str(Path(__file__).with_name("notebook.py")), str(cells))
    assert printed.startswith(answer_to(WHO))
    assert "completion_tokens" in printed


def test_a_subscriber_in_node(kitchen: Kitchen, producer: Producer) -> None:
    install = f"npm ci --prefix {NODE.relative_to(README.path.parent)}"
    node = need("node", install=f"apt-get install -y nodejs npm, and {install}")
    if not (NODE / "node_modules" / "ioredis").is_dir():
        lack(f"no ioredis: {install}")
    [script] = COOKBOOK.blocks("Node", "js")
    (kitchen.folder / "node_modules").symlink_to(NODE / "node_modules")
    (kitchen.folder / "follow.mjs").write_text(script, encoding="utf-8")
    job = producer.submit(KILL, model="tiny")
    assert kitchen.run(node, "follow.mjs", job.job_id) == answer_to(KILL)


def test_a_subscriber_with_redis_cli(kitchen: Kitchen, producer: Producer) -> None:
    need("redis-cli", install="apt-get install -y redis-tools")
    [script] = COOKBOOK.blocks("redis-cli", "sh")
    (kitchen.folder / "follow.sh").write_text(script, encoding="utf-8")
    job = producer.submit(KILL, model="tiny")
    lines = kitchen.run("sh", "follow.sh", job.job_id).splitlines()
    expected = [(str(event.id), event.event.type) for event in job.stream()]
    assert [tuple(line.split(" ", 2)[:2]) for line in lines] == expected
    assert json.loads(lines[-1].split(" ", 2)[2])["text"] == answer_to(KILL)


def test_a_chain(kitchen: Kitchen) -> None:
    [script] = COOKBOOK.blocks("Chains")
    cached = re.search(r"cached_tokens=(\d+)", kitchen.python(script))
    assert cached
    assert int(cached[1]) > 0


@pytest.mark.parametrize("document", ["README", "COOKBOOK"])
def test_testing_your_own_code(kitchen: Kitchen, document: str) -> None:
    blocks = {
        "README": README.blocks("Testing your own code"),
        "COOKBOOK": COOKBOOK.blocks("Testing your own code"),
    }
    (kitchen.folder / "test_mine.py").write_text(blocks[document][0], encoding="utf-8")
    kitchen.environment["REDIS_URL"] = "redis://nowhere.invalid:1/0"  # the fixture's own counts
    # This checkout's fixture, whichever is installed.
    fixture = "from producer.testing.plugin import genqueue_worker as genqueue_worker\n"
    (kitchen.folder / "conftest.py").write_text(fixture, encoding="utf-8")
    tested = kitchen.run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "test_mine.py")
    assert re.search(r"^\d+ passed in", tested, re.MULTILINE)


def test_moving_from_transformers(
    kitchen: Kitchen, model_paths: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = COOKBOOK.blocks("Moving from `transformers.generate`")
    (kitchen.folder / "before.py").write_text(before, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["before.py", str(model_paths.parent / "tiny")])
    runpy.run_path(str(kitchen.folder / "before.py"))  # here, where transformers is imported already
    assert capsys.readouterr().out == kitchen.python(after) == answer_to(GENQUEUE) + "\n"


def test_the_options_to_move_from_and_to_exist() -> None:
    rows = COOKBOOK.rows("Moving from `transformers.generate`", "option of `generate`")
    before, after = ({name for row in rows for name in re.findall(r"`(\w+)", row[column])} for column in (0, 1))
    assert before - set(vars(GenerationConfig())) == set()
    submit = inspect.signature(Producer.submit).parameters
    assert after - set(GenerationRequest.model_fields) - set(submit) - {"submit_many"} == set()
    same = {name for row in rows if row[1].startswith("the same") for name in re.findall(r"`(\w+)", row[0])}
    assert same - set(GenerationRequest.model_fields) == set()


def test_every_program_of_the_two_documents_is_run_here() -> None:
    """Each block that names its language stands under a heading that a test above asks for."""
    calls = [node for node in ast.walk(ast.parse(Path(__file__).read_text())) if isinstance(node, ast.Call)]
    run = {
        (call.func.value.id, *(argument.value for argument in call.args))
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "blocks"
        and isinstance(call.func.value, ast.Name)
    }
    asked = {(name, title, language[0] if language else "python") for name, title, *language in run}
    there = {
        (name, title, language)
        for name, document in (("README", README), ("COOKBOOK", COOKBOOK))
        for title, language in document.programs()
    }
    assert there == asked
