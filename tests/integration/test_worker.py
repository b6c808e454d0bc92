"""One worker, a real server, and the ways in which people use them."""

import json
import subprocess
import sys
import time
import urllib.request

import jsonschema
import pytest
import redis
from rq import Callback, Retry
from rq.command import send_stop_job_command
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.suspension import resume, suspend
from rq.worker import BaseWorker

from producer.contract import FUNCTION, GenerationResult, InvalidRequest
from worker.models.tiny_corpus import LESSONS

from .conftest import joined
from .test_structured import PERSON, by

PROMPT = "你好，介绍一下你自己"
LONG = {
    "prompt": PROMPT,
    "max_new_tokens": 900,
    "ignore_eos": True,
    # Long in time, too: about a second, to have something to disturb. Greedy and with drafts it is a fifth.
    "prompt_lookup": False,
    "temperature": 1.0,
    "top_p": 0.95,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.1,
    "seed": 7,
}


def answer_to(prompt: str) -> str:
    """What the tiny model has learned."""
    return next(lesson.answer for lesson in LESSONS if prompt in lesson.questions)


def wait_for(condition, what: str, timeout_s: float = 100):
    """Look until it is so: for states that nothing announces."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited for {timeout_s} s: {what}"
        time.sleep(0.01)
    return value


def wait_for_tokens(client: redis.Redis, job_id: str, events: int = 5) -> None:
    wait_for(lambda: client.xlen(f"gen:{{{job_id}}}:events") >= events, "tokens on the stream")


def test_a_job_streams_its_tokens_and_leaves_its_result(producer):
    job = producer.submit(PROMPT, model="tiny")
    text, ids = joined(list(job.stream(timeout_s=100)))
    result = job.result()
    assert text == result.text == answer_to(PROMPT)
    assert ids == list(result.token_ids)
    assert (result.status, result.finish_reason) == ("finished", "stop")
    assert result.timings.queued_ms is not None
    assert result.timings.tokens_per_second > 0


SCRIPT = """
import json, sys
import redis, rq

r = redis.Redis(port=int(sys.argv[1]))
job_id = "by-rq-alone"
channel = r.pubsub()
channel.subscribe("gen:{" + job_id + "}:tokens")
channel.get_message(timeout=100)

queue = rq.Queue("generate.tiny", connection=r, serializer="json")
job = queue.enqueue("worker.jobs.generate", request={"prompt": sys.argv[2]}, job_id=job_id)

streamed, last, ended = [], "0", False
while not ended:
    for _, entries in r.xread({"gen:{" + job_id + "}:events": last}, block=4000):
        for last, entry in entries:
            streamed.append([last.decode(), entry[b"type"].decode(), json.loads(entry[b"data"])])
            ended = streamed[-1][1] in ("finished", "failed", "cancelled")

mirrored = []
while not mirrored or mirrored[-1]["type"] != "finished":
    message = channel.get_message(timeout=100)
    if message and message["type"] == "message":
        mirrored.append(json.loads(message["data"]))

