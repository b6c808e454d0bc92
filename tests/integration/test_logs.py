"""A worker's log as JSON, from its first line to its last, its engine's lines among them."""

import json
import signal
from collections.abc import Callable
from typing import Any

import pytest

from producer import Producer
from producer.broker.embedded import EmbeddedBroker

from .test_worker import PROMPT, answer_to, wait_for
from .worker_process import WorkerProcess

pytestmark = pytest.mark.slow
StartWorker = Callable[..., WorkerProcess]


def lines(worker: WorkerProcess) -> list[dict[str, Any]]:
    """Each line of the log; it is an error if one is no object."""
    said = [json.loads(line) for line in worker.text().splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, said))
    return said


def test_a_job_is_one_line_and_every_line_is_json(broker: EmbeddedBroker, start_worker: StartWorker) -> None:
    worker = start_worker(broker.url, "--log-format", "json").wait_until_ready()
    with Producer(broker.url) as producer:
        answered = producer.submit(PROMPT, model="tiny")
        refused = producer.submit(PROMPT, model="tiny", max_new_tokens=10**6)
        result = answered.result(timeout_s=100)
    wait_for(lambda: refused.job_id in worker.text(), "the second job")
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0

    [line] = [line for line in lines(worker) if line.get("job_id") == answered.job_id]
    assert line["level"] == "INFO"
    assert (line["model"], line["status"], line["finish_reason"], line["attempt"]) == (
        "tiny",
        "finished",
        "stop",
        1,
    )
    assert line["completion_tokens"] == len(result.token_ids)
    assert line["ms"] > 0
    [line] = [line for line in lines(worker) if line.get("job_id") == refused.job_id]
    assert (line["status"], line["code"]) == ("failed", "invalid_request")
    for text in (PROMPT, answer_to(PROMPT)):
        assert text not in worker.text()


def test_an_engine_that_cannot_start_says_so_in_json(broker: EmbeddedBroker, start_worker: StartWorker) -> None:
    worker = start_worker(broker.url, "--log-format", "json", "--device", "abacus")
    assert worker.wait(300) == 2
    engine, last = lines(worker)[-2:]
    assert (engine["logger"], engine["level"]) == ("worker.engine_process.server", "ERROR")
    assert "abacus" in engine["message"]
    assert "--device cuda:0" in engine["message"]
    assert last["logger"] == "worker.logs"
    assert "the engine could not start" in last["message"]
