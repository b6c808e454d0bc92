"""The whole worker but for torch: started, at work, and leaving, on a real server. A test plays the engine."""

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
import redis
from fakeredis import FakeServer
from rq import Queue
from rq.registry import StartedJobRegistry

from producer import Producer
from producer.broker.embedded import EmbeddedBroker
from producer.contract import FUNCTION, BrokerUnavailable, GenerationResult, encode_entry, terminal_event
from tests.unit.simulated_worker import SimulatedWorker
from worker import service, starting
from worker.engine_process.protocol import EngineInfo
from worker.errors import ConfigError
from worker.job import Order
from worker.leaving import Leaving
from worker.links import Links
from worker.logs import rq_level
from worker.looks import Looks
from worker.queue.rq_types import Job
from worker.queue.rq_worker import GenerationWorker
from worker.service import Service
from worker.settings import WorkerSettings
from worker.starting import start

from .jobs import KEYS, enqueue, registered
from .scripted_engine import ScriptedEngine, ScriptedRun
from .server import Server

BOUND_S = 60
"""For what takes milliseconds on a machine that has nothing else to do."""


@pytest.fixture
def simulated(fake_server: FakeServer) -> Iterator[SimulatedWorker]:
    worker = SimulatedWorker(fake_server, "w")
    yield worker
    worker.close()


def test_a_job_that_is_refused_is_counted_and_makes_no_request_look_fast(simulated, fake_server):
    """Its duration was 0 s, so that each bad request made the worker look faster."""
    client = Server(server=fake_server)
    job = enqueue(client)
    client.hset(job.key, "meta", "no object")
    simulated.turn_until(lambda: client.hget(job.key, "status") == b"failed")
    assert client.exists(KEYS.result(job.id))
    value = simulated.service.metrics.registry.get_sample_value
    assert value("genqueue_jobs_total", {"status": "failed", "error": "invalid_request"}) == 1
    assert value("gen_ai_server_request_duration_seconds_count") == 0


def test_a_queue_that_is_none_is_told_of_once_while_it_is_the_same_fault(simulated, fake_server, caplog):
    """It stood in the log each second, with its traceback."""
    client = Server(server=fake_server)
    tries: list[object] = []
    take = simulated.service.worker.take
    simulated.service.worker.take = lambda: (tries.append(1), take())[1]

    def told_of_after_tries(more: int) -> int:
        until = len(tries) + more
        simulated.turn_until(lambda: len(tries) >= until)
        return sum("no job can be taken" in message for message in caplog.messages)

    client.set("rq:queue:generate.tiny", "foreign")
    assert told_of_after_tries(4) == 1
    client.delete("rq:queue:generate.tiny")
    job = enqueue(client)
    client.hset(job.key, "meta", "no object")
    simulated.turn_until(lambda: client.hget(job.key, "status") == b"failed")
    client.delete("rq:queue:generate.tiny")
    client.set("rq:queue:generate.tiny", "foreign")
    assert told_of_after_tries(4) == 2


def running_job(simulated: SimulatedWorker, client: Server) -> Job:
    request = {"prompt": "hi", "max_new_tokens": 1000}
    job = Queue("generate.tiny", connection=client, serializer="json").enqueue(FUNCTION, request=request)
    simulated.turn_until(lambda: client.hget(job.key, "status") == b"started" and client.xlen(KEYS.events(job.id)))
    return job


def test_a_job_that_redis_does_not_let_back_into_its_queue_has_its_end(simulated, fake_server):
    """It was in no list, and whoever followed it waited for ever."""
    client = Server(server=fake_server)
    job = running_job(simulated, client)
    client.set("rq:queue:generate.tiny", "foreign")
    simulated.engine.run.dying = True
    simulated.turn_until(lambda: client.hget(job.key, "status") == b"failed")
    end = GenerationResult.model_validate_json(client.get(KEYS.result(job.id)))
    assert (end.status, end.error.code) == ("failed", "engine_error")
    assert "rq:queue:generate.tiny is no list" in end.error.message
    assert not client.exists(KEYS.taken(simulated.service.worker.name))
    assert registered(StartedJobRegistry, client) == []


def test_a_job_that_is_back_in_its_queue_is_not_ended_where_rq_cannot_drop_its_run(simulated, fake_server):
    client = Server(server=fake_server)
    job = running_job(simulated, client)
    client.set(f"rq:executions:{job.id}", "foreign")
    first = simulated.engine.run
    first.dying = True
    simulated.turn_until(lambda: simulated.engine.run is not first)  # it was taken again
    assert not client.exists(KEYS.result(job.id))


