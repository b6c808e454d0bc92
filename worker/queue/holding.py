"""Whose a job is, asked within the transaction that writes what became of it.

Redis refuses the transaction if what was seen has changed meanwhile: a worker that was stopped for so long that
another has the job, between any two steps, leaves nothing in RQ's records.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis
from redis.client import Pipeline
from rq.job import JobStatus
from rq.worker.base import BaseWorker

from producer.broker.meaning import is_wrong_type
from producer.contract import Keys

ENDED = frozenset({JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED})
"""RQ's words for a job that is over."""


class NotHeld(Exception):
    """The job is not ours any more, or its end stands in RQ already: nothing of it is ours to write."""


class HoldingWorker(BaseWorker):
    """The part of an RQ worker that knows which jobs are its own."""

    keys: Keys

    def has_lost(self, job_id: str) -> bool:
        """Whether a sweep has taken us for dead and moved the job on: what RQ knows of it is not ours to write.

        A Redis that came back empty has no list of ours either. But it has no job: nobody else can run it.
        One that was deleted is lost, too, and so it stays.
        Where another kind of key stands in place of list or job, it is lost to RQ, which can read it no more and
        would refuse each write. To the stream it is ours (`append.lua`): the job must have its end.
        The scripts ask by `is_ours` in guards.lua. RQ's transactions ask here: they know two lists of ours.
        """
        return self._has_lost(job_id, self.connection.execute_command)

    def _has_lost(self, job_id: str, command: Callable[..., Any]) -> bool:
        try:
            if any(command("LPOS", key, job_id) is not None for key in self._own_lists):
                return False
            status, worker_name = command("HMGET", self.job_class.key_for(job_id), "status", "worker_name")
            if status is None:
                return bool(command("EXISTS", self.keys.deleted(job_id)))
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            return True
        return not (status == b"started" and worker_name == self.name.encode())

    @property
    def _own_lists(self) -> tuple[str, str]:
        """Lists of jobs that are ours: those to run, and those of the dead whose end we tell RQ of."""
        return self.keys.taken(self.name), self.keys.settling(self.name)

    def _only_while_held(self, job_id: str, pipeline: Pipeline, *, unrun: bool = False) -> None:
        """Let a transaction through only while the job is ours.  Raises NotHeld when it is not.

        unrun: nobody has run the job, and it may still wait in its queue; its end is to be registered once.
        The look is sent at once. All else that the pipeline has been given, and is given yet, waits for `execute`,
        which raises WatchError if what was seen has changed.
        """
        command = pipeline.immediate_execute_command
        key = self.job_class.key_for(job_id)
        command("WATCH", *self._own_lists, key)
        pipeline.explicit_transaction = True
        lost = self._is_registered(key, command) if unrun else self._has_lost(job_id, command)
        if lost:
            raise NotHeld

    @staticmethod
    def _is_registered(key: str, command: Callable[..., Any]) -> bool:
        status = (command("HGET", key, "status") or b"").decode(errors="replace")
        return status in ENDED

    def _write_while_held(self, job_id: str, write: Callable[[Pipeline], None]) -> None:
        """Have the commands of `write` carried out as one transaction, while the job is ours.  Raises NotHeld."""
        while True:
            with suppress(redis.WatchError), self.connection.pipeline() as pipeline:
                self._only_while_held(job_id, pipeline)
                write(pipeline)
                pipeline.execute()
                return
