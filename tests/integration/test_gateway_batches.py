"""A batch of two gateways, which are processes: the one that runs it is killed, and the other finishes it."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
import redis
from openai import OpenAI

from producer.broker.embedded import EmbeddedBroker
from producer.contract import Keys
from tests.documents import Document
from tests.instant_worker import InstantWorker, answer_to

from .test_gateway import ClientOf, gateway, names_of

pytestmark = pytest.mark.long  # the lease of a batch is ten seconds

ROWS = 200
WAIT_S = 100
AWAY_S = 12
"""Of the server: longer than the lease of a batch."""
KEYS = Keys()


@pytest.fixture
def worker(redis_client: redis.Redis) -> Iterator[InstantWorker]:
    """It takes some time for each row."""
    worker = InstantWorker(redis_client, pause_s=0.01)
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield worker
    worker.stop()
    thread.join(WAIT_S)


def rows() -> bytes:
    made = (
        {
            "custom_id": f"id-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "tiny", "messages": [{"role": "user", "content": f"row {number}"}]},
        }
        for number in range(ROWS)
    )
    return b"".join(json.dumps(row).encode() + b"\n" for row in made)


def begin(client: OpenAI) -> str:
    file = client.files.create(file=("rows.jsonl", rows()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    return batch.id


def wait_until_completed(client: OpenAI, batch_id: str) -> openai.types.Batch:
    by = time.monotonic() + WAIT_S
    while (batch := client.batches.retrieve(batch_id)).status != "completed":
        assert batch.status in ("validating", "in_progress", "finalizing"), batch
        assert time.monotonic() < by, batch
        time.sleep(0.1)
    return batch


def wait_for_answers(client: redis.Redis, batch_id: str, count: int) -> None:
    by = time.monotonic() + WAIT_S
    while int(client.hget(KEYS.batch("", batch_id), "completed") or 0) < count:
        assert time.monotonic() < by
        time.sleep(0.02)


def check_outputs(client: OpenAI, batch: openai.types.Batch, worker: InstantWorker) -> None:
    """Each row was answered once, and stands there once."""
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": ROWS, "completed": ROWS, "failed": 0}
    assert batch.output_file_id is not None
    lines = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    said = {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in lines}
    assert len(lines) == ROWS
    assert said == {f"id-{number}": answer_to(f"row {number}") for number in range(ROWS)}
    assert len(worker.jobs) == len(set(worker.jobs)) == ROWS


@pytest.fixture
def readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    """Runs its program, with its row, at a gateway. Returns what it prints."""
    document = Document("producer/gateway/README.md")
    [row], [code] = (document.blocks("Files and batches", language) for language in ("json", "python"))
    (tmp_path / "rows.jsonl").write_text(row)

    def run(url: str) -> str:
        monkeypatch.chdir(tmp_path)
        names_of(code.replace("http://127.0.0.1:8000/v1", url))
        return capsys.readouterr().out

    return run


def test_a_batch_is_finished_by_another_gateway(
    worker: InstantWorker,
    broker: EmbeddedBroker,
    redis_client: redis.Redis,
    readme: Callable[[str], str],
    client_of: ClientOf,
) -> None:
    with gateway(broker.url) as (first, first_url):
        batch_id = begin(client_of(first_url))
        wait_for_answers(redis_client, batch_id, 30)
        worker.pause_s = 1.0  # so that some are left
        with gateway(broker.url) as (_, second_url):
            first.kill()
            first.wait(WAIT_S)
            assert len(worker.jobs) < ROWS
            worker.pause_s = 0.0
            client = client_of(second_url)
            check_outputs(client, wait_until_completed(client, batch_id), worker)
            assert readme(second_url).startswith("completed BatchRequestCounts(completed=1, failed=0, total=1)\n{")


def test_a_batch_outlives_everything(client_of: ClientOf) -> None:
    """The server, which writes down what it is told, is killed alone, and then with the gateway."""
    with EmbeddedBroker(append_only=True) as broker, redis.Redis(port=broker.port) as client:
        worker = InstantWorker(client, pause_s=0.01)
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            with gateway(broker.url) as (_, url):
                batch_id = begin(client_of(url))
                wait_for_answers(client, batch_id, 30)
                broker.kill()
                time.sleep(AWAY_S)
                broker.start()
                wait_for_answers(client, batch_id, 60)
                worker.pause_s = 1.0
                broker.kill()
            broker.start()
            worker.pause_s = 0.0
            with gateway(broker.url) as (_, url):
                check_outputs(client_of(url), wait_until_completed(client_of(url), batch_id), worker)
        finally:
            worker.stop()
            thread.join(WAIT_S)
