"""Queues of groups, as one worker of a model looks after them for all: a slow pass over RQ's set of queues.

Whoever submits with a group lines it up in the same step, and whoever lets go of a job of it looks after it. What
is left is what others do in RQ's own words: a job that plain RQ or `rq requeue` puts there, one that RQ enqueues
for its dependency, and what an idle group leaves behind.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from redis import Redis
from rq.queue import Queue
from rq.registry import ReadyJobRegistry
from rq.serializers import JSONSerializer

from producer.contract import Keys
from producer.ledger import rq_names
from producer.ledger.groups import TENDED_AT_ONCE, recount, tend

from .bookkeeping import GenerationJob

_SCAN_COUNT = 1_000


def tend_groups(client: "Redis", keys: Keys, model: str) -> None:
    """Look after all groups of the model.  Raises errors of Redis."""
    recount(keys, model).run(client)
    queues = _queues_of_groups(client, keys, model)
    while names := list(islice(queues, TENDED_AT_ONCE)):
        for name in tend(keys, names).run(client):
            queue = Queue(name, connection=client, job_class=GenerationJob, serializer=JSONSerializer)
            ReadyJobRegistry(queue=queue, job_class=GenerationJob).cleanup()
            tend(keys, [name]).run(client)


def _queues_of_groups(client: "Redis", keys: Keys, model: str) -> Iterator[str]:
    prefix = rq_names.queue("")
    entries: Any = client.sscan_iter(rq_names.QUEUES, count=_SCAN_COUNT)
    for raw in entries:
        name = raw.decode(errors="replace").removeprefix(prefix)
        if keys.model_of_queue(name) == model and keys.group_of_queue(name) is not None:
            yield name