def test_a_look_that_failed_is_no_outage_once_a_job_runs(simulated):
    """It looks again when the job is over, and no sooner: the outage would last as long, and the worker could not
    leave in good order meanwhile."""
    service = simulated.service
    look = service._looks.side_tasks()[0]
    simulated.do(lambda: service._outage.note(redis.ConnectionError("gone"), look.name, look.name))
    simulated.turn_until(next(iter(service._looks._wanted.values())).is_set)
    assert service._outage.is_on
    service._looks._stop()  # a job has come
    looking = simulated.loop.create_task(look.step())
    simulated.loop.turn()
    assert not looking.done()
    service._outage.over("presence")
    assert not service._outage.is_on


def test_a_worker_whose_only_job_may_not_run_waits_for_the_bell_alone(fake_server):
    """Its queue holds something all the time: a look at it would end at once, again and again."""
    client, bell = Server(server=fake_server), KEYS.bell("tiny")
    one, other = (SimulatedWorker(fake_server, name, group_max_running=1) for name in ("one", "other"))
    try:
        first, second = running_job(one, client), enqueue(client)
        wanted = other.service._looks._wanted
        other.turn_until(lambda: [key for key, each in wanted.items() if each.is_set()] == [bell])
        client.set(KEYS.cancel(first.id), "1")
        one.turn_until(lambda: client.exists(bell))
        other.turn_until(lambda: client.hget(second.key, "status") == b"started")
    finally:
        one.close()
        other.close()


def test_an_end_counts_for_the_worker_that_wrote_it_and_for_no_other(simulated, fake_server):
    """Refused again, and enqueued again by RQ once it has finished."""
    client = Server(server=fake_server)
    finished, refused = enqueue(client), enqueue(client)
    client.hset(refused.key, "meta", "no object")
    end = GenerationResult(job_id=finished.id, status="finished", model="tiny", finish_reason="stop")
    failure = {"code": "invalid_request", "message": "no"}
    fault = end.model_copy(update={"job_id": refused.id, "status": "failed", "finish_reason": "error"})
    fault = GenerationResult.model_validate({**fault.model_dump(), "error": failure})
    for result in (end, fault):
        client.xadd(KEYS.events(result.job_id), encode_entry(terminal_event(result)), id="1-0")
    client.hset(finished.key, mapping={"status": "queued", "started_at": "2026-01-01T00:00:00.000000Z"})
    for job, status in ((finished, b"finished"), (refused, b"failed")):
        simulated.turn_until(lambda job=job, status=status: client.hget(job.key, "status") == status)
    metrics = simulated.service.metrics.registry
    samples = [sample for metric in metrics.collect() for sample in metric.samples]
    assert [sample for sample in samples if sample.name == "genqueue_jobs_total"] == []


class Engine(ScriptedEngine):
    """One that can be started and killed."""

    def __init__(self) -> None:
        super().__init__()
        self.starts = 0
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.dead = asyncio.Event()
        self.closed = False
        self.fault: Exception | None = None

    async def start(self) -> EngineInfo:
        self.starts += 1
        await self.may_start.wait()
        if self.fault:
            raise self.fault
        self.dead.clear()
        return EngineInfo(
            context_length=1024,
            parameters=1,
            device="cpu",
            dtype="float32",
            kv_bytes=1,
            chat_template=True,
            tool_format="hermes",
            path="static",
            compiled=False,
            captured=False,
            why="",
            headroom_bytes=1,
            load_s=0,
            warm_up_s=0,
        )

    @property
    def died(self) -> bool:
        return self.dead.is_set()

    async def wait_until_dead(self) -> None:
        await self.dead.wait()

    def kill(self) -> None:
        self.dead.set()

    async def close(self) -> None:
        self.kill()
        self.closed = True


