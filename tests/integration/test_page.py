"""The gateway's page in a browser: answers that stream, over reloads and deaths; the queue; text is no markup."""

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import redis
import yaml

from producer import Producer
from producer.broker.embedded import EmbeddedBroker
from producer.contract import Markup
from producer.gateway.board import WAITING_SHOWN
from producer.testing import ScriptedWorker
from tests.devtools import Tab, open_tab
from tests.scripted_worker import ScriptedWorker as HandWorker

from .gateway_thread import GatewayThread
from .test_worker import LONG, wait_for
from .worker_process import WorkerProcess

pytestmark = pytest.mark.slow

PARTS = [f"{number} " for number in range(60)]
WHOLE = "".join(PARTS)
HOSTILE = (
    '<img src=x onerror="window.isHurt=1"><script>window.isHurt=1</script>'
    '\r\n\r\ndata: {"error":{}}\n\nid: 9\n\n{{x}}'
)
IS_WHOLE = (
    "document.querySelector('.assistant:last-child .text')?.textContent && !document.querySelector('.is-made')"
)
LEFT_EDGES = """
    (({ firstChild }) => [...firstChild.data].map((_, at) => {
        const range = document.createRange();
        range.setStart(firstChild, at);
        range.setEnd(firstChild, at + 1);
        return range.getBoundingClientRect().left;
    }))([...document.querySelectorAll('.user .text')].at(-1))
"""
"""Of the characters of the last question, px."""
OpenPage = Callable[..., GatewayThread]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """One browser for all of them: each gateway has a port, and so a storage, of its own."""
    with open_tab(tmp_path_factory.mktemp("profile")) as tab:
        tab.look()
        yield tab
        tab.open("about:blank")


@pytest.fixture
def worker(genqueue_worker: ScriptedWorker) -> ScriptedWorker:
    """It serves `tiny`, and answers a count."""
    genqueue_worker.serves("tiny")
    genqueue_worker.answers("Count", PARTS)
    genqueue_worker.delay_s = 0.02
    return genqueue_worker


@pytest.fixture
def open_page(tab: Tab, worker: ScriptedWorker) -> Iterator[OpenPage]:
    """Opens the page of a gateway with these settings. What its console says of errors fails the test."""
    tab.errors.clear()
    with contextlib.ExitStack() as stack:

        def opened(**settings) -> GatewayThread:
            gateway = stack.enter_context(GatewayThread(**settings))
            tab.open(gateway.url)
            return gateway

        yield opened
    of_the_page = [error for error in tab.errors if not error.startswith("network:")]
    assert of_the_page == []


def ask(tab: Tab, text: str) -> None:
    """As one types it."""
    tab.until("document.querySelector('#model').value")
    tab.type(text)
    tab.press("Enter")


def said(tab: Tab) -> str:
    """The last answer."""
    return tab.text(".assistant:last-child .text")


@pytest.mark.long
def test_an_answer_streams_and_the_conversation_goes_on(
    tab: Tab, open_page: OpenPage, worker: ScriptedWorker
) -> None:
    open_page()
    tab.until("document.querySelector('#model').value")
    tab.type("Count")
    tab.press("Enter", shift=True)
    assert tab.run("document.querySelector('#text').value") == "Count\n"
    tab.run("document.querySelector('#text').value = ''")
    ask(tab, "Count")
    lengths = {len(tab.until("document.querySelector('.assistant .text')?.textContent")) for _ in range(5)}
    assert max(lengths) < len(WHOLE)
    tab.until(IS_WHOLE)
    assert said(tab) == WHOLE
    tab.until("document.querySelector('.note').textContent.includes('tokens/s')")
    assert tab.run("document.activeElement.id") == "text"
    ask(tab, "שלום (abc)")
    tab.until("document.querySelectorAll('.assistant').length === 2")
    tab.until(IS_WHOLE)
    first, *_, last = tab.run(LEFT_EDGES)
    assert first > last, "it goes from right to left"
    turns = [(turn.role, turn.content) for turn in worker.requests[-1].request.messages]
    assert turns == [("user", "Count"), ("assistant", WHOLE), ("user", "שלום (abc)")]
    tab.click("#new-chat")
    assert tab.run("document.querySelector('#transcript').children.length") == 0


