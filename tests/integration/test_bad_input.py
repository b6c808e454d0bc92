"""Bad input of every kind: each ends in one error that says what to do, and the worker serves the next job.

Jobs are written to Redis by hand where a careful client would have refused them: anybody who can reach Redis can
do the same. What is pushed is followed by a good job. The worker takes one after the other, so that everything
about the bad one is written down once the good one has its result.
"""

import base64
import http.server
import json
import pickle
import socket
import socketserver
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from rq import Callback, Queue, Repeat, Webhook
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry
from rq.utils import now, utcformat

from producer import Producer
from producer.broker.embedded import EmbeddedBroker
from producer.contract import FUNCTION, GenerationResult, StreamedEvent, parse_entry
from tests.models import save_random_model

from .conftest import joined
from .test_worker import LONG, wait_for, wait_for_tokens
from .worker_process import START_TIMEOUT_S, WorkerProcess

QUEUE = "generate.tiny"
QUEUE_KEY = f"rq:queue:{QUEUE}"
EVENTS_WAIT_MS = 4000  # below redis-py's socket time-out
CONTEXT = 1024

Fields = Mapping[str, str | bytes | int]


# -- a job as it stands on Redis, good but for what a test changes


def payload(
    request: Any = None, *, function: str = FUNCTION, instance: Any = None, args: Any = (), **kwargs
) -> bytes:
    """RQ's four, as JSON."""
    keywords = {"request": {"prompt": "hi"} if request is None else request, **kwargs}
    return json.dumps([function, instance, args, keywords]).encode()


def job_fields(data: bytes | None = None, **changed: str | bytes | int) -> dict[str, str | bytes | int]:
    """The hash that RQ writes for a job."""
    return {
        "created_at": utcformat(now()),
        "enqueued_at": utcformat(now()),
        "data": zlib.compress(payload()) if data is None else data,
        "origin": QUEUE,
        "status": "queued",
        "timeout": 180,
        **changed,
    }


def push(client: redis.Redis, fields: Fields, job_id: str | None = None) -> str:
    """Enqueue a job past every check of RQ and of the producer."""
    job_id = job_id or uuid4().hex
    client.hset(f"rq:job:{job_id}", mapping=dict(fields))
    client.rpush(QUEUE_KEY, job_id)
    return job_id


# -- what must have become of it


class Outcome:
    """The end of a bad job, read after a good one has been served behind it."""

    def __init__(self, client: redis.Redis, job_id: str) -> None:
        self._client, self.job_id = client, job_id
        self.events = self._read()
        [end] = [streamed for streamed in self.events if streamed.is_terminal]
        assert end is self.events[-1]
        self.result = GenerationResult.model_validate_json(client.get(f"gen:{{{job_id}}}:result"))
        assert end.event.data == self.result
        assert end.event.type == self.result.status
        assert all(client.ttl(f"gen:{{{job_id}}}:{kind}") > 0 for kind in ("events", "result"))

    def _read(self) -> list[StreamedEvent]:
        entries = self._client.xrange(f"gen:{{{self.job_id}}}:events")
        return [parse_entry(entry_id, fields) for entry_id, fields in entries]

    def assert_failed(self, code: str, *words: str) -> None:
        """Failed with that code, and a message that has these words."""
        assert self.result.status == "failed"
        assert self.result.finish_reason == "error"
        assert self.result.error.code == code, self.result.error
        for word in words:
            assert word in self.result.error.message

    def assert_registered(self, origin: str = QUEUE) -> None:
        """RQ has it among its failed jobs, and not for ever."""
        job = Job.fetch(self.job_id, connection=self._client, serializer="json")
        assert job.get_status() == JobStatus.FAILED
        assert job.id in FailedJobRegistry(origin, connection=self._client, serializer="json")
        assert job.latest_result().exc_string.startswith(self.result.error.code)
        assert self._client.ttl(job.key) > 0


@pytest.fixture
def outcome_of(serving: WorkerProcess, client: redis.Redis, producer: Producer):
    """Serves a good job behind a bad one, and gives back what became of the bad one."""
    engine_pid = serving.engine_pid()

    def outcome_of(job_id: str) -> Outcome:
        # It comes after whatever was pushed before.
        assert producer.submit("hi", model="tiny", max_new_tokens=1).result(timeout_s=100).status == "finished"
        assert serving.engine_pid() == engine_pid, "the engine has been started anew"
        taken = f"gen:{{taken:{serving.name}}}"
        wait_for(lambda: job_id.encode() not in client.lrange(taken, 0, -1), "RQ to be told, and the job put down")
        return Outcome(client, job_id)

    return outcome_of