class World:
    """A service that runs in this process, its server, and its users."""

    def __init__(self, broker: EmbeddedBroker, **settings) -> None:
        self.settings = WorkerSettings(
            **{
                "model_name": "tiny",
                "name": "w",
                "redis_url": broker.url,
                "shutdown_grace_s": 1000,
                "engine_stop_s": 1000,
                "heartbeat_interval_s": 0.05,
                **settings,
            }
        )
        self.engine = Engine()
        self.client = redis.Redis(port=broker.port)
        self.producer = Producer(broker.url)
        self.leaving = Leaving(grace_s=self.settings.shutdown_grace_s, engine_stop_s=self.settings.engine_stop_s)

    async def start(self) -> Service:
        async with asyncio.timeout(BOUND_S):
            return await start(self.settings, self.engine, self.leaving)  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """A service at work, ended by the block's end if not before."""
        self.service = await self.start()
        with self.leaving.heeding_signals():
            task = asyncio.create_task(self.service.run())
            try:
                yield task
            finally:
                self.leaving.asked.set()
                self.leaving.overdue.set()
                await asyncio.wait((task,), timeout=BOUND_S)

    async def until(self, happened: Callable[[], object]) -> None:
        async with asyncio.timeout(BOUND_S):
            while not await asyncio.to_thread(happened):
                await asyncio.sleep(0.01)

    async def ended(self, task: asyncio.Task[None]) -> None:
        async with asyncio.timeout(BOUND_S):
            await task

    def submit(self, **options) -> str:
        return self.producer.submit("hi", model="tiny", **{"max_new_tokens": 2, **options}).job_id

    async def next_run(self) -> ScriptedRun:
        async with asyncio.timeout(BOUND_S):
            return await self.engine.runs.get()

    def state(self) -> bytes | None:
        return self.client.hget(self.service.worker.key, "model_state")

    def status(self, job_id: str) -> bytes | None:
        return self.client.hget(f"rq:job:{job_id}", "status")

    def held(self) -> list[bytes]:
        return self.client.lrange(KEYS.taken(self.service.worker.name), 0, -1)

    def close(self) -> None:
        self.producer.close()
        self.client.close()


