"""What a producer sees of a worker, on a real one and on the scripted one that people test their own code with.

Whatever is asserted here is so on both: a test that passes with `producer.testing` says something of the real
thing.
"""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest
import redis
from click.testing import CliRunner
from rq import Queue
from rq.job import Job
from rq.suspension import resume, suspend

from producer import (
    AsyncProducer,
    JobCancelled,
    JobConflict,
    JobExpired,
    JobTimeout,
    NoSuchJob,
    Producer,
    QueueFull,
    StreamedEvent,
    Tokens,
    WaitTimeout,
    as_completed,
    gather,
)
from producer.cli import cli
from producer.testing import scripted_worker
from worker.models.tiny_corpus import LESSONS

from .conftest import joined
from .test_contract import enqueue, follow, run
from .test_worker import answer_to, wait_for

GENQUEUE, WHO, KILL = "What is genqueue?", "Who are you?", "What survives a kill -9?"
TIMEOUT_S = 100


@dataclass
class World:
    """A server and its one worker."""

    url: str
    client: redis.Redis
    hold: Callable[[], AbstractContextManager[None]]
    """Within, a job that is taken stands still."""

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Within, no job is taken."""
        suspend(self.client)
        try:
            yield
        finally:
            resume(self.client)


@pytest.fixture(params=["scripted", pytest.param("real", marks=[pytest.mark.slow, pytest.mark.long])])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """On each kind."""
    if request.param == "real":
        serving, broker = request.getfixturevalue("serving"), request.getfixturevalue("serving_broker")
        with redis.Redis(port=broker.port) as client:
            yield World(broker.url, client, serving.engine_stopped)
        return
    with scripted_worker() as worker:
        worker.serves("tiny")
        worker.answer_with({prompt: lesson.answer for lesson in LESSONS for prompt in lesson.questions})

        @contextlib.contextmanager
        def hold() -> Iterator[None]:
            worker.delay_s = math.inf
            try:
                yield
            finally:
                worker.delay_s = 0

        yield World(worker.url, worker.client, hold)


@pytest.fixture
def producer(world: World) -> Iterator[Producer]:
    with Producer(world.url) as producer:
        yield producer


def test_a_job_streams_its_tokens_and_leaves_its_result(producer: Producer) -> None:
    job = producer.submit(GENQUEUE, model="tiny")
    events = list(job.stream(timeout_s=TIMEOUT_S))
    text, ids = joined(events)
    result = job.result()

    assert [event.event.type for event in (events[0], events[-1])] == ["started", "finished"]
    assert events[-1].event.data == result
    assert text == result.text == answer_to(GENQUEUE)
    assert ids == list(result.token_ids)
    assert (result.status, result.finish_reason, result.stop, result.error) == ("finished", "stop", None, None)
    assert (result.attempts, result.job_id, result.model) == (1, job.job_id, "tiny")
    assert result.usage.completion_tokens == len(ids)
    assert result.usage.prompt_tokens > 0
    assert result.timings.queued_ms is not None
    assert result.timings.time_to_first_token_ms is not None


def test_a_stream_goes_on_after_any_event(world: World, producer: Producer) -> None:
    job = producer.submit(WHO, model="tiny")
    events = list(job.stream(timeout_s=TIMEOUT_S))

    with Producer(world.url) as another:
        middle = (len(events) - 1) // 2
        assert list(another.stream(job.job_id, after=events[middle].id)) == events[middle + 1 :]
        assert list(another.stream(job.job_id, after=str(events[-1].id))) == []
        assert another.result(job.job_id).text == answer_to(WHO)


def test_an_id_stands_for_one_request(producer: Producer) -> None:
    first = producer.submit(GENQUEUE, model="tiny", job_id="mine")
    again = producer.submit(GENQUEUE, model="tiny", job_id="mine")

    assert (first.created, again.created) == (True, False)
    assert again.result(TIMEOUT_S) == first.result(TIMEOUT_S)
    with pytest.raises(JobConflict):
        producer.submit(WHO, model="tiny", job_id="mine")


def test_a_job_that_waits_is_cancelled_at_once(world: World, producer: Producer) -> None:
    with world.suspended():
        job = producer.submit(GENQUEUE, model="tiny")
        assert (job.status().state, job.status().position) == ("queued", 0)
        assert job.cancel() == "cancelled"
        with pytest.raises(JobCancelled):
            job.result()
    assert job.cancel() == "ended"
    assert (job.status().state, job.result(check=False).text) == ("cancelled", "")


def test_a_job_that_runs_is_cancelled_by_its_worker(world: World, producer: Producer) -> None:
    with world.hold():
        job = producer.submit(GENQUEUE, model="tiny")
        wait_for(lambda: job.status().position is None, "the worker to take the job")
        assert job.cancel() == "requested"
    assert [event.event.type for event in job.stream(timeout_s=TIMEOUT_S)][-1] == "cancelled"
    assert (job.cancel(), job.status().state) == ("ended", "cancelled")


def test_a_job_that_waits_for_too_long_expires(world: World, producer: Producer) -> None:
    with world.suspended():
        job = producer.submit(GENQUEUE, model="tiny", queue_ttl_s=0.05)
        with pytest.raises(JobExpired):
            job.result(TIMEOUT_S)
    result = job.result(check=False)
    assert (result.status, result.finish_reason, result.error.code) == ("failed", "error", "expired")


def test_a_job_that_takes_too_long_times_out(world: World, producer: Producer) -> None:
    with world.hold():
        job = producer.submit(GENQUEUE, model="tiny", timeout_s=1)
        wait_for(lambda: job.status().position is None, "the worker to take the job")
        time.sleep(1.2)  # a real engine has to go on to hear of its end
    with pytest.raises(JobTimeout, match="longer than its 1 s"):
        job.result(TIMEOUT_S)
    assert (job.result(check=False).finish_reason, job.status().state) == ("error", "failed")


def test_a_wait_that_is_over_says_how_the_job_stands(world: World, producer: Producer) -> None:
    with world.hold():
        job = producer.submit(GENQUEUE, model="tiny")
        wait_for(lambda: job.status().state == "running", "the worker to take the job")
        with pytest.raises(WaitTimeout, match="running on"):
            job.result(timeout_s=0.05)
    assert job.result(TIMEOUT_S).text == answer_to(GENQUEUE)


def test_a_full_queue_takes_nothing_more(world: World, producer: Producer) -> None:
    with world.suspended():
        jobs = producer.submit_many([GENQUEUE, WHO], model="tiny", max_queued=2)
        with pytest.raises(QueueFull):
            producer.submit(KILL, model="tiny", max_queued=2)
    assert [job.result(TIMEOUT_S).text for job in jobs] == [answer_to(GENQUEUE), answer_to(WHO)]


def test_jobs_are_served_by_priority(world: World, producer: Producer) -> None:
    with world.suspended():
        jobs = {name: producer.submit(GENQUEUE, model="tiny", priority=name) for name in ("low", "normal", "high")}
        assert {name: job.status().position for name, job in jobs.items()} == {"high": 0, "normal": 1, "low": 2}
    for job in jobs.values():
        job.result(TIMEOUT_S)
    started = {
        name: Job.fetch(job.job_id, world.client, serializer="json").started_at for name, job in jobs.items()
    }
    assert sorted(started, key=started.get) == ["high", "normal", "low"]


def test_length_and_stop_strings_end_a_text(producer: Producer) -> None:
    cut = producer.submit(GENQUEUE, model="tiny", max_new_tokens=3).result(TIMEOUT_S)
    whole = answer_to(GENQUEUE)
    stopped = producer.submit(GENQUEUE, model="tiny", stop=whole[5:8]).result(TIMEOUT_S)

    assert (cut.finish_reason, cut.truncated, len(cut.token_ids)) == ("length", True, 3)
    assert whole.startswith(cut.text)
    assert (stopped.text, stopped.finish_reason, stopped.stop) == (
        whole.partition(whole[5:8])[0],
        "stop",
        whole[5:8],
    )


def test_logprobs_and_seeds_are_as_they_were_asked_for(producer: Producer) -> None:
    job = producer.submit(GENQUEUE, model="tiny", seed=11, logprobs=0)
    tokens = [event.event.data for event in job.stream(timeout_s=TIMEOUT_S) if isinstance(event.event, Tokens)]

    assert all(len(data.logprobs) == len(data.ids) for data in tokens)
    assert job.result().seed == 11


def test_a_chat_is_answered(producer: Producer) -> None:
    chat = [{"role": "user", "content": WHO}]
    assert producer.submit(messages=chat, model="tiny").result(TIMEOUT_S).text == answer_to(WHO)


def test_the_worker_is_seen(producer: Producer) -> None:
    [seen] = producer.workers("tiny")
    job = producer.submit(WHO, model="tiny")
    job.result(TIMEOUT_S)

    assert (seen.model_state, seen.chat_template) == ("ready", True)
    assert (job.status().worker, job.status().state) == (seen.name, "finished")
    with pytest.raises(NoSuchJob):
        producer.status("never-submitted")


async def test_asyncio_awaits_many_at_once(world: World) -> None:
    prompts = [GENQUEUE, WHO, KILL] * 2
    async with AsyncProducer(world.url) as producer:
        jobs = await producer.submit_many(prompts, model="tiny")
        results = await asyncio.gather(*(job.result(TIMEOUT_S) for job in jobs))
        events = [event async for event in jobs[-1].stream(timeout_s=TIMEOUT_S)]
    assert [result.text for result in results] == [answer_to(prompt) for prompt in prompts]
    assert _text(events) == answer_to(KILL)


def test_texts_come_whole_in_pieces_and_many_at_once(producer: Producer) -> None:
    jobs = producer.submit_many([GENQUEUE, WHO, KILL], model="tiny")
    answers = [answer_to(prompt) for prompt in (GENQUEUE, WHO, KILL)]

    assert sorted(job.text() for job in as_completed(jobs, timeout_s=TIMEOUT_S)) == sorted(answers)
    assert [result.text for result in gather(jobs)] == answers
    assert ["".join(job.text_stream()) for job in jobs] == answers


def test_rq_alone_is_served(world: World) -> None:
    queue = Queue("generate.tiny", connection=world.client, serializer="json")
    job = queue.enqueue("worker.jobs.generate", request={"prompt": GENQUEUE})

    assert job.latest_result(timeout=TIMEOUT_S) is not None
    assert job.return_value()["text"] == answer_to(GENQUEUE)
    wait_for(lambda: job.get_status() == "finished", "RQ to be told")


def test_a_job_that_depends_on_another_is_served_after_it(world: World, producer: Producer) -> None:
    queue = Queue("generate.tiny", connection=world.client, serializer="json")
    first = queue.enqueue("worker.jobs.generate", request={"prompt": GENQUEUE})
    second = queue.enqueue("worker.jobs.generate", request={"prompt": WHO}, depends_on=first)

    assert producer.result(second.id, TIMEOUT_S).text == answer_to(WHO)
    assert producer.status(first.id).state == "finished"


def test_what_is_no_request_of_ours_is_refused(world: World, producer: Producer) -> None:
    queue = Queue("generate.tiny", connection=world.client, serializer="json")
    stranger = queue.enqueue("os.getcwd")
    unknown = queue.enqueue("worker.jobs.generate", request={"prompt": GENQUEUE, "reasoning": "high"})

    results = [producer.result(job.id, TIMEOUT_S, check=False) for job in (stranger, unknown)]

    assert [result.error.code for result in results] == ["unknown_function", "invalid_request"]
    assert "does not know the field 'reasoning'" in results[1].error.message


def test_the_specification_at_its_word(world: World) -> None:
    """As `test_contract` has it: its commands, and none of our code."""
    job_id = enqueue(world.client, {"prompt": GENQUEUE, "seed": 7})
    events = list(follow(world.client, job_id))
    [raw] = run(world.client, 7, JOB=job_id)

    assert [event_id for event_id, _, _ in events] == [f"1-{seq}" for seq in range(len(events))]
    assert json.loads(raw) == events[-1][2]
    assert (events[-1][2]["text"], events[-1][2]["seed"]) == (answer_to(GENQUEUE), 7)
    middle = (len(events) - 1) // 2
    assert list(follow(world.client, job_id, events[middle][0])) == events[middle + 1 :]
    *_, (_, event_type, result) = follow(world.client, enqueue(world.client, {"prompt": "Hi"}, wait_ms=-1))
    assert (event_type, result["error"]["code"]) == (b"failed", "expired")


def test_the_commands_of_a_shell(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", world.url)
    shell = CliRunner()

    waited = shell.invoke(cli, ["submit", GENQUEUE, "--model-name", "tiny", "--wait"])
    job_id = shell.invoke(cli, ["submit", WHO, "--model-name", "tiny"]).stdout.strip()
    streamed = shell.invoke(cli, ["stream", job_id])
    status = shell.invoke(cli, ["status", job_id])

    assert (waited.exit_code, waited.stdout) == (0, answer_to(GENQUEUE) + "\n")
    assert streamed.stdout.strip() == answer_to(WHO)
    assert "finished" in status.stdout


def _text(events: list[StreamedEvent]) -> str:
    return "".join(event.event.data.text for event in events if isinstance(event.event, Tokens))
