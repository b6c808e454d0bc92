"""Finds what dead workers have left behind, and puts it back to the front of its queue; finds what waits too long.

Each worker keeps the jobs that it has taken in a list of its own until they are put down. A worker whose key has
expired is dead, and its list says exactly what it held: popped and not yet started, running, or ended and not yet
registered. Any live worker sweeps, and the sweep survives its own death: there is no lock, and each job moves in
one step that only one sweeper can make. That step also counts the death: a job that has too many is refused by the
next worker that takes it, see `intake`.
"""

import logging
import time
from typing import cast

import redis
from redis import Redis
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job, JobStatus
from rq.utils import as_text, now, utcformat

from producer.contract import GenerationResult, InvalidRequest
from producer.contract.keys import settler, worker_of_taker

from ..errors import BookkeepingFailed, is_wrong_type
from .bookkeeping import COUNT_DEATH
from .rq_worker import GenerationWorker, text_of

logger = logging.getLogger(__name__)

REQUEUE = f"""
{COUNT_DEATH}
-- KEYS   list of the dead worker, job hash, queue, result      ARGV   job id, now in RQ's form
-- Answers 1 when the job was still in the list, and is now at the front of its queue with one death more.
-- A job that has its result stays where it is: it is to be settled and not to be run again.
if redis.call('EXISTS', KEYS[4]) == 1 then return 0 end
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[2], 'status', 'queued', 'worker_name', '')
count_death(KEYS[2])
-- Where RQ had not heard of the start: the wait for a worker was over all the same, and a deadline for it was met.
if (redis.call('HGET', KEYS[2], 'started_at') or '') == '' then
  redis.call('HSET', KEYS[2], 'started_at', ARGV[2])
end
redis.call('LPUSH', KEYS[3], ARGV[1])
return 1
"""

HAND_ON = """
-- KEYS   list of the dead worker, queue      ARGV   job id
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 1 then redis.call('LPUSH', KEYS[2], ARGV[1]) end
"""

CLAIM = """
-- KEYS   list of the dead worker, our list of ends to settle, takers      ARGV   job id, our name there, ttl in s
-- One sweeper alone settles an end. Should it die over that, its own list tells the next one.
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('RPUSH', KEYS[2], ARGV[1])
redis.call('SADD', KEYS[3], ARGV[2])
for _, key in ipairs({KEYS[2], KEYS[3]}) do redis.call('EXPIRE', key, ARGV[3]) end
return 1
"""

FORGET = """
-- KEYS   takers, list of the dead worker      ARGV   its name
-- In one step: the dead may wake up and take a job between a look and a removal.
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('SREM', KEYS[1], ARGV[1]) end
"""

EXPIRED = """
-- KEYS   queue      ARGV   first and last position to look at, now in unix s, prefix of the job hashes
-- Answers the ids of the jobs there that have waited for longer than their meta allows. Those that a worker has
-- had before do not wait any more in that sense: the rule is that of `intake._check_deadline`.
local late = {}
for _, id in ipairs(redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])) do
  local meta, started_at = unpack(redis.call('HMGET', ARGV[4] .. id, 'meta', 'started_at'))
  local ok, fields = pcall(cjson.decode, meta or '')
  local at = ok and type(fields) == 'table' and fields['expires_at']
  local waits = not started_at or started_at == ''
  if waits and type(at) == 'number' and at < tonumber(ARGV[3]) then late[#late + 1] = id end
end
return late
"""

DISCARD = """
-- KEYS   result of a job      ARGV   what stood there, where it was a string
-- Only what was looked at: a result may have come meanwhile.
if redis.call('TYPE', KEYS[1]).ok ~= 'string' or redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
"""

WINDOW = 500
"""Jobs of a queue that one sweep looks at: Redis serves nobody else meanwhile. The next goes on from there."""

ENDED = (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED)


