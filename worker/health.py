"""The health probe: which workers serve a model, asked from outside, within a bound. Needs no torch."""

import re
import socket
from concurrent.futures import TimeoutError as NoAnswer
from typing import cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from producer.broker import urls
from producer.broker.advice import broker_unavailable
from producer.broker.connections import address
from producer.contract import Keys
from producer.ledger.roster import WorkerRecord, live_workers, read_records, worker_sets

from .threads import DaemonThreads

TIMEOUT_S = 5.0
"""For the whole answer: a probe has a time-out of its own, and an answer from us says more."""

_SUFFIX = "-[0-9a-f]{8}"
"""What makes a worker's name unique for each start: see `GenerationWorker`."""


def workers_of(
    redis_url: str, keys: Keys, model: str, *, name: str | None = None, local: bool = False
) -> list[WorkerRecord]:
    """The live workers of the model.

    name: only those of this name, or of this stem; local: only those of this host.
    Raises BrokerUnavailable when Redis has not answered within TIMEOUT_S, or refuses to.
    """
    timeouts = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}
    client = urls.client(redis_url, retry=Retry(NoBackoff(), 0), **timeouts)
    # In a thread: each command of a handshake has the whole time-out for itself.
    answer = DaemonThreads().submit(_live_workers, client, keys, model)
    try:
        found: tuple[WorkerRecord, ...] = answer.result(TIMEOUT_S)
    except NoAnswer:
        late = redis.TimeoutError(f"no answer within {TIMEOUT_S:g} s")
        raise broker_unavailable(late, address(client)) from None
    except redis.RedisError as error:
        raise broker_unavailable(error, address(client)) from error
    return [worker for worker in found if _is_meant(worker, name, local=local)]


def _live_workers(client: redis.Redis, keys: Keys, model: str) -> tuple[WorkerRecord, ...]:
    records = sorted(cast("set[bytes]", client.sunion(worker_sets(keys, model))))
    return live_workers(records, read_records(records)(client)) if records else ()


def _is_meant(worker: WorkerRecord, name: str | None, *, local: bool) -> bool:
    if local and worker.hostname != socket.gethostname():
        return False
    return name is None or re.fullmatch(f"{re.escape(name)}({_SUFFIX})?", worker.name) is not None
