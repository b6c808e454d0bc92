"""What a stream survives: Redis going away, the worker being told to go, its engine and itself being killed."""

import contextlib
import os
import signal
import threading
import time

import pytest
import redis
import torch
from rq.job import Job, JobStatus

from producer import GenerationRequest, Producer
from producer.broker.embedded import EmbeddedBroker
from worker.engine import Engine
from worker.models.config_loader import locate_model

from .conftest import Crew, joined
from .test_worker import LONG, wait_for, wait_for_tokens


@pytest.fixture
def forgetful():
    """A server that keeps nothing over a restart."""
    with EmbeddedBroker() as broker:
        yield broker


def client_of(broker: EmbeddedBroker) -> redis.Redis:
    return redis.Redis(port=broker.port)


@pytest.fixture(scope="module")
def undisturbed(model_paths) -> tuple[str, list[int]]:
    """Text and ids of LONG, from the engine alone."""
    engine = Engine.load(locate_model("tiny", model_paths), torch.device("cpu"))
    request = GenerationRequest.parse(LONG)
    steps = list(engine.start(request, engine.encode(request), seed=LONG["seed"]))
    return "".join(step.text for step in steps), [step.token_id for step in steps]


class Follower:
    """A subscriber in a thread, from before the trouble until after the end."""

    def __init__(self, producer: Producer, job_id: str) -> None:
        self.events: list = []
        self._thread = threading.Thread(target=self._follow, args=(producer, job_id), daemon=True)
        self._thread.start()

    def _follow(self, producer: Producer, job_id: str) -> None:
        for streamed in producer.stream(job_id, timeout_s=100):
            self.events.append(streamed)

    def all(self) -> list:
        """What it saw, once the stream has ended."""
        self._thread.join(60)
        assert not self._thread.is_alive(), f"the stream did not end; it has {len(self.events)} events"
        return self.events


def test_a_job_popped_by_a_worker_that_died_before_it_started_is_not_lost(durable, crew: Crew):
    crew.stop()
    with Producer(durable.url) as producer, client_of(durable) as client:
        job = producer.submit("hi", model="tiny", max_new_tokens=2)
        client.lmove("rq:queue:generate.tiny", "gen:{taken:dead-worker}", "LEFT", "RIGHT")
        client.hset(f"rq:job:{job.job_id}", "taken_by", "dead-worker")
        client.sadd("gen:takers", "dead-worker")
        crew.start()
        assert job.result(timeout_s=100).status == "finished"
        wait_for(lambda: not client.sismember("gen:takers", "dead-worker"), "the dead worker to be buried")
        assert not client.exists("gen:{taken:dead-worker}")


@pytest.mark.parametrize("kill", [True, False], ids=["kill -9", "orderly"])
def test_redis_restarted_during_a_generation(durable, crew: Crew, undisturbed, kill):
    worker = crew.one()
    with Producer(durable.url) as producer:
        job = producer.submit(**LONG, model="tiny")
        follower = Follower(producer, job.job_id)
        wait_for_tokens(client_of(durable), job.job_id)
        durable.kill() if kill else durable.stop()
        time.sleep(0.5)  # an outage of that length, and not a wait for anything
        durable.start()
        seen = joined(follower.all())
        result = job.result(timeout_s=100)
    assert seen == undisturbed == (result.text, list(result.token_ids))
    assert result.attempts == 1
    assert worker.process.poll() is None
    wait_for(lambda: _status(durable, job.job_id) == JobStatus.FINISHED, "RQ's bookkeeping after the restart")


def test_an_end_that_rq_has_not_heard_of_is_registered_by_the_sweep(durable, crew: Crew):
    """The worker died between the terminal event and RQ's bookkeeping."""
    with Producer(durable.url) as producer, client_of(durable) as client:
        worker = crew.one()
        job = producer.submit("hi", model="tiny", max_new_tokens=2)
        job.result(timeout_s=100)
        wait_for(lambda: _status(durable, job.job_id) == JobStatus.FINISHED, "RQ's bookkeeping")
        client.hset(f"rq:job:{job.job_id}", "status", "started")
        client.rpush("gen:{taken:dead-worker}", job.job_id)
        client.sadd("gen:takers", "dead-worker")
        wait_for(lambda: _status(durable, job.job_id) == JobStatus.FINISHED, "the sweep")
        assert joined(list(job.stream()))[1] == list(job.result().token_ids)
        assert worker.process.poll() is None


def test_an_engine_killed_during_a_generation_is_replaced_and_the_job_goes_on(durable, crew: Crew, undisturbed):
    worker = crew.one()
    with Producer(durable.url) as producer:
        job = producer.submit(**LONG, model="tiny")
        follower = Follower(producer, job.job_id)
        wait_for_tokens(client_of(durable), job.job_id)
        os.kill(worker.engine_pid(), signal.SIGKILL)
        assert joined(follower.all()) == undisturbed
        assert job.result().attempts == 2


