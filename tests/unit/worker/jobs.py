"""Jobs as a script enqueues them, and what stands of them in Redis."""

from rq import Queue
from rq.job import Job

from producer.contract import FUNCTION, GenerationResult, Keys
from producer.ledger import sweep as ledger
from producer.ledger.sweep import Beat, Member, RingEntry
from producer.ledger.take import Taken
from worker.neighbours import Dead
from worker.queue.rq_worker import GenerationWorker
from worker.queue.sweeping import Sweeper

from .server import Server

HIGH, NORMAL, LOW = "generate.tiny.high", "generate.tiny", "generate.tiny.low"
KEYS = Keys()
DIGEST = "digest of the request"


def enqueue(client: Server, queue: str = NORMAL, **options) -> Job:
    request = {"prompt": "hi"}
    return Queue(queue, connection=client, serializer="json").enqueue(FUNCTION, request=request, **options)


def taken_job(worker: GenerationWorker) -> Job:
    taken = worker.take()
    assert isinstance(taken, Taken)
    return worker.read(taken)


def taken_job_of(client: Server, worker: GenerationWorker, **options) -> Job:
    enqueue(client, **options)
    return taken_job(worker)


def beat(worker: GenerationWorker, *, ttl_s: float = 1000) -> Beat:
    """As its presence does. The long TTL is so that a machine that stands still buries nobody."""
    entry = RingEntry(worker.name)
    step = ledger.beat(KEYS, worker.settings.model_name, entry, worker.record(), ttl_s=ttl_s, keep_s=1000)
    return step.run(worker.connection)


def die(client: Server, worker: GenerationWorker) -> None:
    """Its last beat is over, and its record with it."""
    client.delete(worker.key)
    client.zadd(KEYS.beats, {str(member_of(worker)): 0})


def member_of(worker: GenerationWorker) -> Member:
    return Member(worker.name, worker.settings.model_name)


def bury(by: GenerationWorker, dead: GenerationWorker) -> None:
    """What the worker does that has found the other overdue."""
    Sweeper(by).sweep(Dead(member_of(dead), "overdue"))


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
