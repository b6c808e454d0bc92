"""Whether a user of Redis may do what its role needs: asked of the server, command by command, changing nothing.

A server checks rights before a command is queued in a transaction, so that a transaction that is discarded tells
all. (ACL DRYRUN would, too, and is for administrators alone.) `configs/redis.acl` grants these rights, and more.
"""

from collections.abc import Iterable
from typing import Any

import redis

from ..contract import Keys
from . import rq_names

Command = tuple[str, ...]

_ID = "doctor"
"""A job that is none."""
_NO_SCRIPT = "0" * 40


def producer_needs(keys: Keys, model: str) -> list[Command]:
    """What a producer sends that submits, follows, cancels and deletes jobs of the model."""
    job, queue, events = rq_names.job(_ID), rq_names.queue(keys.queue(model)), keys.events(_ID)
    return [
        ("TIME",),
        ("EVALSHA", _NO_SCRIPT, "1", job),
        ("HSET", job, "status", "queued"),
        ("HMGET", job, "status"),
        ("EXPIRE", job, "1"),
        ("TTL", job),
        ("EXISTS", job),
        ("DEL", job, events, keys.result(_ID), rq_names.results(_ID), keys.cancel(_ID), keys.waiters(_ID)),
        ("DEL", rq_names.runs(_ID), rq_names.run(_ID, _ID)),
        ("HMGET", rq_names.run(_ID, _ID), "worker_name"),
        ("SREM", rq_names.worker_runs(_ID), _ID),
        ("SREM", rq_names.dependents(_ID), _ID),
        ("SMEMBERS", rq_names.dependencies(_ID)),
        ("SMEMBERS", keys.takers),
        ("ZRANGE", rq_names.runs(_ID), "0", "0"),
        ("ZRANGE", rq_names.registry("wip", keys.queue(model)), "0", "0"),
        ("SADD", rq_names.QUEUES, queue),
        ("RPUSH", queue, _ID),
        ("LPOS", queue, _ID),
        ("LLEN", queue),
        ("LREM", queue, "1", _ID),
        ("ZADD", keys.deadlines(model), "1", _ID),
        ("ZREM", keys.deadlines(model), _ID),
        ("PTTL", keys.deadlines(model)),
        ("PEXPIRE", keys.deadlines(model), "1"),
        ("ZADD", keys.turns(model), "1", _ID),
        ("ZREM", keys.turns(model), _ID),
        ("ZRANGE", keys.turns(model), "0", "0"),
        ("ZCARD", keys.turns(model)),
        ("EXISTS", keys.bell(model)),
        ("RPUSH", keys.bell(model), "1"),
        ("ZADD", rq_names.registry("canceled", keys.queue(model)), "1", _ID),
        ("ZREMRANGEBYRANK", rq_names.registry("canceled", keys.queue(model)), "0", "0"),
        *(("ZREM", rq_names.registry(state, keys.queue(model)), _ID) for state in _NO_LONGER),
        ("LPOS", keys.taken(_ID), _ID),
        ("XADD", events, "*", "type", "cancelled"),
        ("XREAD", "STREAMS", events, "0"),
        ("XRANGE", events, "-", "+"),
        ("XREVRANGE", events, "+", "-"),
        ("XADD", keys.wake(_ID), "*", "ended", _ID),
        ("XREAD", "STREAMS", keys.wake(_ID), "0"),
        ("GET", keys.result(_ID)),
        ("SET", keys.result(_ID), "{}"),
        ("SET", keys.cancel(_ID), "1"),
        ("SET", keys.deleted(_ID), ""),
        ("SADD", keys.waiters(_ID), keys.wake(_ID)),
        ("SMEMBERS", keys.waiters(_ID)),
        ("PUBLISH", keys.tokens(_ID), "{}"),
        ("SUNION", *(rq_names.workers(name) for name in keys.queues(model))),
        ("HMGET", rq_names.worker(_ID), "model_state"),
    ]