# -- requests

BAD_REQUESTS = {
    "no prompt at all": ({}, "exactly one of prompt, messages and prompt_token_ids"),
    "two prompts": ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "exactly one of"),
    "an empty prompt": ({"prompt": ""}, "prompt"),
    "no messages": ({"messages": []}, "messages"),
    "an unknown role": ({"messages": [{"role": "boss", "content": "b"}]}, "role"),
    "no ids": ({"prompt_token_ids": []}, "prompt_token_ids"),
    "an unknown field": ({"prompt": "a", "max_tokens": 3}, "max_tokens"),
    "a prompt of another type": ({"prompt": 7}, "prompt"),
    "a number as a string": ({"prompt": "a", "max_new_tokens": "32"}, "max_new_tokens"),
    "a truth as a number": ({"prompt": "a", "ignore_eos": 1}, "ignore_eos"),
    "a fraction of a token": ({"prompt": "a", "max_new_tokens": 1.5}, "max_new_tokens"),
    "no token": ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens"),
    "more tokens than the context": ({"prompt": "a", "max_new_tokens": CONTEXT + 1}, "max_new_tokens"),
    "more at least than at most": ({"prompt": "a", "max_new_tokens": 1, "min_new_tokens": 2}, "min_new_tokens"),
    "NaN": ({"prompt": "a", "temperature": float("nan")}, "temperature"),
    "infinity": ({"prompt": "a", "temperature": float("inf")}, "temperature"),
    "below zero": ({"prompt": "a", "temperature": -1.0}, "temperature"),
    "top_p of zero": ({"prompt": "a", "top_p": 0.0}, "top_p"),
    "an empty stop string": ({"prompt": "a", "stop": [""]}, "stop"),
    "a lone surrogate": ({"prompt": "a\ud800"}, "surrogate"),
    "a lone surrogate as a name": ({"prompt": "a", "\udfff": 1}, "surrogate"),
    "an id beyond the vocabulary": ({"prompt_token_ids": [1, 10**6]}, "1000000"),
    "an id below zero": ({"prompt_token_ids": [1, -1]}, "prompt_token_ids"),
    "an id beyond 64 bits": ({"prompt_token_ids": [2**70]}, "vocabulary"),
    "a seed beyond 64 bits": ({"prompt": "a", "seed": 2**70}, "seed"),
    "a list": (["prompt"], "request"),
    "a string": ("prompt", "request"),
    "a number": (7, "request"),
}


