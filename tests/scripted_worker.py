"""A worker without an engine: plays a job's events as a script says. It speaks the contract, and nothing else."""

import time
from collections.abc import Sequence

import redis

from producer.contract import (
    ErrorInfo,
    Event,
    EventId,
    FinishReason,
    GenerationResult,
    Keys,
    Markup,
    Started,
    StartedData,
    Status,
    StreamedEvent,
    Tokens,
    TokensData,
    data_json,
    encode_entry,
    mirror_json,
    parse_entry,
    terminal_event,
)
from producer.contract.assemble import assemble


class ScriptedWorker:
    """Serves one model by hand: `take` a job, `publish` tokens, `finish` it."""

    def __init__(self, client: redis.Redis, *, model: str = "tiny", name: str = "w1") -> None:
        self.client = client
        self.model = model
        self.name = name
        self.keys = Keys()
        self.job_id = ""
        self.attempt = 0

    def register(self, model_state: str = "ready") -> None:
        """Appear among the live workers of the model, as RQ's own registration does it."""
        key = f"rq:worker:{self.name}"
        self.client.hset(key, mapping={"birth": "2026-01-01T00:00:00Z", "model_state": model_state})
        for queue in self.keys.queues(self.model):
            self.client.sadd(f"rq:workers:{queue}", key)

    def take(self, job_id: str | None = None, *, markup: Markup | None = None) -> str:
        """Take the next job, or that one, and publish `started`. Returns its id."""
        self.pop(job_id)
        self.client.hset(f"rq:job:{self.job_id}", mapping={"status": "started", "worker_name": self.name})
        history = self.history()
        self.attempt = history[-1].id.attempt + 1 if history else 1
        started = StartedData(
            attempt=self.attempt,
            worker=self.name,
            model=self.model,
            prompt_tokens=3,
            resumed_tokens=len(self._result(history, "finished", "stop").token_ids),
            seed=7,
            markup=markup,
        )
        self._append(Started(data=started))
        return self.job_id

    def pop(self, job_id: str | None = None) -> str:
        """Have the next job, or that one, in our list of taken jobs, and say nothing of it yet. Returns its id."""
        if job_id is None:
            popped = self.client.blpop([f"rq:queue:{queue}" for queue in self.keys.queues(self.model)], timeout=60)
            assert popped is not None, "no job came"
            job_id = popped[1].decode()
        else:
            for queue in self.keys.queues(self.model):
                self.client.lrem(f"rq:queue:{queue}", 1, job_id)
        self.job_id = job_id
        self.client.rpush(self.keys.taken(self.name), job_id)
        self.client.hset(f"rq:job:{job_id}", "taken_by", self.name)
        return job_id

    def publish(self, *texts: str, ids: Sequence[int] | None = None) -> None:
        """One `tokens` event for each text, of one token."""
        for text in texts:
            index = len(self._result(self.history(), "finished", "stop").token_ids)
            self._append(Tokens(data=TokensData(index=index, ids=tuple(ids or (1000 + index,)), text=text)))

    def finish(
        self, status: Status = "finished", finish_reason: FinishReason = "stop", error: ErrorInfo | None = None
    ) -> GenerationResult:
        """End the job with what its events add up to."""
        result = self._result(self.history(), status, finish_reason, error)
        self.client.set(self.keys.result(self.job_id), result.model_dump_json(), ex=600)
        self._append(terminal_event(result))
        self.client.hset(f"rq:job:{self.job_id}", "status", status)
        self._let_go()
        return result

    def put_back(self) -> None:
        """Give the job up, as a worker does that has to go."""
        queue = self.client.hget(f"rq:job:{self.job_id}", "origin").decode()  # type: ignore[union-attr]
        self.client.hset(f"rq:job:{self.job_id}", mapping={"status": "queued", "worker_name": ""})
        self.client.lpush(f"rq:queue:{queue}", self.job_id)
        self._let_go()

    def play(self, *texts: str, job_id: str | None = None, markup: Markup | None = None) -> GenerationResult:
        """A whole job."""
        self.take(job_id, markup=markup)
        self.publish(*texts)
        return self.finish()

    def wait_for_reader(self) -> None:
        """Return once somebody's XREAD is blocked. For a real server: fakeredis lists no clients."""
        deadline = time.monotonic() + 100
        while not blocked_readers(self.client):
            assert time.monotonic() < deadline, "nobody reads"
            time.sleep(0.005)

    def history(self) -> list[StreamedEvent]:
        """The job's events so far."""
        return [parse_entry(*entry) for entry in self.client.xrange(self.keys.events(self.job_id))]

    def _let_go(self) -> None:
        self.client.lrem(self.keys.taken(self.name), 1, self.job_id)
        self.client.hdel(f"rq:job:{self.job_id}", "taken_by")

    def _append(self, event: Event) -> None:
        history = self.history()
        event_id = EventId(self.attempt, history[-1].id.seq + 1 if history else 0)
        self.client.xadd(self.keys.events(self.job_id), encode_entry(event), id=str(event_id))
        mirror = mirror_json(str(event_id), event.type, data_json(event))
        self.client.publish(self.keys.tokens(self.job_id), mirror)

    def _result(
        self,
        history: Sequence[StreamedEvent],
        status: Status,
        finish_reason: FinishReason,
        error: ErrorInfo | None = None,
    ) -> GenerationResult:
        return assemble(self.job_id, self.model, history, status=status, finish_reason=finish_reason, error=error)


def blocked_readers(client: redis.Redis) -> list[dict[str, str]]:
    """The clients of a real server that are blocked in XREAD."""
    return [other for other in client.client_list() if other["cmd"] == "xread" and "b" in other["flags"]]
