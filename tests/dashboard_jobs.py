"""Jobs in every state, as a dashboard finds them: RQ's own worker does the bookkeeping, without an engine."""

import redis
from rq import Queue, SimpleWorker
from rq.job import Job, JobStatus

from producer.contract import FUNCTION, GenerationResult, OutOfMemory, Timings, Usage

MODEL_QUEUE = "generate.tiny"
PROMPT = "a prompt that no page shows"
ANSWER = "你好，我是一个小模型。\n\n1. 第一行\n2. the second line, which is longer than the others by some words"
HOSTILE_ANSWER = "<img src=x onerror=document.title='owned'>"  # no double quotes: JSON would defuse them
ANSWERS = {"done": ANSWER, "hostile": HOSTILE_ANSWER}


class ScriptedJob(Job):
    """A job that ends as its id says."""

    def perform(self) -> dict[str, object]:
        result = GenerationResult(
            job_id=self.id,
            status="finished",
            model="tiny",
            text=ANSWERS[self.id],
            token_ids=tuple(range(1000, 1200)),
            finish_reason="length",
            seed=2**53 + 1,
            usage=Usage(prompt_tokens=7, completion_tokens=200),
            timings=Timings(queued_ms=1.5, prefill_ms=4.2, decode_ms=97.3, tokens_per_second=2055.3),
            worker="gpu-0",
        )
        return result.model_dump(mode="json")


def enqueue(queue: Queue, job_id: str, **options: object) -> Job:
    """As a script does that has only rq."""
    return queue.enqueue(
        FUNCTION,
        request={"prompt": PROMPT},
        job_id=job_id,
        description=f"generate with tiny ({job_id})",
        **options,
    )


def take(worker: SimpleWorker) -> Job:
    """The next job, as a worker takes it before it runs it."""
    job, _ = Queue.dequeue_any(
        worker.queues, None, connection=worker.connection, job_class=worker.job_class, serializer="json"
    )
    return job


def make_jobs(client: redis.Redis) -> SimpleWorker:
    """Two finished, one failed, two cancelled, one running with another waiting for it, two queued."""
    queue = Queue(MODEL_QUEUE, connection=client, serializer="json")
    worker = SimpleWorker([MODEL_QUEUE], name="gpu-0", connection=client, serializer="json", job_class=ScriptedJob)
    worker.register_birth()
    for job_id in ("done", "hostile"):
        enqueue(queue, job_id)
        worker.execute_job(take(worker), worker.queues[0])
    enqueue(queue, "failed")
    worker.handle_job_failure(take(worker), queue, exc_string=f"{OutOfMemory.code}: {OutOfMemory()}")
    enqueue(queue, "cancelled").cancel()
    stopped = enqueue(queue, "stopped")
    worker.handle_job_failure(take(worker), queue, exc_string="cancelled")  # while it ran
    stopped.set_status(JobStatus.STOPPED)
    enqueue(queue, "waiting", depends_on=enqueue(queue, "running", meta={"phase": "decode", "tokens": 3}))
    running = take(worker)
    worker.prepare_execution(running)
    worker.prepare_job_execution(running)
    enqueue(queue, "queued-1")
    enqueue(queue, "queued-2")
    return worker