@pytest.mark.parametrize(("request_", "word"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_a_request_that_is_not_valid(client, outcome_of, request_, word):
    outcome = outcome_of(push(client, job_fields(payload(request_))))
    outcome.assert_failed("invalid_request", word)
    outcome.assert_registered()


@pytest.mark.parametrize(
    "request_", [{"prompt": "x" * 3000}, {"prompt_token_ids": [5] * CONTEXT}], ids=["text", "ids"]
)
def test_a_prompt_that_fills_the_context(client, outcome_of, request_):
    outcome = outcome_of(push(client, job_fields(payload(request_))))
    outcome.assert_failed("prompt_too_long", f"{CONTEXT}")
    outcome.assert_registered()


def test_a_message_never_quotes_the_prompt(client, outcome_of, serving):
    secret = "a-secret-nobody-should-see"
    outcome = outcome_of(push(client, job_fields(payload({"prompt": secret, "messages": secret, "seed": secret}))))
    outcome.assert_failed("invalid_request", "seed")
    assert secret not in outcome.result.error.message
    assert secret not in serving.text()


# -- functions and payloads


def touching(folder: Path) -> tuple[Path, str]:
    """A file that must not come to be, and the shell command that would make it."""
    file = folder / "executed"
    return file, f"touch {file}"


FUNCTIONS = (
    "os.system",
    "subprocess.getoutput",
    "builtins.eval",
    "worker.jobs.other",
    "worker.jobs.generate ",
    "",
    None,
)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_another_function_is_not_run(client, outcome_of, tmp_path, function):
    file, command = touching(tmp_path)
    data = json.dumps([function, None, [command], {}]).encode()
    outcome = outcome_of(push(client, job_fields(data)))
    outcome.assert_failed("unknown_function", FUNCTION)
    outcome.assert_registered()
    assert not file.exists()


def test_a_module_that_a_job_names_is_not_even_imported(client, outcome_of, serving):
    """`import this` prints, and so leaves a trace in the worker's log."""
    outcome_of(push(client, job_fields(payload(function="this.s")))).assert_failed("unknown_function")
    outcome_of(push(client, job_fields(success_callback_name="this.s"))).assert_failed("invalid_request")
    assert "Beautiful is better" not in serving.text()


def test_a_method_of_an_instance_is_not_called(client, outcome_of):
    outcome = outcome_of(push(client, job_fields(payload(instance={"any": "thing"}))))
    outcome.assert_failed("unknown_function")
    outcome.assert_registered()


@pytest.mark.parametrize(
    "data",
    [
        payload(args=["hi"]),
        payload(another=1),
        json.dumps([FUNCTION, None, [], {}]).encode(),
        json.dumps([FUNCTION, None, [], ["request"]]).encode(),
        json.dumps([FUNCTION, None, None, None]).encode(),
    ],
    ids=["positional", "another keyword", "none", "a list", "null"],
)
def test_other_arguments_than_request(client, outcome_of, data):
    outcome = outcome_of(push(client, job_fields(data)))
    outcome.assert_failed("invalid_request", "request={...}")
    outcome.assert_registered()


NOT_JSON = {
    "text": b"hello",
    "nothing": b"",
    "half": payload()[:-5],
    "too few": b'["worker.jobs.generate", null]',
    "an object": b'{"func": "worker.jobs.generate"}',
    "a number": b"7",
    "null": b"null",
    "bytes": b"\xff\xfe\x00",
    "half a zlib": zlib.compress(payload())[:-8],
    "deep": b"[" * 100_000,
    "a long number": b"[" + b"9" * 10_000 + b"]",
}


@pytest.mark.parametrize("data", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_a_payload_that_is_no_json_of_rqs_form(client, outcome_of, data):
    outcome = outcome_of(push(client, job_fields(data)))
    outcome.assert_failed("invalid_request", 'serializer="json"')
    outcome.assert_registered()


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self._file,)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("field", ["data", "meta", "result"])
def test_a_pickle_is_never_read(client, outcome_of, tmp_path, field, packed):
    pickled = pickle.dumps(_Touch(tmp_path / "unpickled"))
    data = zlib.compress(pickled) if packed else pickled
    outcome = outcome_of(push(client, job_fields(**{field: data})))
    assert not (tmp_path / "unpickled").exists()
    pickle.loads(pickled)
    assert (tmp_path / "unpickled").exists(), "the pickle does nothing: the test proves nothing"
    if field != "result":  # which is RQ's own to read, and which nobody does
        outcome.assert_failed("invalid_request")
        outcome.assert_registered()


# -- size


def test_a_prompt_of_50_mb(client, outcome_of):
    outcome = outcome_of(push(client, job_fields(payload({"prompt": "x" * 50_000_000}))))
    outcome.assert_failed("invalid_request", "shorten the prompt")
    assert client.hget(f"rq:job:{outcome.job_id}", "status") == b"failed"


def test_a_prompt_beyond_the_contracts_bound(client, outcome_of):
    outcome = outcome_of(push(client, job_fields(zlib.compress(payload({"prompt": "x" * 5_000_000})))))
    outcome.assert_failed("invalid_request", "prompt")
    outcome.assert_registered()


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """300 MB in 300 kB."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()


@pytest.mark.parametrize("field", ["data", "exc_info"])
def test_a_zlib_bomb_is_not_unpacked(client, outcome_of, serving, bomb, field):
    before_kb = _peak_kb(serving)
    outcome = outcome_of(push(client, job_fields(**{field: bomb})))
    assert _peak_kb(serving) - before_kb < 150_000
    if field == "data":
        outcome.assert_failed("invalid_request", "shorten the prompt")
        assert client.hget(f"rq:job:{outcome.job_id}", "status") == b"failed"


def _peak_kb(worker: WorkerProcess) -> int:
    """The most memory that the worker has ever had."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


# -- the job's hash


def test_a_job_of_another_model_in_this_queue(client, outcome_of):
    outcome = outcome_of(push(client, job_fields(origin="generate.other")))
    outcome.assert_failed("unknown_model", "serves tiny", "generate.other", "generate.<model_name>")
    outcome.assert_registered("generate.other")


@pytest.mark.parametrize("origin", ["", "default", "generate.tiny.urgent"])
def test_a_job_of_no_queue_of_ours(client, outcome_of, origin):
    outcome_of(push(client, job_fields(origin=origin))).assert_failed("unknown_model", "serves tiny")


UNREADABLE = {
    "no data": {"data": None},
    "a garbage date": {"created_at": "yesterday"},
    "another garbage date": {"enqueued_at": b"\xff"},
    "an unknown status": {"status": "dreaming"},
    "a time-out in words": {"timeout": "soon"},
    "a TTL in words": {"result_ttl": "long"},
    "an infinite TTL": {"failure_ttl": "inf"},
    "an origin of bytes": {"origin": b"\xff\xfe"},
    "retries in words": {"retries_left": "many"},
    "dependencies that are no JSON": {"dependency_ids": "{"},
}


@pytest.mark.parametrize("changed", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_hash_that_rq_cannot_read(client, outcome_of, changed):
    fields = {name: value for name, value in {**job_fields(), **changed}.items() if value is not None}
    outcome = outcome_of(push(client, fields))
    outcome.assert_failed("invalid_request", "enqueue through RQ")
    assert client.hget(f"rq:job:{outcome.job_id}", "status") == b"failed"
    assert client.ttl(f"rq:job:{outcome.job_id}") > 0


@pytest.mark.parametrize("meta", ["[1, 2]", '"text"', "7", "null", "{", b"\xff", b"[" * 50_000])
def test_meta_that_is_no_json_object(client, outcome_of, meta):
    outcome = outcome_of(push(client, job_fields(meta=meta)))
    outcome.assert_failed("invalid_request", "meta")
    outcome.assert_registered()


@pytest.mark.parametrize(
    "changed",
    [
        {"result_ttl": -5, "failure_ttl": -5, "ttl": -5, "timeout": -5},
        {"result_ttl": -1, "failure_ttl": -1, "timeout": -1},
        {"result_ttl": "9" * 400, "failure_ttl": "9" * 400, "timeout": "9" * 400},
    ],
    ids=["below zero", "for ever", "beyond all bounds"],
)
@pytest.mark.parametrize("request_", [{"prompt": "hi", "max_new_tokens": 1}, {}], ids=["good", "bad"])
def test_ttls_and_time_outs_are_bounded(client, outcome_of, changed, request_):
    job_id = push(client, job_fields(payload(request_), **changed))
    outcome = outcome_of(job_id)
    assert outcome.result.status == ("finished" if request_ else "failed")
    week_s = 7 * 86_400
    keys = [key for key in client.keys("*") if job_id.encode() in key]
    assert {key: client.ttl(key) for key in keys if not 0 < client.ttl(key) <= week_s + 120} == {}


@pytest.mark.parametrize("changed", [{"failure_ttl": 0}, {"result_ttl": 0}])
@pytest.mark.parametrize("request_", [{"prompt": "hi", "max_new_tokens": 1}, {}], ids=["good", "bad"])
def test_a_job_that_rq_is_to_forget_at_once(client, outcome_of, changed, request_):
    outcome = outcome_of(push(client, job_fields(payload(request_), **changed)))
    assert outcome.result.status == ("finished" if request_ else "failed")
    forgotten = ("failure_ttl" in changed) != bool(request_)
    assert client.exists(f"rq:job:{outcome.job_id}") == (not forgotten)


@pytest.mark.parametrize("intervals", ["{}", '["soon"]', "[1e300]", "[-1]", "[]", "7", "[[1]]"])
def test_retry_intervals_that_are_no_seconds(client, outcome_of, intervals):
    outcome = outcome_of(push(client, job_fields(retries_left=1, retry_intervals=intervals)))
    outcome.assert_failed("invalid_request", "retry_intervals")
    outcome.assert_registered()


# -- ids


@pytest.mark.parametrize("job_id", ["a:b", "a b", "a}b{", "a\nb", "*"])
@pytest.mark.parametrize("with_hash", [True, False])
def test_a_job_id_that_is_none(client, outcome_of, job_id, with_hash):
    client.delete(f"gen:{{{job_id}}}:events", f"gen:{{{job_id}}}:result", f"rq:job:{job_id}")
    if with_hash:
        push(client, job_fields(), job_id)
    else:
        client.rpush(QUEUE_KEY, job_id)
    outcome = outcome_of(job_id)
    outcome.assert_failed("invalid_request", "job id", "letters, digits")
    if with_hash:
        assert client.hget(f"rq:job:{job_id}", "status") == b"failed"
        assert client.ttl(f"rq:job:{job_id}") > 0
    else:
        assert not client.exists(f"rq:job:{job_id}")


def test_a_job_id_that_names_another_key_of_rq_leaves_that_alone(client, outcome_of):
    client.sadd("rq:job:mine:dependents", "other")
    client.rpush(QUEUE_KEY, "mine:dependents")
    outcome_of("mine:dependents").assert_failed("invalid_request", "job id")
    assert client.smembers("rq:job:mine:dependents") == {b"other"}


def test_a_job_id_that_is_no_text_is_dropped(client, producer, serving):
    client.rpush(QUEUE_KEY, b"\xff\xfe", b"", "päivä", "x" * 200)
    assert producer.submit("hi", model="tiny", max_new_tokens=1).result(timeout_s=100).status == "finished"
    assert client.llen(QUEUE_KEY) == 0
    wait_for(lambda: not client.exists(f"gen:{{taken:{serving.name}}}"), "all to be put down")


# -- what would run code or call addresses


@pytest.mark.parametrize("kind", ["on_success", "on_failure", "on_stopped"])
def test_callbacks_are_refused(queue: Queue, outcome_of, kind):
    job = queue.enqueue(FUNCTION, request={"prompt": "hi"}, **{kind: Callback("os.getpid")})
    outcome = outcome_of(job.id)
    outcome.assert_failed("invalid_request", "os.getpid", "allowed_callbacks")
    outcome.assert_registered()


@contextmanager
def served(server: socketserver.TCPServer) -> Iterator[int]:
    """The server answers meanwhile. Yields its port."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def address() -> Iterator[tuple[str, list[str]]]:
    """A web server that notes what is asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_POST = do_GET  # noqa: N815 - http.server's name

        def log_message(self, *_: object) -> None:
            pass

    with served(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"http://127.0.0.1:{port}/", asked


@pytest.mark.parametrize("status", ["finished", "failed"])
def test_webhooks_are_refused_and_call_nobody(queue: Queue, outcome_of, address, status):
    url, asked = address
    job = queue.enqueue(FUNCTION, request={"prompt": "hi"}, webhooks=[Webhook(url, status)])
    outcome = outcome_of(job.id)
    outcome.assert_failed("invalid_request", "allowed_webhooks")
    outcome.assert_registered()
    assert asked == []


def test_a_webhook_of_an_unreadable_job_calls_nobody(client, outcome_of, address):
    url, asked = address
    webhooks = json.dumps([Webhook(url, "failed").to_dict()])
    outcome_of(push(client, job_fields(b"no JSON", webhooks=webhooks))).assert_failed("invalid_request")
    assert asked == []


def test_repeat_is_refused(queue: Queue, outcome_of):
    job = queue.enqueue(FUNCTION, request={"prompt": "hi"}, repeat=Repeat(times=2))
    outcome_of(job.id).assert_failed("invalid_request", "repeat")


# -- too late


def test_a_job_past_its_deadline(client, outcome_of):
    outcome = outcome_of(push(client, job_fields(meta=json.dumps({"expires_at": 1.0}))))
    outcome.assert_failed("expired", "submit it again")
    outcome.assert_registered()


def test_a_job_whose_hash_has_expired(client, outcome_of):
    client.rpush(QUEUE_KEY, "long-gone")
    outcome = outcome_of("long-gone")
    outcome.assert_failed("expired", "submit it again")
    assert not client.exists("rq:job:long-gone")


# -- keys that hold something else


@pytest.mark.parametrize("foreign", ["string", "list", "set"])
def test_something_else_where_the_jobs_hash_belongs(client, outcome_of, foreign):
    job_id = uuid4().hex
    _write(client, f"rq:job:{job_id}", foreign)
    client.rpush(QUEUE_KEY, job_id)
    outcome_of(job_id).assert_failed("expired", "submit it again")
    assert client.type(f"rq:job:{job_id}") == foreign.encode(), "it is not ours to change"


@pytest.mark.parametrize("kind", ["events", "result"])
@pytest.mark.parametrize("foreign", ["string", "list", "set"])
@pytest.mark.parametrize("request_", [{"prompt": "hi", "max_new_tokens": 2}, {}], ids=["good", "bad"])
def test_something_else_where_a_key_of_the_job_belongs(client, outcome_of, foreign, kind, request_):
    job_id = uuid4().hex
    _write(client, f"gen:{{{job_id}}}:{kind}", foreign)
    outcome = outcome_of(push(client, job_fields(payload(request_)), job_id))
    assert outcome.result.status == ("finished" if request_ else "failed")


@pytest.mark.parametrize("foreign", ["string", "list", "set"])
def test_anything_where_the_request_to_cancel_belongs_cancels(client, outcome_of, foreign):
    job_id = uuid4().hex
    _write(client, f"gen:{{{job_id}}}:cancel", foreign)
    outcome = outcome_of(push(client, job_fields(payload(LONG)), job_id))
    assert outcome.result.status == "cancelled"
    assert not client.exists(f"gen:{{{job_id}}}:cancel")


@pytest.mark.parametrize("foreign", ["string", "list", "set"])
def test_a_stream_that_is_overwritten_while_it_is_written_is_whole_at_the_end(client, outcome_of, foreign):
    job_id = push(client, job_fields(payload(LONG)))
    key = f"gen:{{{job_id}}}:events"
    wait_for_tokens(client, job_id)
    with client.pipeline() as at_once:  # or the worker's next token makes it a stream again in between
        at_once.delete(key)
        _write(at_once, key, foreign)
        at_once.execute()
    outcome = outcome_of(job_id)
    assert joined(outcome.events) == (outcome.result.text, list(outcome.result.token_ids))
    assert len(outcome.result.token_ids) == LONG["max_new_tokens"]


def test_a_hash_that_is_overwritten_while_its_job_runs_does_not_keep_it_from_its_end(client, outcome_of):
    job_id = push(client, job_fields(payload(LONG)))
    wait_for_tokens(client, job_id)
    client.set(f"rq:job:{job_id}", "foreign")
    outcome = outcome_of(job_id)
    assert joined(outcome.events) == (outcome.result.text, list(outcome.result.token_ids))
    assert client.get(f"rq:job:{job_id}") == b"foreign"


def test_a_running_job_that_is_deleted_through_rq_still_ends(client, queue, outcome_of):
    job = queue.enqueue(FUNCTION, request=LONG)
    wait_for_tokens(client, job.id)
    job.delete()
    assert outcome_of(job.id).result.status == "finished"


STREAMS = {
    "other fields": [("1-0", {"hello": "world"})],
    "no JSON": [("1-0", {"type": "started", "data": "{"})],
    "bytes": [("1-0", {"type": b"\xff", "data": b"\xff"})],
    "an unknown type": [("1-0", {"type": "dreaming", "data": "{}"})],
    "the last id there is": [(f"{2**64 - 1}-{2**64 - 1}", {"hello": "world"})],
    "a gap": [("1-0", {"type": "tokens", "data": '{"index":0,"ids":[5],"text":"a"}'}),
              ("1-7", {"type": "tokens", "data": '{"index":1,"ids":[5],"text":"a"}'})],
    "a late attempt": [(f"{2**62}-0", {"type": "tokens", "data": '{"index":0,"ids":[5],"text":"a"}'})],
}  # fmt: skip


@pytest.mark.parametrize("entries", STREAMS.values(), ids=STREAMS.keys())
@pytest.mark.parametrize("request_", [{"prompt": "hi", "max_new_tokens": 2}, {}], ids=["good", "bad"])
def test_a_stream_that_no_worker_has_written(client, outcome_of, entries, request_):
    job_id = uuid4().hex
    for entry_id, fields in entries:
        client.xadd(f"gen:{{{job_id}}}:events", fields, id=entry_id)
    outcome = outcome_of(push(client, job_fields(payload(request_)), job_id))
    assert outcome.result.status == ("finished" if request_ else "failed")
    assert [streamed.id.seq for streamed in outcome.events] == list(range(len(outcome.events)))


RQS_KEYS = ("rq:executions:{}", "rq:results:{}", "rq:job:{}:dependents")


@pytest.mark.parametrize("key", RQS_KEYS)
@pytest.mark.parametrize("request_", [{"prompt": "hi", "max_new_tokens": 2}, {}], ids=["good", "bad"])
def test_something_else_where_a_key_of_rq_belongs(client, outcome_of, key, request_):
    """RQ cannot keep its books then; the job has its end all the same."""
    job_id = uuid4().hex
    client.set(key.format(job_id), "foreign")
    outcome = outcome_of(push(client, job_fields(payload(request_)), job_id))
    assert outcome.result.status in ("finished", "failed")


def test_a_rate_limit_whose_key_holds_something_else(client, outcome_of):
    client.set("rq:rate_limit:mine", "foreign")
    fields = job_fields(payload({"prompt": "hi", "max_new_tokens": 1}))
    outcome = outcome_of(push(client, {**fields, "rate_limit_key": "mine", "rate_limit_concurrency": 1}))
    assert outcome.result.status == "finished"


def test_a_scheduled_job_that_cannot_be_read_is_refused_and_holds_up_no_other(client, outcome_of, queue):
    good = queue.enqueue_in(now() - now(), FUNCTION, request={"prompt": "hi", "max_new_tokens": 1})
    bad = uuid4().hex
    with client.pipeline() as pipeline:
        pipeline.hset(f"rq:job:{bad}", mapping=job_fields(created_at="yesterday"))
        pipeline.zadd(f"rq:scheduled:{QUEUE}", {bad: 1})
        pipeline.execute()
    for job_id in (good.id, bad):
        wait_for_end(client, job_id)
    outcome_of(bad).assert_failed("invalid_request", "enqueue through RQ")
    assert Outcome(client, good.id).result.status == "finished"


def test_a_message_that_is_no_command_does_not_deafen_the_worker(client, serving, producer):
    channel = f"rq:pubsub:{serving.name}"
    for message in (b"\xff", b"{", b"[]", b"7", b'{"command": "stop-job"}', b'{"command": ["x"]}'):
        assert client.publish(channel, message) == 1
    job = producer.submit(**LONG, model="tiny")
    wait_for_tokens(client, job.job_id)
    client.publish(channel, json.dumps({"command": "stop-job", "job_id": job.job_id}))
    assert job.result(timeout_s=100, check=False).status == "cancelled"


def _write(client: redis.Redis, key: str, kind: str) -> None:
    match kind:
        case "string":
            client.set(key, base64.b64encode(b"foreign"))
        case "list":
            client.rpush(key, "foreign")
        case "set":
            client.sadd(key, "foreign")


def wait_for_end(client: redis.Redis, job_id: str) -> None:
    """Follow the stream of a job to its terminal event."""
    key, last = f"gen:{{{job_id}}}:events", "0"
    while True:
        answer = client.xread({key: last}, block=EVENTS_WAIT_MS)
        assert answer, f"nothing more was heard of job {job_id} after {last}"
        for last, fields in answer[0][1]:
            if parse_entry(last, fields).is_terminal:
                return


# -- a worker that cannot start


def refused_start(worker: WorkerProcess, code: int, *words: str) -> None:
    """It ends with that exit code, and with one line that says what to do."""
    assert worker.wait(START_TIMEOUT_S) == code, worker.text()
    text = worker.text()
    assert "Traceback" not in text
    assert [line for line in text.splitlines() if line.startswith(("error: ", "Error: "))], text
    for word in words:
        assert word in text


@pytest.fixture
def no_broker() -> str:
    """A URL at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"redis://127.0.0.1:{probe.getsockname()[1]}/0"


def test_no_redis_at_all(start_worker, no_broker):
    worker = start_worker(no_broker, GENQUEUE_BROKER_WAIT_S="2")
    wait_for(lambda: "waiting for Redis" in worker.text(), "it to find none")
    began = time.monotonic()
    refused_start(worker, 3, "refused", "check the URL")
    assert 1 < time.monotonic() - began < 25, "without the setting it waits for 30 s"


@pytest.mark.parametrize(
    "url", ["nonsense", "http://127.0.0.1", "redis://127.0.0.1:port/0", "redis://:secret@[::1/0"]
)
def test_a_url_that_is_none(start_worker, url):
    worker = start_worker(url)
    refused_start(worker, 2, "redis_url", "redis://")
    assert "secret" not in worker.text()


@pytest.fixture(scope="module")
def guarded() -> Iterator[EmbeddedBroker]:
    """A server with a password, and with a user who may do next to nothing."""
    with EmbeddedBroker(
        options=("--requirepass", "right", "--user", "guest", "on", ">guest", "~none:*", "+ping")
    ) as broker:
        yield broker


@pytest.mark.parametrize(
    ("credentials", "words"),
    [
        ("", ("password",)),
        (":wrong@", ("password",)),
        ("nobody:right@", ("password",)),
        ("guest:guest@", ("ACL",)),
    ],
)
def test_a_redis_that_lets_nobody_in(start_worker, guarded, credentials, words):
    # Longer than we wait for its end: waiting cannot help.
    worker = start_worker(guarded.url.replace("//", f"//{credentials}"), GENQUEUE_BROKER_WAIT_S="1000")
    refused_start(worker, 3, *words)
    assert "wrong" not in worker.text()


@pytest.mark.parametrize(
    ("scheme", "answer", "advice"),
    [
        ("redis", b"\x15\x03\x03\x00\x02\x02\x46", "begin the URL with rediss://"),  # a fatal alert of TLS
        ("rediss", b"-ERR unknown command\r\n", "begin the URL with redis://"),
    ],
    ids=["plain to a TLS port", "TLS to a plain port"],
)
def test_tls_at_one_end_alone(start_worker, scheme, answer, advice):
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1000)
            self.request.sendall(answer)

    with served(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)) as port:
        worker = start_worker(f"{scheme}://127.0.0.1:{port}/0", GENQUEUE_BROKER_WAIT_S="1000")
        refused_start(worker, 3, advice)
    assert "waiting for Redis" not in worker.text()


@pytest.fixture(scope="module")
def early(guarded, model_paths, tmp_path_factory) -> Iterator[WorkerProcess]:
    """A worker that was started before its server, which wants a password; for whoever needs one of its own."""
    guarded.stop()
    url = guarded.url.replace("//", "//:right@")
    worker = WorkerProcess(url, model_paths, tmp_path_factory.mktemp("early") / "log")
    try:
        wait_for(lambda: "starting: waiting for Redis" in worker.text(), "the worker to find no Redis")
        guarded.start()
        yield worker.wait_until_ready()
    finally:
        worker.stop()


def test_a_redis_that_comes_late_is_waited_for(early):
    assert early.text().count("starting: waiting for Redis") == 1


def test_a_password_in_the_url_is_used_and_not_shown(early):
    assert "for Redis at 127.0.0.1" in early.text()
    assert "right" not in early.text()


def test_a_read_only_replica(start_worker, no_broker):
    port = no_broker.rpartition(":")[2].removesuffix("/0")
    with EmbeddedBroker(options=("--replicaof", f"127.0.0.1 {port}")) as replica:
        refused_start(start_worker(replica.url, GENQUEUE_BROKER_WAIT_S="1"), 3, "read-only", "primary")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("mine: gone", ("no folder", "orrect its line")),
        ("mine: .", ("holds no weights", "Download the model again")),
        ("mine: [", ("not valid YAML", "as in `qwen2_7b:")),
        ("other: .", ("'mine' is not in", "knows: other", "Add a line")),
    ],
)
def test_model_paths_that_lead_to_no_model(start_worker, no_broker, tmp_path, content, words):
    (tmp_path / "config.json").write_text("{}")
    paths = tmp_path / "paths.yaml"
    paths.write_text(content)
    worker = start_worker(no_broker, "--model-name", "mine", "--model-paths", str(paths))
    refused_start(worker, 2, str(paths), *words)


def test_weights_that_are_none(start_worker, serving_broker, tmp_path):
    """Found by the engine, whose process ends with the same code."""
    save_random_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not what it says it is")
    paths = tmp_path / "paths.yaml"
    paths.write_text("mine: .")
    worker = start_worker(serving_broker.url, "--model-name", "mine", "--model-paths", str(paths))
    refused_start(worker, 2, "model.safetensors", "is broken or was cut off", "download it again")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("heartbeat_ttl: 6", ("heartbeat_ttl",)),
        ("heartbeat_ttl_s: soon", ("heartbeat_ttl_s",)),
        ("heartbeat_ttl_s: [", ("YAML",)),
    ],
)
def test_a_settings_file_with_a_mistake(start_worker, no_broker, tmp_path, content, words):
    file = tmp_path / "worker.yaml"
    file.write_text(content)
    refused_start(start_worker(no_broker, "--config", str(file)), 2, str(file), *words)


# -- a server without memory


def refused_appends(client: redis.Redis) -> int:
    """How often the server has refused to append an event."""
    return client.info("commandstats")["cmdstat_xadd"]["rejected_calls"]


def test_a_redis_out_of_memory_holds_a_job_up_and_loses_nothing_of_it(early):
    with redis.Redis.from_url(early.redis_url) as client, Producer(early.redis_url) as producer:
        noticed = early.text().count("waiting for Redis")
        job = producer.submit(**LONG, model="tiny")
        wait_for_tokens(client, job.job_id)
        client.config_set("maxmemory", "1")
        wait_for(lambda: early.text().count("waiting for Redis") > noticed, "the worker to notice")
        held_up = client.xlen(f"gen:{{{job.job_id}}}:events")
        refused = refused_appends(client)
        wait_for(lambda: refused_appends(client) > refused + 3, "it to try again")
        assert early.text().count("waiting for Redis") == noticed + 1, "and the log is spared that"
        assert client.xlen(f"gen:{{{job.job_id}}}:events") == held_up
        assert not client.exists(f"gen:{{{job.job_id}}}:result")
        client.config_set("maxmemory", "0")
        result = job.result(timeout_s=100)
        assert joined(list(job.stream())) == (result.text, list(result.token_ids))
        assert (result.status, result.attempts) == ("finished", 1)
        assert len(result.token_ids) == LONG["max_new_tokens"]
        wait_for(lambda: Job.fetch(job.job_id, client, "json").get_status() == JobStatus.FINISHED, "RQ's books")
        assert producer.submit("hi", model="tiny", max_new_tokens=1).result(timeout_s=100).status == "finished"
        assert early.process.poll() is None
