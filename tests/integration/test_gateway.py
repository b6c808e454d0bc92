"""Gateways as processes: one is killed in mid-answer, and openai's client goes on at another."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx2
import openai
import pytest
import redis
from openai import OpenAI
from openai.types.responses import ResponseStreamEvent

from producer.broker.embedded import EmbeddedBroker
from producer.contract import Keys

from .test_worker import LONG, wait_for
from .worker_process import WorkerProcess

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


def client_of(url: str) -> OpenAI:
    return OpenAI(base_url=url, api_key="none", max_retries=0, timeout=100)


def to_the_end(urls: list[str], **asked) -> Iterator[ResponseStreamEvent]:
    """Events of a response, each once, whatever dies: the helper of the cookbook."""
    url, *others = urls
    events, seen, response_id = client_of(url).responses.create(**asked, stream=True), -1, ""
    while True:
        try:
            for event in events:
                seen = event.sequence_number
                response_id = event.response.id if event.type == "response.created" else response_id
                yield event
                if event.type in ("response.completed", "response.incomplete", "response.failed"):
                    return
        except (openai.OpenAIError, httpx2.HTTPError):  # the client lets the latter through in mid-stream
            url = others.pop(0)
        events = client_of(url).responses.retrieve(response_id, stream=True, starting_after=seen)


def test_a_client_goes_on_at_another_gateway(serving: WorkerProcess, serving_broker: EmbeddedBroker) -> None:
    url = serving_broker.url
    with gateway(url) as (first, first_url), gateway(url) as (second, second_url):
        asked = {"input": "Hi", "max_output_tokens": LONG["max_new_tokens"], "extra_body": {"ignore_eos": True}}
        events = to_the_end([first_url, second_url], model="tiny", **asked)
        got = [next(events) for _ in range(6)]
        serving.send(signal.SIGSTOP)
        first.kill()
        first.wait(100)
        serving.send(signal.SIGCONT)
        got += events
        assert [event.sequence_number for event in got] == list(range(len(got)))
        whole = got[-1].response
        assert (
            "".join(event.delta for event in got if event.type == "response.output_text.delta")
            == whole.output_text
        )
        assert client_of(second_url).responses.retrieve(whole.id).output_text == whole.output_text
        second.send_signal(signal.SIGTERM)
        assert second.wait(100) in (0, -signal.SIGTERM)


def test_a_job_ends_whose_client_and_gateway_are_gone(
    serving: WorkerProcess, serving_broker: EmbeddedBroker, client: redis.Redis
) -> None:
    asked = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": LONG["max_new_tokens"]}
    with gateway(serving_broker.url, "--grace-s", "0.4") as (process, url):
        stream = client_of(url).chat.completions.create(
            model="tiny", **asked, stream=True, extra_body={"ignore_eos": True}
        )
        job_id = next(stream).id.removeprefix("chatcmpl-")
        serving.send(signal.SIGSTOP)
        process.kill()
        process.wait(100)
        wait_for(
            lambda: int(client.hget(f"rq:job:{job_id}", "wanted_until_ms")) < client.time()[0] * 1000, "the lease"
        )
        serving.send(signal.SIGCONT)
    wait_for(lambda: client.exists(Keys().result(job_id)), "the end")
    assert client.xrevrange(Keys().events(job_id), count=1)[0][1][b"type"] == b"cancelled"
