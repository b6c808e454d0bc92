"""Jobs as a script enqueues them, and what stands of them in Redis."""

from rq import Queue
from rq.job import Job

from producer.contract import FUNCTION, GenerationResult, Keys
from worker.queue.rq_worker import GenerationWorker, Taken

from .server import Server

HIGH, NORMAL, LOW = "generate.tiny.high", "generate.tiny", "generate.tiny.low"
KEYS = Keys()


def enqueue(client: Server, queue: str = NORMAL, **options) -> Job:
    request = {"prompt": "hi"}
    return Queue(queue, connection=client, serializer="json").enqueue(FUNCTION, request=request, **options)


def taken_job(worker: GenerationWorker, *known: str) -> Job:
    taken = worker.take(known)
    assert isinstance(taken, Taken)
    return worker.read(taken)


def taken_job_of(client: Server, worker: GenerationWorker, **options) -> Job:
    enqueue(client, **options)
    return taken_job(worker)


def in_list(client: Server, worker: GenerationWorker) -> list[str]:
    return [job_id.decode() for job_id in client.lrange(KEYS.taken(worker.name), 0, -1)]


def in_queue(client: Server, queue: str = NORMAL) -> list[str]:
    return [job_id.decode() for job_id in client.lrange(f"rq:queue:{queue}", 0, -1)]


def registered(registry_class: type, client: Server, queue: str = NORMAL) -> list[str]:
    return registry_class(queue, connection=client, serializer="json").get_job_ids(cleanup=False)


def result(job: Job, **fields) -> GenerationResult:
    return GenerationResult(
        **{
            "job_id": job.id,
            "status": "finished",
            "model": "tiny",
            "finish_reason": "stop",
            "text": "ab",
            **fields,
        }
    )