def gateway_needs(keys: Keys, model: str) -> list[Command]:
    """What a gateway sends: a producer's, what tells which models there are, and what it keeps of its clients."""
    queue, left, opened = keys.queue(model), keys.limits(_ID), keys.open_requests(_ID)
    files, file, batch = keys.files(_ID), keys.file(_ID, _ID), keys.batch(_ID, _ID)
    return [
        *producer_needs(keys, model),
        ("HGET", rq_names.job(_ID), "origin"),
        ("SMEMBERS", rq_names.WORKERS),
        ("SMEMBERS", rq_names.QUEUES),
        ("EXISTS", rq_names.SUSPENDED),
        ("LRANGE", rq_names.queue(queue), "0", "0"),
        *(("ZCARD", rq_names.registry(state, queue)) for state in _ENDED),
        *(("ZREVRANGE", rq_names.registry(state, queue), "0", "1") for state in _ENDED),
        ("HMGET", left, "requests"),
        ("HSET", left, "requests", "1"),
        ("PTTL", left),
        ("PEXPIRE", left, "1"),
        ("ZADD", opened, "1", _ID),
        ("ZCARD", opened),
        ("ZREM", opened, _ID),
        ("ZREMRANGEBYSCORE", opened, "-inf", "0"),
        ("PEXPIRE", opened, "1"),
        *(command for name in (files, keys.batches(_ID), keys.stored(_ID)) for command in _of_a_set(name)),
        ("ZRANGEBYSCORE", files, "-inf", "0"),
        *(("HSET", name, "1", "") for name in (file, keys.file_parts(_ID, _ID), keys.file_sizes(_ID), batch)),
        *(("PEXPIRE", name, "1") for name in (file, keys.file_parts(_ID, _ID), keys.file_sizes(_ID), batch)),
        ("HGET", file, "record"),
        ("HEXISTS", file, "record"),
        ("HMGET", keys.file_parts(_ID, _ID), "0"),
        ("HSTRLEN", keys.file_parts(_ID, _ID), "0"),
        ("HINCRBY", keys.file_sizes(_ID), "", "1"),
        ("HDEL", keys.file_sizes(_ID), "1"),
        ("UNLINK", file, keys.file_parts(_ID, _ID)),
        ("HGETALL", batch),
        *_of_all_batches(keys, batch),
    ]


def _of_a_set(name: str) -> list[Command]:
    """What stands in the order of its time."""
    return [
        ("ZADD", name, "1", _ID),
        ("ZRANGE", name, "0", "-1"),
        ("ZREM", name, _ID),
        ("ZREMRANGEBYSCORE", name, "-inf", "0"),
        ("ZCARD", name),
        ("PEXPIRE", name, "1"),
        ("PTTL", name),
    ]


def _of_all_batches(keys: Keys, batch: str) -> list[Command]:
    """With the batch of a client, so that a key says whose command it is."""
    name, runners = keys.open_batches, keys.batch_runners
    return [
        ("EVALSHA", _NO_SCRIPT, "3", name, runners, batch),
        ("ZADD", name, "1", _ID),
        ("ZREM", name, _ID),
        ("ZRANGEBYSCORE", name, "-inf", "0"),
        ("HSET", runners, _ID, ""),
        ("HGET", runners, _ID),
        ("HDEL", runners, _ID),
    ]