result = job.latest_result(timeout=100)
assert not [name for name in sys.modules if name.split(".")[0] in ("producer", "worker", "torch")]
print(json.dumps({"streamed": streamed, "mirrored": mirrored, "value": job.return_value()}))
"""


def test_a_script_with_rq_and_redis_alone_can_do_it_all(serving, serving_broker):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(serving_broker.port), PROMPT],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    result = GenerationResult.model_validate(seen["value"])
    assert result.text == answer_to(PROMPT)
    assert "".join(data["text"] for _, kind, data in seen["streamed"] if kind == "tokens") == result.text
    assert [[m["id"], m["type"], m["data"]] for m in seen["mirrored"]] == seen["streamed"]
    assert seen["streamed"][-1][2] == seen["value"]


def test_priorities_are_served_high_to_low(producer, client):
    suspend(client)
    try:
        jobs = {p: producer.submit(PROMPT, model="tiny", priority=p) for p in ("low", "normal", "high")}
    finally:
        resume(client)
    for job in jobs.values():
        job.result(timeout_s=100)
    started = {p: Job.fetch(j.job_id, connection=client, serializer="json").started_at for p, j in jobs.items()}
    assert started["high"] < started["normal"] < started["low"]


def test_suspend_holds_jobs_back_and_resume_lets_them_go(producer, client, serving):
    suspend(client)
    job = producer.submit(PROMPT, model="tiny", max_new_tokens=2)
    wait_for(
        lambda: client.hget(f"rq:worker:{serving.name}", "state") == b"suspended", "the worker to say suspended"
    )
    assert job.status().state == "queued"
    resume(client)
    assert job.result(timeout_s=100).status == "finished"


def test_cancelling_a_running_job_keeps_its_text(producer, client):
    job = producer.submit(**LONG, model="tiny")
    wait_for_tokens(client, job.job_id)
    assert job.cancel() == "requested"
    result = job.result(timeout_s=100, check=False)
    assert result.status == "cancelled"
    text, ids = joined(list(job.stream()))
    assert (text, ids) == (result.text, list(result.token_ids))
    assert 0 < len(ids) < 900
    assert job.cancel() == "ended"


def test_rqs_stop_command_stops_the_running_job(producer, client):
    job = producer.submit(**LONG, model="tiny")
    wait_for_tokens(client, job.job_id)
    send_stop_job_command(client, job.job_id, serializer="json")
    assert job.result(timeout_s=100, check=False).status == "cancelled"
    rq_job = Job.fetch(job.job_id, connection=client, serializer="json")
    wait_for(lambda: rq_job.get_status() == JobStatus.STOPPED, "RQ's status")


def test_a_job_past_its_timeout_fails_and_keeps_its_text(producer, client, serving):
    job = producer.submit(**LONG, model="tiny", timeout_s=1)
    serving.outlast(client, job.job_id, 1)
    result = job.result(timeout_s=100, check=False)
    assert (result.status, result.error.code) == ("failed", "timeout")
    assert 0 < len(result.token_ids) < 900


def test_a_retry_goes_on_after_the_last_published_token(queue, producer, client, serving):
    whole = producer.submit(**LONG, model="tiny").result(timeout_s=100)
    job = queue.enqueue(FUNCTION, request=LONG, job_timeout=1, retry=Retry(max=10))
    serving.outlast(client, job.id, 1)
    events = list(producer.stream(job.id, timeout_s=100))
    result = producer.result(job.id)
    assert result.status == "finished"
    assert result.attempts > 1
    assert joined(events) == (whole.text, list(whole.token_ids)) == (result.text, list(result.token_ids))


def test_a_retry_with_an_interval_is_scheduled(queue, producer, client, serving):
    job = queue.enqueue(FUNCTION, request=LONG, job_timeout=1, retry=Retry(max=1, interval=1))
    serving.outlast(client, job.id, 1)
    wait_for(lambda: job.get_status() == JobStatus.SCHEDULED, "RQ's scheduled registry")
    assert producer.result(job.id, timeout_s=100, check=False).attempts == 2


def test_depends_on_waits_for_the_other_job(queue, producer):
    first = queue.enqueue(FUNCTION, request={"prompt": PROMPT})
    second = queue.enqueue(FUNCTION, request={"prompt": PROMPT, "max_new_tokens": 2}, depends_on=first)
    assert producer.result(second.id, timeout_s=100).status == "finished"
    assert first.get_status() == JobStatus.FINISHED


def test_a_failed_job_can_be_requeued_through_rq(queue, producer, client, serving):
    job = queue.enqueue(FUNCTION, request=LONG, job_timeout=1)
    serving.outlast(client, job.id, 1)
    assert producer.result(job.id, timeout_s=100, check=False).error.code == "timeout"
    registry = FailedJobRegistry(queue=queue)
    wait_for(lambda: job.id in registry, "the failed registry")
    client.hset(job.key, "timeout", 60)
    registry.requeue(job.id)
    wait_for(lambda: job.get_status() == JobStatus.FINISHED, "the second life's end")
    result = producer.result(job.id, timeout_s=100)
    assert (result.status, result.attempts) == ("finished", 2)
    assert joined(list(producer.stream(job.id)))[1] == list(result.token_ids)


def test_progress_stands_in_the_jobs_meta(producer, client, serving):
    """The engine stands still until it has been seen, however fast the machine decodes."""
    job = producer.submit(**LONG, model="tiny")
    wait_for_tokens(client, job.job_id)
    with serving.engine_stopped():
        status = wait_for(lambda: (s := job.status()).progress and s.progress.tokens and s, "progress in job.meta")
    assert status.progress.phase == "decode"
    assert status.worker
    job.cancel()
    job.result(timeout_s=100, check=False)


def test_rq_sees_the_worker_and_no_prompt(queue, producer, client, serving):
    secret = "a-secret-nobody-should-see"
    job = producer.submit(secret, model="tiny", max_new_tokens=900, ignore_eos=True)
    wait_for_tokens(client, job.job_id, events=2)
    [worker] = BaseWorker.all(connection=client, serializer="json")
    assert worker.name == serving.name
    assert worker.queue_names() == ["generate.tiny.high", "generate.tiny", "generate.tiny.low"]
    assert worker.get_current_job_id() == job.job_id
    assert job.job_id in StartedJobRegistry(queue=queue).get_job_ids()
    job.cancel()
    result = job.result(timeout_s=100, check=False)
    command_line = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert secret not in command_line
    assert secret not in serving.text()
    assert result.text[:20] not in serving.text()
    assert secret not in Job.fetch(job.job_id, connection=client, serializer="json").description


def test_metrics_count_jobs_and_tokens(producer, serving):
    producer.submit(PROMPT, model="tiny", max_new_tokens=3).result(timeout_s=100)
    url = next(word for line in serving.text().splitlines() if "metrics at" in line for word in line.split()[-1:])

    def metrics() -> dict[str, float]:
        lines = urllib.request.urlopen(url, timeout=100).read().decode().splitlines()
        values = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in values}

    finished = 'genqueue_jobs_total{error="",status="finished"}'
    wait_for(lambda: metrics().get(finished, 0) >= 1, "the job to be counted")
    assert metrics()["gen_ai_usage_output_tokens_total"] >= 3
    assert metrics()["gen_ai_server_time_to_first_token_seconds_count"] >= 1


def test_every_key_of_an_ended_job_expires(producer, client):
    job = producer.submit(PROMPT, model="tiny", max_new_tokens=3, result_ttl_s=90)
    job.result(timeout_s=100)
    rq_job = Job.fetch(job.job_id, connection=client, serializer="json")
    wait_for(lambda: rq_job.get_status() == JobStatus.FINISHED, "RQ's bookkeeping")
    keys = [key for key in client.keys("*") if job.job_id.encode() in key]
    assert len(keys) >= 3
    assert all(0 < client.ttl(key) <= 150 for key in keys), {key: client.ttl(key) for key in keys}


@pytest.mark.parametrize("registered", [Callback("os.getpid"), Callback("builtins.print")])
def test_callbacks_are_refused(queue, producer, registered):
    job = queue.enqueue(FUNCTION, request={"prompt": "hi"}, on_success=registered)
    error = producer.result(job.id, timeout_s=100, check=False).error
    assert error.code == "invalid_request"
    assert "allowed_callbacks" in error.message


def test_check_tells_whether_a_ready_worker_serves_the_model(serving, serving_broker):
    def check(model: str) -> int:
        command = [sys.executable, "-m", "worker", "check", "--model-name", model]
        return subprocess.run([*command, "--redis-url", serving_broker.url], timeout=30, check=False).returncode

    assert check("tiny") == 0
    assert check("another") == 1


def test_a_finished_job_leaves_nothing_in_the_workers_list(producer, client, serving):
    producer.submit(PROMPT, model="tiny", max_new_tokens=2).result(timeout_s=100)
    wait_for(lambda: not client.exists(f"gen:{{taken:{serving.name}}}"), "the list to be empty")
    assert StartedJobRegistry("generate.tiny", connection=client, serializer="json").get_job_ids() == []


def test_an_answer_validates_and_is_streamed_as_any_other(producer):
    job = producer.submit("Who?", model="tiny", response_format=by(PERSON), temperature=1.0, seed=3)
    text, ids = joined(list(job.stream(timeout_s=100)))
    result = job.result()
    jsonschema.validate(result.parsed, PERSON)
    assert (text, ids, result.finish_reason) == (result.text, list(result.token_ids), "stop")


def test_a_keyword_that_cannot_be_kept_to_is_named(producer):
    job = producer.submit("Who?", model="tiny", response_format=by({"type": "array", "uniqueItems": True}))
    with pytest.raises(InvalidRequest, match="uniqueItems"):
        job.result(timeout_s=100)


def test_several_answers_read_their_prompt_once(producer):
    jobs = producer.submit("What is genqueue?" * 4, model="tiny", n=3, seed=1, temperature=1.5, max_new_tokens=20)
    results = [job.result(timeout_s=100) for job in jobs]
    assert len({result.text for result in results}) == 3
    assert [result.seed for result in results] == [1, 2, 3]
    prompt_tokens = results[0].usage.prompt_tokens
    assert all(result.usage.cached_tokens >= prompt_tokens - 2 for result in results[1:])