@pytest.fixture
def world(broker: EmbeddedBroker) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(at: EmbeddedBroker = broker, **settings) -> World:
        made.append(World(at, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def own() -> Iterator[EmbeddedBroker]:
    """A server that a test may take away."""
    with EmbeddedBroker() as broker:
        yield broker
        with contextlib.suppress(AssertionError, ProcessLookupError):
            os.kill(broker.pid, signal.SIGCONT)


class Address:
    """One address that leads each new connection to `target`; those that exist stay where they are."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._pipes: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for pipe in self._pipes:
                pipe.cancel()
            await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, to_them = await asyncio.open_connection("127.0.0.1", self.target)
        for pipe in (self._pipe(reader, to_them), self._pipe(theirs, writer)):
            self._pipes.add(asyncio.create_task(pipe))

    @staticmethod
    async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


class TestAtWork:
    @pytest.mark.slow
    async def test_a_fail_over_behind_one_address_is_followed(self, world, own, caplog):
        """The demoted server kept the old connections, and answered READONLY on them for ever."""
        caplog.set_level("INFO")
        address = Address(own.port)
        with EmbeddedBroker() as other, redis.Redis(port=other.port) as new, redis.Redis(port=own.port) as old:
            new.replicaof("127.0.0.1", str(own.port))
            async with address.served() as port:
                here = world(own, redis_url=f"redis://127.0.0.1:{port}/0", broker_wait_s=BOUND_S)
                async with here.running() as task:
                    await here.until(lambda: here.state() == b"ready")
                    await here.until(lambda: new.info("replication")["master_link_status"] == "up")
                    new.replicaof("no", "one")
                    old.replicaof("127.0.0.1", str(other.port))
                    address.target = other.port
                    key = here.service.worker.key
                    await here.until(lambda: any("read-only" in line for line in caplog.messages))
                    await here.until(lambda: not here.service._outage.is_on and new.hget(key, "model_state"))
                    await here.until(lambda: new.scard("rq:workers"))
                    assert not task.done()

    async def test_a_job_from_its_queue_to_its_end(self, world):
        here = world()
        async with here.running():
            await here.until(lambda: here.state() == b"ready")
            job_id = await asyncio.to_thread(here.submit)
            run = await here.next_run()
            run.accept()
            run.steps("a", "b", finish="length")
            run.end()
            await here.until(lambda: here.status(job_id) == b"finished")
            await here.until(lambda: not here.held())

    async def test_its_record_says_how_long_a_job_has_run_and_how_long_they_take(self, world):
        here = world()

        def said(name):
            return float(here.client.hget(here.service.worker.key, name) or 0)

        async with here.running():
            await here.until(lambda: here.client.hget(here.service.worker.key, "context_length") == b"1024")
            job_id = await asyncio.to_thread(here.submit)
            run = await here.next_run()
            await here.until(lambda: said("busy_seconds") > 0)
            assert here.client.hget(here.service.worker.key, "job_seconds") is None
            run.accept()
            run.steps("a", finish="length")
            run.end()
            await here.until(lambda: here.status(job_id) == b"finished")
            await here.until(lambda: said("job_seconds") > 0 and said("busy_seconds") == 0)

    async def test_an_idle_engine_that_dies_is_replaced_before_anybody_counts_on_it(self, world):
        """Its worker said ready for ever, and the next job was blamed."""
        here = world()
        async with here.running():
            await here.until(lambda: here.state() == b"ready")
            here.engine.may_start.clear()
            here.engine.kill()
            await here.until(lambda: here.state() == b"loading")
            job_id = await asyncio.to_thread(here.submit)
            here.engine.may_start.set()
            run = await here.next_run()
            assert here.engine.starts == 2
            run.accept()
            run.steps("a", "b", finish="length")
            run.end()
            await here.until(lambda: here.status(job_id) == b"finished")
            assert here.client.hget(f"rq:job:{job_id}", "deaths") is None
            await here.until(lambda: here.state() == b"ready")

    async def test_an_engine_that_cannot_start_ends_the_worker(self, world):
        here = world()
        here.engine.fault = ConfigError("no weights")
        async with here.running() as task:
            with pytest.raises(ConfigError, match="no weights"):
                await here.ended(task)
        assert here.client.smembers("rq:workers") == set()

    async def test_a_job_whose_own_keys_are_at_fault_fails_and_the_next_one_runs(self, world, monkeypatch):
        """Any error of Redis was taken for an outage, and waited out for ever."""
        here = world()
        async with here.running() as task:
            run_order = here.service.runner.run

            async def refuse_once(*_: object) -> None:
                monkeypatch.setattr(here.service.runner, "run", run_order)
                raise redis.ResponseError("string exceeds maximum allowed size")

            monkeypatch.setattr(here.service.runner, "run", refuse_once)
            broken, job_id = [await asyncio.to_thread(here.submit) for _ in range(2)]
            run = await here.next_run()
            run.accept()
            run.steps("a", "b", finish="length")
            run.end()
            await here.until(lambda: here.status(job_id) == b"finished")
            assert here.status(broken) == b"failed"
            result = here.producer.result(broken, timeout_s=BOUND_S, check=False)
            assert (result.error.code, "maximum allowed size" in result.error.message) == ("engine_error", True)
            await here.until(lambda: not here.held())
            assert not task.done()

    async def test_something_else_in_place_of_a_queue_does_not_end_it(self, world):
        """It waited for Redis for ever, and said that it was away."""
        here = world()
        here.client.set("rq:queue:generate.tiny.high", "mine")
        async with here.running() as task:
            await here.until(lambda: here.state() == b"ready")
            here.client.delete("rq:queue:generate.tiny.high")
            await asyncio.to_thread(here.submit)
            await here.next_run()
            assert not task.done()

    async def test_a_server_that_will_not_serve_it_ends_it_after_the_wait(self, world, own):
        """NOPERM was taken for an outage: the worker stayed for ever, and served nobody."""
        here = world(own, broker_wait_s=1)
        async with here.running() as task:
            await here.until(lambda: here.state() == b"ready")
            here.client.acl_setuser("default", enabled=True, nopass=True, commands=["-hset", "-evalsha", "-eval"])
            with pytest.raises(BrokerUnavailable, match="ACL"):
                await here.ended(task)
            here.client.acl_setuser("default", enabled=True, nopass=True, categories=["+@all"])


async def test_whatever_a_jobs_data_raise_ends_the_job_and_not_the_worker(world, monkeypatch):
    """Anybody may write what stands under its names: one worker after the other would take it, and end."""
    here = world()
    read_order = service.read_order

    def stumble(job: Job, *others: object) -> Order:
        if job.kwargs["request"].get("seed") == 666:
            raise OverflowError("10^400")
        return read_order(job, *others)

    monkeypatch.setattr(service, "read_order", stumble)
    async with here.running() as task:
        poison = await asyncio.to_thread(here.submit, seed=666)
        await here.until(lambda: here.client.exists(KEYS.result(poison)))
        result = GenerationResult.model_validate_json(here.client.get(KEYS.result(poison)))
        assert (result.status, result.error.code) == ("failed", "engine_error")
        job_id = await asyncio.to_thread(here.submit)
        run = await here.next_run()
        run.accept()
        run.steps("a", finish="length")
        run.end()
        await here.until(lambda: here.status(job_id) == b"finished")
        here.leaving.asked.set()
        await here.ended(task)
    assert here.client.keys("gen:{taken:*") == []


class TestLeaving:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    async def test_an_idle_worker_leaves_at_once_and_leaves_nothing(self, world, number):
        here = world()
        async with here.running() as task:
            await here.until(lambda: here.state() == b"ready")
            os.kill(os.getpid(), number)
            await here.ended(task)
        assert here.engine.closed
        assert here.client.smembers("rq:workers") == set()

    async def test_the_running_job_is_finished_and_no_other_is_begun(self, world):
        here = world()
        async with here.running() as task:
            job_id, behind = [await asyncio.to_thread(here.submit) for _ in range(2)]
            run = await here.next_run()
            run.accept()
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(BOUND_S):
                await here.leaving.asked.wait()
            run.steps("a", "b", finish="length")
            run.end()
            await here.ended(task)
        assert (here.status(job_id), here.status(behind)) == (b"finished", b"queued")

    async def test_a_worker_that_is_told_while_it_becomes_idle_looks_for_no_job(self, world, monkeypatch):
        """A look that has just begun may swallow its cancellation, and be waited for."""
        here = world()
        begun = []

        def tell(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            while not here.leaving.asked.is_set():
                time.sleep(0.001)

        async def look(looks: Looks, *others: Coroutine[Any, Any, object]) -> None:
            begun.append(looks)
            for each in others:
                each.close()

        monkeypatch.setattr(GenerationWorker, "note_state", tell)
        monkeypatch.setattr(Looks, "wait", look)
        async with here.running() as task:
            await here.ended(task)
        assert begun == []

    async def test_a_second_signal_puts_the_running_job_back(self, world):
        here = world()
        async with here.running() as task:
            job_id = await asyncio.to_thread(here.submit)
            run = await here.next_run()
            run.accept()
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(BOUND_S):
                await here.leaving.asked.wait()
            os.kill(os.getpid(), signal.SIGTERM)
            await here.ended(task)
        assert here.status(job_id) == b"queued"
        assert here.client.lrange("rq:queue:generate.tiny", 0, -1) == [job_id.encode()]
        assert here.client.smembers("rq:workers") == set()

    async def test_an_engine_that_still_loads_is_not_waited_for(self, world):
        here = world()
        here.engine.may_start.clear()
        async with here.running() as task:
            await here.until(lambda: here.engine.starts == 1)
            os.kill(os.getpid(), signal.SIGTERM)
            await here.ended(task)
        assert here.client.smembers("rq:workers") == set()

    async def test_a_suspended_worker_says_so_and_leaves_at_once(self, world, caplog):
        here = world()
        here.client.set("rq:suspended", "1")
        async with here.running() as task:
            await here.until(lambda: here.client.hget(here.service.worker.key, "state") == b"suspended")
            os.kill(os.getpid(), signal.SIGTERM)
            await here.ended(task)
        assert "no job is taken until `rq resume`" in caplog.text
        assert here.client.smembers("rq:workers") == set()

    @pytest.mark.parametrize("how", ["killed", "frozen"])
    async def test_an_idle_worker_does_not_wait_for_redis(self, world, own, how):
        here = world(own)
        async with here.running() as task:
            await here.until(lambda: here.state() == b"ready")
            own.kill() if how == "killed" else os.kill(own.pid, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGTERM)
            await here.ended(task)

    @pytest.mark.parametrize("how", ["killed", "frozen"])
    async def test_a_job_that_redis_does_not_take_back_stays_in_the_list(self, world, own, how):
        """SIGTERM during an outage was heard and never obeyed, and neither was a second one."""
        here = world(own, shutdown_grace_s=0.05, engine_stop_s=0.5)
        async with here.running() as task:
            job_id = await asyncio.to_thread(here.submit)
            run = await here.next_run()
            run.accept()
            await here.until(lambda: here.client.xlen(KEYS.events(job_id)))
            own.kill() if how == "killed" else os.kill(own.pid, signal.SIGSTOP)
            run.steps("a")
            os.kill(os.getpid(), signal.SIGTERM)
            await here.ended(task)
        if how == "frozen":
            os.kill(own.pid, signal.SIGCONT)
            assert here.held() == [job_id.encode()]
            assert here.client.exists(here.service.worker.key) in (0, 1), "its record goes when its time is over"


class TestStarting:
    async def test_it_says_who_it_is_and_mutes_rqs_lines(self, world, caplog):
        caplog.set_level("INFO")
        logging.getLogger("rq").setLevel(rq_level("info"))
        here = world()
        async with here.running():
            await here.until(lambda: here.state() == b"ready")
        first = caplog.records[0]
        assert first.name == "worker.starting"
        assert first.message.startswith("genqueue ")
        assert "a worker of tiny on cuda:0, for Redis at 127.0.0.1:" in first.message
        assert not [record for record in caplog.records if record.name.startswith("rq")]

    @pytest.mark.parametrize(
        ("ours", "rqs"), [("debug", "WARNING"), ("info", "WARNING"), ("warning", "WARNING"), ("error", "ERROR")]
    )
    def test_rqs_own_level(self, ours, rqs):
        assert logging.getLevelName(rq_level(ours)) == rqs

    async def test_a_metrics_port_that_is_taken_is_told_before_anybody_hears_of_the_worker(self, world):
        """A traceback, and a record of a worker that never was."""
        one, two = world(metrics_port=0), None
        async with one.running():
            port = one.service.metrics._server.server_port
            two = world(metrics_port=port, name="two")
            with pytest.raises(ConfigError, match=rf":{port} .*metrics_port of its own"):
                await two.start()
            assert len(one.client.smembers("rq:workers")) == 1

    async def test_a_port_is_free_again_afterwards(self, world):
        one = world(metrics_port=0)
        async with one.running():
            port = one.service.metrics._server.server_port
        async with world(metrics_port=port).running():
            pass

    async def test_a_server_that_says_nothing_is_given_up_within_the_wait(self, world, own):
        """Each of a dozen commands had five seconds for itself."""
        here = world(own, broker_wait_s=0.5)
        os.kill(own.pid, signal.SIGSTOP)
        with pytest.raises(BrokerUnavailable, match=r"does not answer \(no answer within 0.5 s\)"):
            await here.start()

    async def test_no_server_is_waited_for_and_then_named_with_what_it_met(self, world, own):
        here = world(own, broker_wait_s=2)
        own.kill()
        with pytest.raises(
            BrokerUnavailable, match=r"Redis at 127.0.0.1:\d+ cannot be used: .*refused.*check the URL"
        ):
            await here.start()

    async def test_what_was_met_is_named_and_not_a_try_that_ran_out_of_time(self, world, monkeypatch):
        over, tries = threading.Event(), itertools.count()

        def register(_: object) -> None:
            if next(tries):
                over.wait(BOUND_S)
            raise redis.ConnectionError("Connection refused.")

        monkeypatch.setattr(starting._Registration, "_register", register)
        here = world(broker_wait_s=1)
        try:
            with pytest.raises(BrokerUnavailable, match="refused"):
                await here.start()
        finally:
            over.set()
        assert next(tries) == 2

    async def test_a_server_that_is_too_old_is_named(self, world):
        options = tuple(part for name in ("LMOVE", "BLMOVE") for part in ("--rename-command", name, ""))
        with EmbeddedBroker(options=options) as old:
            here = world(old)
            with pytest.raises(
                BrokerUnavailable,
                match=r"Redis at 127.0.0.1:\d+ .*Valkey \d.* has no LMOVE, BLMOVE; it takes Redis 6.2",
            ):
                await here.start()
            assert here.client.smembers("rq:workers") == set()

    async def test_a_signal_ends_the_wait_for_redis(self, world, own):
        here = world(own, broker_wait_s=1000)
        own.kill()
        with here.leaving.heeding_signals():
            asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(BOUND_S):
                starting = start(here.settings, here.engine, here.leaving)  # type: ignore[arg-type]
                assert await here.leaving.unless_asked(starting) is None


async def test_links_are_dropped_and_made_anew(broker: EmbeddedBroker):
    """On a server that was demoted, the old connections stayed open for ever."""
    links = Links.to(broker.url)
    before = links.rq.client_id(), await links.events.client_id()
    await links.drop()
    after = links.rq.client_id(), await links.events.client_id()
    assert not set(before) & set(after)
    await links.close()