def test_a_worker_killed_during_a_generation_is_replaced_and_the_job_goes_on(durable, crew: Crew, undisturbed):
    first = crew.one()
    crew.start()
    with Producer(durable.url) as producer:
        job = producer.submit(**LONG, model="tiny")
        follower = Follower(producer, job.job_id)
        wait_for_tokens(client_of(durable), job.job_id)
        first.hide_process()
        first.send(signal.SIGKILL)
        assert joined(follower.all()) == undisturbed
        assert job.result().attempts == 2
    wait_for(lambda: _status(durable, job.job_id) == JobStatus.FINISHED, "RQ's bookkeeping")


@pytest.mark.parametrize("sign", ["exited", pytest.param("overdue", marks=pytest.mark.long)])
def test_a_worker_killed_with_the_server_is_replaced_and_the_job_goes_on(durable, crew: Crew, undisturbed, sign):
    """Its connection tells nothing, as all have broken. Its process does; else its beat, after a while."""
    first = crew.one()
    second = crew.start().wait_until_ready()
    with Producer(durable.url) as producer:
        job = producer.submit(**LONG, model="tiny")
        follower = Follower(producer, job.job_id)
        with client_of(durable) as client:
            wait_for_tokens(client, job.job_id)
            is_first = first.name.encode() == client.hget(f"rq:job:{job.job_id}", "taken_by")
        holder, other = (first, second) if is_first else (second, first)
        os.kill(holder.engine_pid(), signal.SIGSTOP)  # or the job may end before the kill
        durable.kill()
        if sign == "overdue":
            holder.hide_process()
        holder.send(signal.SIGKILL)
        holder.wait()
        durable.start()
        assert joined(follower.all()) == undisturbed
        assert job.result(timeout_s=100).attempts == 2
    assert f"is dead ({sign}); job {job.job_id} is back" in other.text()


IMPATIENT = {"GENQUEUE_SHUTDOWN_GRACE_S": "0.05"}


@pytest.mark.parametrize("how", ["second SIGTERM", "grace over"])
def test_a_job_that_outlasts_the_grace_is_put_back_and_goes_on_elsewhere(durable, crew: Crew, undisturbed, how):
    first = crew.one(**IMPATIENT) if how == "grace over" else crew.one()
    with Producer(durable.url) as producer:
        job = producer.submit(**LONG, model="tiny")
        behind = producer.submit("hi", model="tiny", max_new_tokens=1)
        follower = Follower(producer, job.job_id)
        wait_for_tokens(client_of(durable), job.job_id)
        first.send(signal.SIGTERM)
        if how == "second SIGTERM":
            wait_for(lambda: "SIGTERM" in first.text(), "the first to be heard")
            first.send(signal.SIGTERM)
        assert first.wait() == 0
        assert job.status().position == 0, "it goes before the one that came later"
        crew.start(**IMPATIENT if how == "second SIGTERM" else {})  # as the next test wants it
        assert joined(follower.all()) == undisturbed
        result = job.result(timeout_s=100)
        assert result.attempts == 2
        assert behind.result(timeout_s=100).status == "finished"


def test_sigterm_finishes_the_running_job(durable, crew: Crew, undisturbed):
    worker = crew.one()
    key = f"rq:worker:{worker.name}".encode()
    with Producer(durable.url) as producer:
        job = producer.submit(**LONG, model="tiny")
        waiting = producer.submit(**LONG, model="tiny")
        wait_for_tokens(client_of(durable), job.job_id)
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
        assert joined(list(job.stream())) == undisturbed
        assert waiting.cancel() == "cancelled", "nobody has taken it"
    assert key not in client_of(durable).smembers("rq:workers")


def test_redis_that_comes_back_empty_gets_the_stream_again(forgetful, start_worker, undisturbed):
    worker = start_worker(forgetful.url).wait_until_ready()
    with Producer(forgetful.url) as producer:
        job = producer.submit(**LONG, model="tiny")
        wait_for_tokens(client_of(forgetful), job.job_id)
        forgetful.kill()
        forgetful.start()
        key = f"gen:{{{job.job_id}}}:result"
        with client_of(forgetful) as client:
            wait_for(lambda: _there(client, key), "the result")
        assert joined(list(job.stream())) == undisturbed
        # The worker is back in the registries, and serves.
        assert producer.submit("hi", model="tiny", max_new_tokens=2).result(timeout_s=100).status == "finished"
    assert worker.process.poll() is None


def _status(broker: EmbeddedBroker, job_id: str) -> JobStatus | None:
    with contextlib.suppress(redis.ConnectionError), client_of(broker) as client:
        return Job.fetch(job_id, connection=client, serializer="json").get_status()
    return None


def _there(client: redis.Redis, key: str) -> bool:
    with contextlib.suppress(redis.ConnectionError):
        return bool(client.exists(key))
    return False