@pytest.mark.parametrize("has_keys", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_reload_in_mid_answer_goes_on(
    tab: Tab, open_page: OpenPage, worker: ScriptedWorker, tmp_path: Path, has_keys: bool
) -> None:
    """With keys, too, which an EventSource cannot send."""
    if has_keys:
        key = {"name": "alice", "sha256": hashlib.sha256(b"secret").hexdigest()}
        (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": [key]}))
        open_page(api_keys=tmp_path / "keys.yaml")
        for typed in ("wrong", "secret"):
            tab.until("document.querySelector('#key-dialog').open && !document.querySelector('#key').value")
            tab.type(typed)
            tab.press("Enter")
            tab.until(f"!document.querySelector('#key-dialog').open || {json.dumps(typed == 'wrong')}")
            if typed == "wrong":
                tab.until("document.querySelector('#key-error').textContent")
        tab.run("document.querySelector('#text').focus()")
    else:
        open_page()
    with worker.paused():  # while it waits, as well
        ask(tab, "Count")
        tab.until("sessionStorage.getItem('genqueue.chat')?.includes('chatcmpl')")
        tab.reload()
        tab.until("document.querySelector('.note')?.textContent.includes('waiting')")
    for least in (20, 60):
        tab.until(f"document.querySelector('.assistant .text')?.textContent.length > {least}")
        tab.reload()
        assert len(said(tab)) >= least, "what was there is there at once"
    tab.until(IS_WHOLE)
    assert said(tab) == WHOLE
    assert len(worker.requests) == 1
    tab.reload()
    assert said(tab) == WHOLE
    assert "secret" not in tab.run("location.href + document.cookie + JSON.stringify(localStorage)")


@pytest.mark.long
def test_it_goes_on_by_itself_when_worker_and_gateway_die(
    tab: Tab, open_page: OpenPage, worker: ScriptedWorker
) -> None:
    worker.crash_after(10)
    gateway = open_page()
    ask(tab, "Count")
    tab.until("document.querySelector('.assistant .text')?.textContent.length > 50")
    gateway.kill()
    with bad_gateway(gateway.port) as asked:  # which closes an EventSource for good
        wait_for(lambda: sum("/v1/chat/" in path for path in asked) > 4, "the page asks again")
        assert tab.run("document.body.classList.contains('is-away')")
    gateway.start()
    tab.until(IS_WHOLE)
    assert said(tab) == WHOLE
    assert len(worker.requests) == 1
    tab.click(".foot button:last-of-type")
    tab.until("document.querySelector('.foot .events')?.textContent.includes('goes on after')")


@contextlib.contextmanager
def bad_gateway(port: int) -> Iterator[list[str]]:
    """A proxy at that port whose gateway is gone. Gives the paths that it is asked for."""
    asked: list[str] = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if len(asked) % 2:
                self.send_error(502)
                return
            self.send_response(502)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"error": "bad gateway"}')

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.long
def test_escape_stops_and_frees_the_worker(tab: Tab, open_page: OpenPage, worker: ScriptedWorker) -> None:
    open_page(grace_s=600)  # that its client is gone frees nothing
    worker.answers("Count", ["1 ", *"2" * 1000])
    worker.delay_s = 0.5
    ask(tab, "Count")
    tab.until("document.querySelector('.assistant .text').textContent")
    tab.press("Escape")
    tab.until("document.querySelector('.note').textContent === 'stopped'")
    job = f"rq:job:{worker.requests[0].job_id}"
    wait_for(lambda: not worker.client.exists(job), "the end of the job")
    assert said(tab).startswith("1")


@pytest.mark.long
def test_an_error_is_shown_as_it_is_and_can_be_asked_again(
    tab: Tab, open_page: OpenPage, worker: ScriptedWorker
) -> None:
    open_page()
    worker.fails("Count", "out_of_memory", "it wants 12 GB: take a smaller one")
    ask(tab, "Count")
    assert tab.until("document.querySelector('.error')?.innerText").startswith("it wants 12 GB")
    assert tab.text(".error .code") == "out_of_memory"
    worker.answers("Count", "1")
    tab.click(".error button")
    tab.until(f"!document.querySelector('.error') && {IS_WHOLE}")
    assert said(tab) == "1"
    worker.fails("Half", "engine_error", "it broke", after="so far")
    ask(tab, "Half")
    tab.until("document.querySelector('.error')")
    assert said(tab) == "so far"


def test_text_is_never_markup(tab: Tab, open_page: OpenPage, worker: ScriptedWorker) -> None:
    """Of prompts, answers, workers, jobs and models, also through the stream's own format."""
    worker.answer_with(lambda asked: [HOSTILE[:20], HOSTILE[20:50], HOSTILE[50:]])
    put_hostile_names(worker.client)
    open_page()
    ask(tab, HOSTILE.replace("\r\n", "\n"))
    tab.until(IS_WHOLE)
    assert said(tab) == HOSTILE
    for place in ("#workers .name", "#workers .what", "#workers .state", ".jobs .about", ".jobs .tokens"):
        there = f"[...document.querySelectorAll('{place}')]"
        tab.until(f"{there}.some(({{ textContent }}) => textContent.includes('onerror'))")
    for times in range(2):
        assert said(tab) == HOSTILE, times
        assert tab.run("document.querySelectorAll('body img, body script, body iframe').length") == 0
        assert tab.run("window.isHurt ?? null") is None
        tab.reload()


@pytest.mark.long
def test_fenced_code_is_a_block_of_its_own(tab: Tab, open_page: OpenPage, worker: ScriptedWorker) -> None:
    """And as little markup as all else."""
    worker.answers("Count", f"So:\n\n```html\n{HOSTILE}\n```\nIs it?")
    open_page()
    ask(tab, "Count")
    tab.until(IS_WHOLE)
    assert tab.run("[...document.querySelector('.assistant .text').children].map(({ tagName }) => tagName)") == [
        "P",
        "PRE",
        "P",
    ]
    assert tab.text(".assistant pre") == HOSTILE
    assert tab.run("window.isHurt ?? null") is None


@pytest.mark.long
def test_what_a_model_thinks_first_is_folded_away(tab: Tab, open_page: OpenPage, worker: ScriptedWorker) -> None:
    worker.serves("other")
    thinker = HandWorker(worker.client, model="thinker")
    thinker.register()
    worker.client.hset("rq:worker:w1", "queues", "generate.thinker")
    worker.client.sadd("rq:workers", "rq:worker:w1")
    open_page()
    tab.until("document.querySelector('#model option[value=thinker]')")
    chosen = "document.querySelector('#model')"
    tab.run(f"{chosen}.value = 'thinker'; {chosen}.dispatchEvent(new Event('change'))")
    ask(tab, "Well?")
    wait_for(lambda: worker.client.llen("rq:queue:generate.thinker"), "the job")
    thinker.take(markup=Markup(reasoning="think"))
    thinker.publish("<think>The question ", "is short.")
    tab.until("document.querySelector('.thought').textContent === 'Thinking…The question is short.'")
    tab.click(".thought summary")
    thinker.publish("</think>Yes, it is.")
    thinker.finish()
    tab.until(IS_WHOLE)
    assert said(tab) == "Yes, it is."
    assert tab.text(".thought") == "ThoughtThe question is short."
    assert tab.run("document.querySelector('.thought').open")


def put_hostile_names(client: redis.Redis) -> None:
    """Of a worker and of jobs, as whoever reaches Redis may write them."""
    name, queue = f"evil{HOSTILE}".replace(":", "="), "generate.unserved"
    record = {"birth": "2026-01-01T00:00:00Z", "queues": queue, "state": HOSTILE, "device": HOSTILE}
    client.hset(f"rq:worker:{name}", mapping=record)
    client.sadd("rq:workers", f"rq:worker:{name}")
    meta = json.dumps({"phase": HOSTILE})
    job = {"status": "started", "origin": queue, "worker_name": HOSTILE, "meta": meta}
    client.hset(f"rq:job:{name}", mapping=job)
    client.zadd(f"rq:wip:{queue}", {f"{name}:run": 2**40})
    client.rpush(f"rq:queue:{queue}.low", f"waits{name}")
    client.sadd("rq:queues", *(f"rq:queue:{each}" for each in (queue, f"{queue}.low", f"generate.{HOSTILE}")))


def test_the_policy_blocks_what_comes_from_elsewhere(tab: Tab, open_page: OpenPage) -> None:
    open_page()
    made = "const one = document.createElement('script'); one.textContent = 'window.isHurt = 1'"
    assert tab.run(f"(() => {{ try {{ {made} }} catch (error) {{ return error.name }} }})()") == "TypeError"
    blocked = tab.run(
        """new Promise((hear) => {
          document.addEventListener('securitypolicyviolation', (event) => hear(event.blockedURI));
          fetch('http://elsewhere.example/').catch(() => 0);
        })"""
    )
    assert "elsewhere" in blocked
    assert any("Content Security Policy" in error for error in tab.errors)
    tab.errors.clear()


@pytest.mark.long
def test_two_hundred_jobs_stay_as_they_are(tab: Tab, open_page: OpenPage, worker: ScriptedWorker) -> None:
    """A row stays the same element for as long as its job is there: only what has changed is touched."""
    with worker.paused(), Producer() as producer:
        jobs = producer.submit_many(["Count"] * 300, model="tiny")
        open_page()
        tab.until(f"document.querySelectorAll('.jobs > li').length === {WAITING_SHOWN}")
        assert tab.text("#waiting-count") == "300"
        assert "and 100 more" in tab.text("#jobs")
        tab.run(
            """
            window.rows = [...document.querySelectorAll('.jobs > li')];
            window.touched = [];
            new MutationObserver((all) => window.touched.push(...all))
              .observe(document.querySelector('#jobs'), { childList: true, subtree: true, attributes: true });
            """
        )
        seen = tab.text(".jobs .time")
        tab.until(f"document.querySelector('.jobs .time').textContent !== {json.dumps(seen)}")
        assert tab.run("window.touched.every(({ target }) => target.className === 'time')")
        producer.cancel(jobs[0].job_id)
        tab.until("document.querySelector('#waiting-count').textContent === '299'")
        waiting = "[...document.querySelectorAll('section:nth-child(2) .jobs > li')]"
        assert tab.run(f"{waiting}.length") == WAITING_SHOWN
        assert tab.run(f"{waiting}.slice(0, -1).every((row, place) => row === window.rows[place + 1])")
        producer.cancel_many([job.job_id for job in jobs])


def test_events_are_read_in_pieces_of_any_size(tab: Tab, open_page: OpenPage) -> None:
    """What reads a stream where keys are used, in place of an EventSource."""
    open_page()
    stream = ': hi\n\nid: 1\ndata: {"a":1}\n\nid: 2\r\ndata: x\r\ndata: y\r\n\r\n'
    stream += "id:3\rdata:z\r\rdata\n\ndata: [DONE]\n\n"
    read = tab.run(
        f"""(async () => {{
          const {{ Lines }} = await import('./page/fetched.js');
          const text = {json.dumps(stream)};
          return Array.from(text, (_, place) => {{
            const [lines, events] = [new Lines(), []];
            const size = place + 1;
            for (let at = 0; at < text.length; at += size) events.push(...lines.add(text.slice(at, at + size)));
            return events;
          }});
        }})()"""
    )
    events = [("1", '{"a":1}'), ("2", "x\ny"), ("3", "z"), ("3", ""), ("3", "[DONE]")]
    assert all([(each["lastEventId"], each["data"]) for each in one] == events for one in read)
    assert len(read) == len(stream)


@pytest.mark.long
def test_a_worker_is_killed_in_mid_answer(
    tab: Tab,
    serving_broker: EmbeddedBroker,
    start_worker: Callable[..., WorkerProcess],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real one, and another goes on."""
    monkeypatch.setenv("GENQUEUE_REDIS_URL", serving_broker.url)
    first = start_worker(serving_broker.url).wait_until_ready()
    with GatewayThread() as gateway:
        tab.open(gateway.url)
        more = {"ignore_eos": True, "max_tokens": LONG["max_new_tokens"], "prompt_lookup": False}
        tab.run(
            f"""
            const send = fetch;
            const longer = (body) => JSON.stringify({{ ...JSON.parse(body), ...{json.dumps(more)} }});
            window.fetch = (url, sent) => send(url, sent.body ? {{ ...sent, body: longer(sent.body) }} : sent);
            0"""
        )
        ask(tab, "What is genqueue?")
        tab.until("document.querySelector('.assistant .text')?.textContent.length > 20")
        first.process.kill()
        before = len(said(tab))
        start_worker(serving_broker.url).wait_until_ready()
        tab.until(IS_WHOLE)
        job = tab.run("JSON.parse(sessionStorage['genqueue.chat']).messages[1].job")
        [choice] = httpx2.get(f"{gateway.url}v1/chat/completions/chatcmpl-{job}", timeout=100).json()["choices"]
        whole = choice["message"]["content"]
        assert said(tab) == whole
        assert before < len(whole)
        tab.click(".foot button:last-of-type")
        tab.until("document.querySelector('.foot .events')?.textContent.includes('goes on after')")
