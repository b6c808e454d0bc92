"""Random interleavings of everything that can happen to jobs and workers, against the contract.

The code is the real one, from `Producer.submit` to the worker's Service; Redis is fakeredis, workers are simulated
(`simulated_worker`). After each step the streams are held against the contract and against what they held before;
at the end the zombies wake up, one healthy worker starts, and every job must come to its one end.

`make test-long` looks at 20 times as many; GENQUEUE_STATE_MACHINE_EXAMPLES=2000 further, and elsewhere each time.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from fakeredis import FakeServer
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from rq import Queue, Retry
from rq.job import Job, JobStatus

from producer import Producer
from producer.contract import (
    FUNCTION,
    GenerationResult,
    Keys,
    Priority,
    Started,
    StreamedEvent,
    Tokens,
    parse_entry,
)
from producer.contract.keys import PRIORITIES
from worker.job import AbortReason

from .simulated_worker import FAULT, SimulatedWorker, undisturbed_ids, undisturbed_text
from .worker.server import Server

KEYS = Keys()
EXAMPLES = int(os.environ.get("GENQUEUE_STATE_MACHINE_EXAMPLES", "0"))
ENDED_IN_RQ = {JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED}


GROUPS = ("a", "b")
GROUP_MAX_RUNNING = 2

ONE = st.integers(0, 9)
"""Which of the workers that are in question."""


def pick(one: int, workers: list[SimulatedWorker]) -> SimulatedWorker:
    return workers[one % len(workers)]


@dataclass
class Known:
    """A job, and what a subscriber has seen of it."""

    job_id: str
    prompt: str
    tokens: int
    seen: list[StreamedEvent] = field(default_factory=list)

    @property
    def result(self) -> GenerationResult | None:
        """How it ended, as far as the subscriber knows."""
        data = self.seen[-1].event.data if self.seen else None
        return data if isinstance(data, GenerationResult) else None


class Jobs(RuleBasedStateMachine):
    """The world: one Redis, a producer, workers that come and go."""

    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.server = FakeServer(server_type="redis", version=(7, 4))
        self.client = Server(server=self.server)
        self.producer = Producer(connection=Server(server=self.server))
        self.known: list[Known] = []
        self.started: list[SimulatedWorker] = []
        self.stalled: list[SimulatedWorker] = []

    # -- the producer's side

    @rule(
        target=jobs,
        tokens=st.integers(1, 6),
        kind=st.sampled_from(["steady", "steady", FAULT]),
        priority=st.sampled_from(["low", "normal", "high"]),
        group=st.sampled_from([None, None, *GROUPS]),
    )
    def submit(self, tokens: int, kind: str, priority: Priority, group: str | None) -> Known:
        job = self._next(kind, tokens)
        options = {"priority": priority, "group": group}
        handle = self.producer.submit(
            job.prompt, model="tiny", max_new_tokens=tokens, job_id=job.job_id, **options
        )
        assert handle.created
        return job

    @rule(target=jobs, tokens=st.integers(1, 6), kind=st.sampled_from(["steady", FAULT]))
    def enqueue_through_rq_with_a_retry(self, tokens: int, kind: str) -> Known:
        job = self._next(kind, tokens)
        queue = Queue("generate.tiny", connection=self.client, serializer="json")
        request = {"prompt": job.prompt, "max_new_tokens": tokens}
        queue.enqueue(FUNCTION, request=request, job_id=job.job_id, retry=Retry(max=1))
        return job

    @rule(job=jobs)
    def submit_again(self, job: Known) -> None:
        handle = self.producer.submit(job.prompt, model="tiny", max_new_tokens=job.tokens, job_id=job.job_id)
        assert not handle.created

    @rule(job=jobs)
    def cancel(self, job: Known) -> None:
        outcome = self.producer.cancel(job.job_id)
        now = self._read(job.job_id)
        assert (outcome == "ended") == (job.result is not None)
        assert (outcome == "requested") == (not now or not now[-1].is_terminal)

    @rule(job=jobs)
    def outlive_its_queue_ttl(self, job: Known) -> None:
        self.client.hset(Job.key_for(job.job_id), mapping={"meta": '{"expires_at": 1}', "expires_at_ms": 1})
        self.client.zadd(KEYS.deadlines("tiny"), {job.job_id: 1}, xx=True)

    # -- workers

    @initialize()
    def start_the_first(self) -> None:
        self._start()

    @precondition(lambda self: len(self.started) < 5)
    @rule()
    def start(self) -> None:
        self._start()

    @precondition(lambda self: self._awake())
    @rule(one=ONE, turns=st.integers(1, 60))
    def run(self, one: int, turns: int) -> None:
        pick(one, self._awake()).turn(turns)

    @rule(turns=st.integers(1, 20))
    def run_all(self, turns: int) -> None:
        for _ in range(turns):
            for worker in self._awake():
                worker.turn()

    @precondition(lambda self: self._awake())
    @rule(one=ONE, after_commands=st.integers(0, 15))
    def kill(self, one: int, after_commands: int) -> None:
        """kill -9, so many commands from now; its record expires."""
        worker = pick(one, self._awake())
        worker.line.commands_left = after_commands
        worker.turn(60)
        worker.line.commands_left = 0
        self._outlive_record(worker)

    @precondition(lambda self: self._busy())
    @rule(one=ONE)
    def stall(self, one: int) -> None:
        """SIGSTOP, for longer than its record lives."""
        worker = pick(one, self._busy())
        self.stalled.append(worker)
        self._outlive_record(worker)

    @precondition(lambda self: self.stalled)
    @rule(one=ONE, turns=st.integers(0, 60))
    def wake(self, one: int, turns: int) -> None:
        """SIGCONT. What it does before its next heartbeat, it does as a zombie."""
        worker = pick(one, self.stalled)
        worker.turn(turns)
        self.stalled.remove(worker)
        worker.beat()

    @precondition(lambda self: self.stalled)
    @rule(one=ONE, after_commands=st.integers(0, 15))
    def kill_as_it_wakes(self, one: int, after_commands: int) -> None:
        worker = pick(one, self.stalled)
        worker.line.commands_left = after_commands
        worker.turn(60)
        worker.line.commands_left = 0
        self.stalled.remove(worker)
        self._outlive_record(worker)

    @precondition(lambda self: self._awake())
    @rule(one=ONE)
    def sweep(self, one: int) -> None:
        worker = pick(one, self._awake())
        worker.sweep()

    @precondition(lambda self: self._awake())
    @rule(one=ONE, turns=st.integers(0, 20))
    def look_for_expired(self, one: int, turns: int) -> None:
        worker = pick(one, self._awake())
        worker.expire()
        worker.turn(turns)

    @precondition(lambda self: self._busy() or self.stalled)
    @rule(one=ONE, reason=st.sampled_from(["shutdown", "timeout"]))
    def abort(self, one: int, reason: AbortReason) -> None:
        """SIGTERM whose grace is over, which puts the job back; or the job's time-out."""
        pick(one, [*self._busy(), *self.stalled]).service.runner.abort(reason)

    @precondition(lambda self: self._busy())
    @rule(one=ONE)
    def kill_the_engine(self, one: int) -> None:
        run = pick(one, self._busy()).engine.run
        assert run is not None
        run.dying = True

    @precondition(lambda self: self._awake())
    @rule(one=ONE, after_answers=st.integers(0, 5))
    def lose_an_answer(self, one: int, after_answers: int) -> None:
        pick(one, self._awake()).line.answers_until_loss = after_answers

    @precondition(lambda self: self._awake())
    @rule(turns=st.integers(1, 40))
    def take_redis_away(self, turns: int) -> None:
        self.server.connected = False
        for worker in self._awake():
            worker.turn(turns)
        self.server.connected = True

    # -- what holds at every moment

    @invariant()
    def the_contract_holds(self) -> None:
        for job in self.known:
            self._follow(job, self._read(job.job_id))
            self._check(job)
        places = self._places()
        lost = [job.job_id for job in self.known if job.result is None and job.job_id not in places]
        assert lost == [], "unfinished jobs that are in no list"
        assert [error for worker in self.started for error in worker.failures()] == []

    @invariant()
    def whoever_waits_has_a_turn(self) -> None:
        """Or as many of the group as may are said to run: whoever lets go of one lines it up."""
        for priority in PRIORITIES:
            turns = self.client.zrange(KEYS.turns("tiny", priority), 0, -1)
            for group in GROUPS:
                waits = self.client.llen(f"rq:queue:{KEYS.queue('tiny', priority, group)}")
                said_to_run = self.client.zlexcount(KEYS.running("tiny"), f"[{group} ", f"({group}!")
                assert not waits or group.encode() in turns or said_to_run >= GROUP_MAX_RUNNING

    def _follow(self, job: Known, stream: list[StreamedEvent]) -> None:
        """A subscriber has what it has: the stream can only grow, and not after its end."""
        assert stream[: len(job.seen)] == job.seen, f"the stream of {job.job_id} has changed"
        assert job.result is None or len(stream) == len(job.seen), f"{job.job_id} goes on after its end"
        job.seen = stream

    def _check(self, job: Known) -> None:
        assert [streamed.id.seq for streamed in job.seen] == list(range(len(job.seen)))
        attempts = [streamed.id.attempt for streamed in job.seen]
        assert attempts == sorted(attempts)
        assert not any(streamed.is_terminal for streamed in job.seen[:-1])
        assert len({each.event.data.seed for each in job.seen if isinstance(each.event, Started)}) <= 1
        tokens = [streamed.event.data for streamed in job.seen if isinstance(streamed.event, Tokens)]
        ids = [token_id for data in tokens for token_id in data.ids]
        text = "".join(data.text for data in tokens)
        assert undisturbed_ids(job.prompt, job.tokens)[: len(ids)] == ids
        assert undisturbed_text(job.prompt, job.tokens).startswith(text)
        raw = self.client.get(KEYS.result(job.job_id))
        assert (GenerationResult.model_validate_json(raw) if raw else None) == job.result
        if job.result is not None:
            assert (job.result.text, list(job.result.token_ids)) == (text, ids)
            assert job.result.status != "finished" or len(ids) == job.tokens
            assert job.result.status != "finished" or not job.prompt.startswith(FAULT) or job.tokens <= 2

    # -- the end

    def teardown(self) -> None:
        """The zombies wake up and one more worker starts; all that is left comes to its end."""
        try:
            healthy = self._start()
            for worker in self.started:
                if not worker.is_dead:
                    worker.beat()
            self.stalled.clear()
            for _ in range(100):
                for worker in self._awake():
                    worker.turn(20)
                healthy.sweep()
                healthy.service.worker.maintain()
                self.the_contract_holds()
                if self._is_settled():
                    break
            self._check_settled()
        finally:
            for worker in self.started:
                worker.close()
            self.producer.close()

    def _is_settled(self) -> bool:
        return all(job.result for job in self.known) and not self._places()

    def _check_settled(self) -> None:
        assert [job.job_id for job in self.known if job.result is None] == []
        assert self._places() == []
        for job in self.known:
            assert job.result is not None
            status = Job.fetch(job.job_id, connection=self.client, serializer="json").get_status()
            assert status in ENDED_IN_RQ, f"RQ believes {job.job_id} to be {status}"
            assert (status == JobStatus.FINISHED) == (job.result.status == "finished")

    # -- helpers

    def _next(self, kind: str, tokens: int) -> Known:
        number = len(self.known)
        job = Known(f"job-{number}", kind + "." * number, tokens)
        self.known.append(job)
        return job

    def _start(self) -> SimulatedWorker:
        name = f"w{len(self.started)}"
        worker = SimulatedWorker(self.server, name, group_max_running=GROUP_MAX_RUNNING, preempt="all")
        self.started.append(worker)
        return worker

    def _outlive_record(self, worker: SimulatedWorker) -> None:
        """Time passes, and a record that expires does; one that does not is the worker's mistake, and stays."""
        if self.client.ttl(worker.key) > 0:
            worker.outlive(self.client)

    def _awake(self) -> list[SimulatedWorker]:
        return [worker for worker in self.started if not worker.is_dead and worker not in self.stalled]

    def _busy(self) -> list[SimulatedWorker]:
        return [worker for worker in self._awake() if worker.service.runner.attempt is not None]

    def _read(self, job_id: str) -> list[StreamedEvent]:
        return [parse_entry(*entry) for entry in self.client.xrange(KEYS.events(job_id))]

    def _queues(self) -> list[str]:
        names = [KEYS.queues("tiny", group) for group in (None, *GROUPS)]
        return [f"rq:queue:{name}" for each in names for name in each]

    def _places(self) -> list[str]:
        """Ids in the queues and in the workers' lists."""
        takers = [name.decode() for name in self.client.smembers(KEYS.takers)]
        lists = [*self._queues(), *map(KEYS.taken, takers)]
        return [raw.decode() for key in lists for raw in self.client.lrange(key, 0, -1)]


@pytest.fixture
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("examples", [15, pytest.param(300, marks=pytest.mark.long)])
def test_no_interleaving_breaks_the_contract(examples: int) -> None:
    run_state_machine_as_test(
        Jobs,
        settings=settings(
            max_examples=EXAMPLES or examples,
            stateful_step_count=40,
            derandomize=not EXAMPLES,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