def worker_needs(keys: Keys, model: str) -> list[Command]:
    """What a worker of the model sends."""
    job, queue, events = rq_names.job(_ID), rq_names.queue(keys.queue(model)), keys.events(_ID)
    return [
        ("TIME",),
        ("EVALSHA", _NO_SCRIPT, "1", job),
        ("HEXISTS", rq_names.worker(_ID), "birth"),
        ("HSET", rq_names.worker(_ID), "state", "idle"),
        ("SADD", rq_names.workers(keys.queue(model)), rq_names.worker(_ID)),
        ("PTTL", rq_names.worker(_ID)),
        ("PEXPIRE", rq_names.worker(_ID), "1"),
        ("ZADD", keys.beats, "1", _ID),
        ("ZSCORE", keys.beats, _ID),
        ("ZREM", keys.beats, _ID),
        ("ZADD", keys.ring(model), "1", _ID),
        ("ZCARD", keys.ring(model)),
        ("ZRANGE", keys.ring(model), "0", "1"),
        ("ZRANGEBYLEX", keys.ring(model), "-", "+"),
        ("ZREMRANGEBYLEX", keys.ring(model), "-", "+"),
        ("ZRANGE", keys.turns(model), "0", "0"),
        ("ZSCORE", keys.turns(model), _ID),
        ("RPUSH", keys.bell(model), "1"),
        ("BLMOVE", keys.bell(model), keys.bell(model), "LEFT", "LEFT", "1"),
        ("ZLEXCOUNT", keys.running(model), "-", "+"),
        ("ZADD", keys.later(model), "1", _ID),
        ("SADD", keys.takers, _ID),
        ("SREM", keys.takers, _ID),
        ("LPUSH", queue, _ID),
        ("LMOVE", queue, keys.taken(_ID), "LEFT", "RIGHT"),
        ("BLMOVE", queue, queue, "LEFT", "LEFT", "1"),
        ("RPUSH", keys.taken(_ID), _ID),
        ("LPOS", keys.taken(_ID), _ID),
        ("LRANGE", keys.taken(_ID), "0", "1"),
        ("LREM", keys.taken(_ID), "1", _ID),
        ("TYPE", job),
        ("HGETALL", job),
        ("HMGET", job, "status"),
        ("HSTRLEN", job, "data"),
        ("HSET", job, "status", "started"),
        ("HINCRBY", job, "deaths", "1"),
        ("HDEL", job, "taken_by"),
        ("PERSIST", job),
        ("DEL", job),
        ("XADD", events, "*", "type", "started"),
        ("XREVRANGE", events, "+", "-"),
        ("XTRIM", events, "MAXLEN", "0"),
        ("EXPIRE", events, "1"),
        ("SET", keys.result(_ID), "{}"),
        ("GET", keys.result(_ID)),
        ("STRLEN", keys.result(_ID)),
        ("EXISTS", keys.cancel(_ID)),
        ("EXISTS", keys.deleted(_ID)),
        ("SMEMBERS", keys.waiters(_ID)),
        ("XADD", keys.wake(_ID), "*", "ended", _ID),
        ("ZRANGEBYSCORE", keys.deadlines(model), "-inf", "+inf"),
        ("PUBLISH", keys.tokens(_ID), "{}"),
        ("XADD", rq_names.results(_ID), "*", "type", "1"),
        *(("ZADD", rq_names.registry(state, keys.queue(model)), "1", _ID) for state in _REGISTRIES),
        ("ZREMRANGEBYSCORE", rq_names.registry("finished", keys.queue(model)), "0", "1"),
        ("CLIENT", "LIST"),
        ("PUBSUB", "NUMSUB", rq_names.commands(_ID)),
    ]


_NO_LONGER = ("deferred", "scheduled", "failed", "finished", "canceled", "ready", "wip")
"""RQ's registries that a job leaves when it is cancelled, comes again, or is deleted."""
_ENDED = ("finished", "failed", "canceled")
_REGISTRIES = ("wip", "finished", "failed", "canceled", "deferred", "scheduled")


def refused(client: redis.Redis, commands: Iterable[Command]) -> list[str]:
    """Those that this client's user may not run, as text.  Raises errors of Redis."""
    pool = client.connection_pool
    connection: Any = pool.get_connection()  # its methods have no types
    try:
        _ask(connection, "MULTI")
        faults = [" ".join(command[:2]) for command in commands if not _may(connection, command)]
        _ask(connection, "DISCARD")
    finally:
        connection.disconnect()  # whatever has come of it, no half of a transaction is left
        pool.release(connection)
    return faults


def _may(connection: Any, command: Command) -> bool:
    try:
        _ask(connection, *command)
    except redis.exceptions.NoPermissionError:
        return False
    except redis.ResponseError:
        return True  # an unknown command, say: that is the version's fault
    return True


def _ask(connection: Any, *command: str) -> None:
    connection.send_command(*command)
    connection.read_response()
