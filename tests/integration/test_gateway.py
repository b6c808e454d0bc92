"""Gateways as processes: one is killed in mid-answer, and openai's client goes on at another."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest
import redis
from openai import OpenAI

from producer.broker.embedded import EmbeddedBroker
from producer.contract import Keys
from tests.documents import Document
from worker.run.event_log import WAITERS_EVERY_S

from .test_worker import LONG, wait_for
from .worker_process import WorkerProcess, engine_of

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def gateway(redis_url: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A gateway, and its address."""
    command = [sys.executable, "-m", "producer", "serve", "--port", "0", "--redis-url", redis_url, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        try:
            yield process, process.stderr.readline().split()[-1]
        finally:
            process.kill()


ClientOf = Callable[[str], OpenAI]


def test_a_client_goes_on_at_another_gateway(
    serving: WorkerProcess, serving_broker: EmbeddedBroker, client_of: ClientOf
) -> None:
    """By the helper of the README."""
    answer = names_of(Document("producer/gateway/README.md").blocks("Coming back")[0])["answer"]
    asked = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": LONG["max_new_tokens"]}
    url = serving_broker.url
    with gateway(url) as (first, first_url), gateway(url) as (second, second_url):
        chunks = answer([first_url, second_url], model="tiny", **asked, extra_body={"ignore_eos": True})
        got = [next(chunks) for _ in range(3)]
        os.kill(engine_of(serving.process.pid), signal.SIGSTOP)
        first.kill()
        first.wait(100)
        os.kill(engine_of(serving.process.pid), signal.SIGCONT)
        got += chunks
        text = "".join(chunk.choices[0].delta.content or "" for chunk in got)
        whole = client_of(second_url).chat.completions.retrieve(got[0].id)
        assert text == whole.choices[0].message.content
        assert len({chunk.id for chunk in got}) == 1
        second.send_signal(signal.SIGTERM)
        assert second.wait(100) in (0, -signal.SIGTERM)


def test_a_gateway_that_is_told_to_end_says_no_more_of_a_stream_than_that_it_was_cut(
    serving: WorkerProcess, serving_broker: EmbeddedBroker, client_of: ClientOf
) -> None:
    asked = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": LONG["max_new_tokens"], "stream": True}
    with gateway(serving_broker.url) as (process, url):
        stream = client_of(url).chat.completions.create(model="tiny", **asked, extra_body={"ignore_eos": True})
        next(stream)
        with serving.engine_stopped():
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            said = process.stderr.read()
        stream.close()
    assert "Cancel 1 running task(s)" in said
    assert "Traceback" not in said


def test_events_of_a_response_go_on_at_another_gateway(
    serving: WorkerProcess, serving_broker: EmbeddedBroker, client_of: ClientOf
) -> None:
    url = serving_broker.url
    with gateway(url) as (first, first_url), gateway(url) as (_, second_url):
        asked = {"input": "Hi", "max_output_tokens": LONG["max_new_tokens"], "extra_body": {"ignore_eos": True}}
        events = iter(client_of(first_url).responses.create(model="tiny", **asked, stream=True))
        got = [next(events) for _ in range(6)]
        os.kill(engine_of(serving.process.pid), signal.SIGSTOP)
        first.kill()
        first.wait(100)
        os.kill(engine_of(serving.process.pid), signal.SIGCONT)
        with contextlib.suppress(openai.OpenAIError, httpx2.HTTPError):
            got += events  # what had come by then
        again = client_of(second_url).responses
        got += again.retrieve(got[0].response.id, stream=True, starting_after=got[-1].sequence_number)
        assert [event.sequence_number for event in got] == list(range(len(got)))
        whole = got[-1].response
        deltas = "".join(event.delta for event in got if event.type == "response.output_text.delta")
        assert deltas == whole.output_text == again.retrieve(whole.id).output_text


def names_of(code: str) -> dict[str, Any]:
    """The names that a program makes."""
    names: dict[str, Any] = {"__name__": "recipe"}
    exec(compile(code, "recipe", "exec"), names)
    return names


def test_a_job_ends_whose_client_and_gateway_are_gone(
    serving: WorkerProcess, serving_broker: EmbeddedBroker, client: redis.Redis, client_of: ClientOf
) -> None:
    asked = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": LONG["max_new_tokens"]}
    engine = engine_of(serving.process.pid)
    with gateway(serving_broker.url) as (process, url):
        stream = client_of(url).chat.completions.create(
            model="tiny", **asked, stream=True, extra_body={"ignore_eos": True}
        )
        job_id = next(stream).id.removeprefix("chatcmpl-")
        os.kill(engine, signal.SIGSTOP)
        process.kill()
        process.wait(100)
    # Its grace is over. How it passes is seen in unit/producer/ledger/test_wanting.py.
    client.hset(f"rq:job:{job_id}", mapping={"wanted_until_ms": 1, "lapsed_at_ms": 1})
    time.sleep(WAITERS_EVERY_S)  # so that the worker looks with its next append
    os.kill(engine, signal.SIGCONT)
    wait_for(lambda: client.exists(Keys().result(job_id)), "the end")
    assert client.xrevrange(Keys().events(job_id), count=1)[0][1][b"type"] == b"cancelled"