class Recovery:
    """Sweeps on behalf of one live worker."""

    def __init__(self, worker: GenerationWorker) -> None:
        self._worker = worker
        self._redis: Redis = worker.connection
        self._requeue = self._redis.register_script(REQUEUE)
        self._hand_on = self._redis.register_script(HAND_ON)
        self._forget = self._redis.register_script(FORGET)
        self._expired = self._redis.register_script(EXPIRED)
        self._claim = self._redis.register_script(CLAIM)
        self._discard = self._redis.register_script(DISCARD)
        self._settler = settler(worker.name)
        self._window = 0

    def sweep(self) -> None:
        """Put back what the dead have left. Takes one round trip or two when nobody has died."""
        takers = {as_text(name) for name in self._redis.smembers(self._worker.keys.takers)}
        for name in sorted(self._dead(takers - {self._worker.name, self._settler})):
            self._bury(name)
        self._settle_claimed()

    def expired(self) -> list[Job]:
        """Jobs that still wait in a queue and have waited for too long. They are left where they are.

        Whoever ends one takes it out of its queue last (`drop`): should he die before, it is taken as any other
        job is, and refused.
        """
        first, last = self._window, self._window + WINDOW - 1
        keys = self._worker.queue_keys()
        args: list[str | float] = [first, last, time.time(), Job.redis_job_namespace_prefix]
        found = [self._readable(raw) for key in keys for raw in self._expired(keys=[key], args=args)]
        late = [job for job in found if job is not None]
        longest = max(self._redis.llen(key) for key in keys)
        # Those that are dropped move the others up: look at the same window again.
        self._window = first if late else (last + 1 if last + 1 < longest else 0)
        return late

    def drop(self, job: Job) -> None:
        """Take a job that has ended out of the queue in which it waited."""
        self._redis.lrem(self._worker.queue_of(job).key, 1, job.id)

    # -- the dead

    def _dead(self, takers: set[str]) -> set[str]:
        if not takers:
            return set()
        ordered = sorted(takers)
        with self._redis.pipeline(transaction=False) as pipeline:
            for name in ordered:
                pipeline.pttl(f"{self._worker.redis_worker_namespace_prefix}{worker_of_taker(name)}")
            # A record that never expires is no heartbeat: RQ wrote into it after its time was over.
            return {name for name, left_ms in zip(ordered, pipeline.execute(), strict=True) if left_ms <= 0}

    def _bury(self, name: str) -> None:
        taken = self._worker.keys.taken(name)
        for raw in cast("list[bytes]", self._redis.lrange(taken, 0, -1)):
            try:
                self._recover(raw, worker_of_taker(name), taken)
            except redis.ResponseError:
                # Somebody has put other things under the job's names. It must not hold up the others.
                logger.exception("job %.80r of the dead worker %s cannot be recovered", raw, name)
        self._forget(keys=[self._worker.keys.takers, taken], args=[name])

    def _recover(self, raw_id: bytes, dead: str, taken: str) -> None:
        job = self._readable(raw_id)
        if job is None and (job_id := text_of(raw_id)) and not self._result_or_discard(job_id):
            # Popped and not yet refused. Nobody knows its queue; whoever takes it from this one refuses it.
            self._hand_on(keys=[taken, self._worker.queues[1].key], args=[job_id])
        elif job is None or job.get_status(refresh=False) in ENDED:
            self._redis.lrem(taken, 1, cast("str", raw_id))
        elif self._result_or_discard(job.id):
            keys = self._worker.keys
            self._claim(
                keys=[taken, keys.settling(self._worker.name), keys.takers],
                args=[job.id, self._settler, round(self._worker.settings.max_result_ttl_s)],
            )
        else:
            executions = self._executions(job)
            self._drop(job, [each for each in executions if each.worker_name in (dead, "")])
            keys_of_job = [taken, job.key, self._worker.queue_of(job).key, self._worker.keys.result(job.id)]
            if self._requeue(keys=keys_of_job, args=[job.id, utcformat(now())]):
                logger.warning("worker %s is dead; job %s is back at the front of its queue", dead, job.id)

    # -- ends of which RQ has not heard

    def _settle_claimed(self) -> None:
        claimed = self._worker.keys.settling(self._worker.name)
        for raw in cast("list[bytes]", self._redis.lrange(claimed, 0, -1)):
            try:
                self._settle(raw)
            except (redis.ResponseError, BookkeepingFailed) as error:
                if isinstance(error, redis.ResponseError) and not is_wrong_type(error):
                    raise  # Redis is full, say: it is settled when that is over
                logger.exception("job %.80r had ended, and RQ cannot note that", raw)
            self._redis.lrem(claimed, 1, cast("str", raw))
            self._forget(keys=[self._worker.keys.takers, claimed], args=[self._settler])

    def _settle(self, raw_id: bytes) -> None:
        job = self._readable(raw_id)
        ended = self._result_or_discard(job.id) if job else None
        if job is None or ended is None:
            return  # its time is over
        executions = self._executions(job)  # of now: whoever runs the job again later has others
        if job.get_status(refresh=False) not in ENDED:
            self._tell_rq(job, ended, executions)
            logger.warning("job %s had ended; RQ knows of it now", job.id)
        self._drop(job, executions)

    def _tell_rq(self, job: Job, result: GenerationResult, executions: list[Execution]) -> None:
        execution = executions[0] if executions else Execution("settled", job.id, self._redis)
        if result.status == "finished":
            job.started_at = job.started_at or execution.created_at
            self._worker.succeed(job, execution, result)
        elif result.status == "cancelled":
            self._worker.stopped(job, execution)
        else:
            self._worker.fail(job, execution, result.failure)

    def _readable(self, raw_id: bytes) -> Job | None:
        """The job; None where its hash is gone, or was never one that a worker could read."""
        job_id = text_of(raw_id)
        try:
            return self._worker.fetch(job_id) if job_id else None
        except InvalidRequest:
            return None

    def _result_or_discard(self, job_id: str) -> GenerationResult | None:
        """The job's result, or None.  What is none is deleted: by the contract, nothing else has that name."""
        key = self._worker.keys.result(job_id)
        result = b""
        try:
            result = cast("bytes", self._redis.get(key) or b"")
            return GenerationResult.model_validate_json(result) if result else None
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
        except ValueError:
            pass
        logger.warning("job %.80r: what stands in place of its result is deleted", job_id)
        self._discard(keys=[key], args=[result])
        return None

    def _executions(self, job: Job) -> list[Execution]:
        """RQ's records of runs of the job. One whose hash has expired comes without a worker's name."""
        try:
            ids = ExecutionRegistry(job.id, connection=self._redis).get_execution_ids()
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            return []  # somebody has put something else there
        executions = [Execution(each, job.id, self._redis) for each in ids]
        for execution in executions:
            if fields := self._redis.hgetall(execution.key):
                execution.restore(fields)
        return executions

    def _drop(self, job: Job, executions: list[Execution]) -> None:
        """Take executions out of RQ's registries.

        Found by the job's own record: RQ's index of the worker's executions dies with the worker.
        """
        with self._redis.pipeline() as pipeline:
            for execution in executions:
                execution.delete(job=job, pipeline=pipeline)
            pipeline.execute()
