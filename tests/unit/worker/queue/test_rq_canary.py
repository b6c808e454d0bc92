"""All that we lean on in RQ beside its public API: private names, names of keys, signatures of what is overridden.

When a new RQ breaks one of these, the worker breaks: see what has become of it before the pin is moved.
"""

import ast
import inspect
import re
from datetime import timedelta
from pathlib import Path

import pytest
from redis import Redis
from rq import suspension
from rq.command import PUBSUB_CHANNEL_TEMPLATE
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE, Execution, ExecutionRegistry
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.rate_limit import RateLimitRegistry
from rq.registry import (
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.results import Result
from rq.timeouts import TimerDeathPenalty
from rq.utils import now, utcformat, utcparse
from rq.worker.base import BaseWorker
from rq.worker_registration import REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY

import producer.ledger
from producer.ledger import rq_names, rq_times
from worker.queue.bookkeeping import Bookkeeper, GenerationJob
from worker.queue.holding import ENDED
from worker.queue.rq_worker import GenerationWorker

LUA = Path(producer.ledger.__file__).parent / "lua"
WORKER_QUEUE = Path(inspect.getfile(GenerationWorker)).parent


# -- keys

REGISTRIES = {
    "wip": StartedJobRegistry,
    "finished": FinishedJobRegistry,
    "failed": FailedJobRegistry,
    "canceled": CanceledJobRegistry,
    "deferred": DeferredJobRegistry,
    "scheduled": ScheduledJobRegistry,
}


def test_names_of_keys():
    assert rq_names.job("a") == Job.key_for("a")
    assert Job.redis_job_namespace_prefix == rq_names.JOB_PREFIX
    assert rq_names.queue("a") == f"{Queue.redis_queue_namespace_prefix}a"
    assert Queue.redis_queues_keys == rq_names.QUEUES
    assert rq_names.worker("a") == f"{BaseWorker.redis_worker_namespace_prefix}a"
    assert REDIS_WORKER_KEYS == rq_names.WORKERS
    assert rq_names.commands("a") == PUBSUB_CHANNEL_TEMPLATE % "a"
    assert rq_names.workers("a") == WORKERS_BY_QUEUE_KEY % "a"
    assert suspension.WORKERS_SUSPENDED == rq_names.SUSPENDED
    assert RateLimitRegistry.rl_keys_key == rq_names.RATE_LIMITS
    assert RateLimitRegistry("a", Redis()).config_key == f"{rq_names.RATE_LIMIT_PREFIX}a"
    assert RateLimitRegistry("a", Redis()).rate_limited_key == f"{rq_names.RATE_LIMIT_PREFIX}a:rate_limited"
    assert rq_names.results("a") == Result.get_key("a")


@pytest.mark.parametrize("state", REGISTRIES)
def test_names_of_registries(state):
    assert rq_names.registry(state, "a") == REGISTRIES[state].key_template.format("a")


def test_times_are_written_and_read_as_by_rq():
    at = utcparse(rq_times.now())
    assert abs(at - now()) < timedelta(minutes=1)
    assert rq_times.parse(utcformat(at)) == at
    old = "2026-01-02T03:04:05Z"  # of early versions of RQ
    assert rq_times.parse(old) == utcparse(old)
    with pytest.raises(ValueError, match="yesterday"):
        rq_times.parse("yesterday")


def test_names_that_the_scripts_build_themselves():
    """sweep.lua and cancel.lua find a job's keys by what its hash says."""
    prefix, execution = rq_names.PREFIX, Execution("run", "a", None)
    assert f"{prefix}executions:a" == ExecutionRegistry.key_template.format("a")
    assert f"{prefix}execution:a:run" == execution.key
    assert execution.composite_key == "a:run"
    assert f"{prefix}wip:a" == StartedJobRegistry.key_template.format("a")
    assert f"{prefix}worker:w:executions" == WORKER_EXECUTIONS_KEY_TEMPLATE.format("w")
    built = {
        name
        for script in ("sweep", "cancel")
        for name in re.findall(r"(?:\]|registry|\() \.\. '([a-z]+):'", (LUA / f"{script}.lua").read_text())
    }
    assert built <= {"job", "queue", "executions", "execution", "worker", "results", *REGISTRIES}, (
        "a name that is not looked at here"
    )


def test_the_channel_of_a_worker():
    assert PUBSUB_CHANNEL_TEMPLATE % "w" == "rq:pubsub:w"
    assert isinstance(inspect.getattr_static(BaseWorker, "pubsub_channel_name"), property)


# -- fields of a job

OF_AN_EARLIER_LIFE = {"result", "exc_info"}


def test_every_field_that_rq_reads_of_a_job_is_read():
    source = inspect.getsource(Job.restore)
    read = set(re.findall(r"obj(?:\.get\(|\[)'([a-z_]+)'", source)) | set(
        re.findall(r"'([a-z_]+)' in obj", source)
    )
    assert {"data", "origin", "stopped_callback_timeout"} <= read
    assert read <= {*rq_names.JOB_FIELDS, *OF_AN_EARLIER_LIFE}


def test_every_field_that_rq_writes_of_a_job_is_read_and_no_other():
    written = set(re.findall(r"obj\['([a-z_]+)'\]", inspect.getsource(Job.to_dict)))
    written |= set(re.findall(r"^ +'([a-z_]+)':", inspect.getsource(Job.to_dict), flags=re.MULTILINE))
    assert {"data", "created_at", "rate_limit_key"} <= written
    assert written <= {*rq_names.JOB_FIELDS, *OF_AN_EARLIER_LIFE}
    of_earlier_versions = {"dependency_id", "ttl"}
    assert set(rq_names.JOB_FIELDS) - written <= of_earlier_versions


def test_our_own_fields_are_none_of_rqs():
    assert not {*rq_names.OWN_FIELDS, "taken_by", "lost_by"} & {*rq_names.JOB_FIELDS, *OF_AN_EARLIER_LIFE}


def test_statuses():
    assert {status.value for status in ENDED} == {"finished", "failed", "stopped", "canceled"}
    assert {status.value for status in JobStatus} - {status.value for status in ENDED} == {
        *("created", "queued", "ready_to_enqueue", "started", "deferred", "scheduled", "rate_limited"),
    }


# -- methods

OVERRIDDEN = {
    BaseWorker: {
        "__init__": None,  # called by keywords alone
        "_release_slot_safely": "(self, job)",
        "bootstrap": "(self, logging_level, date_format, log_format)",
        "cleanup_execution": "(self, job, pipeline, execution)",
        "connection_timeout": "property",
        "get_current_job_id": "(self)",
        "handle_payload": "(self, message)",
        "heartbeat": "(self, timeout, pipeline)",
        "kill_horse": "(self, sig)",
        "procline": "(self, message)",
        "register_birth": "(self)",
        "serialize": "(self)",
        "subscribe": "(self)",
    },
    Job: {"retry": "(self, queue, pipeline)"},
}
CALLED = {
    BaseWorker: {
        "clean_group_registries": "(self)",
        "get_redis_server_version": "(self)",
        "get_state": "(self)",
        "handle_job_failure": "(self, job, queue, started_job_registry, exc_string, execution)",
        "handle_job_success": "(self, job, queue, started_job_registry, execution)",
        "queue_keys": "(self)",
        "queue_names": "(self)",
        "set_state": "(self, state, pipeline)",
        "teardown": "(self)",
        "executions_key": "property",
    },
    Job: {
        "get_result_ttl": "(self, default_ttl)",
        "get_retry_interval": "(self)",
        "get_status": "(self, refresh)",
        "prepare_for_execution": "(self, worker_name, pipeline)",
        "restore": "(self, raw_data)",
        "send_webhooks": "(self, status, exc_string)",
        "should_retry": "property",
    },
    Queue: {"schedule_job": "(self, job, datetime, pipeline, unique)"},
    Execution: {"delete": "(self, job, pipeline)", "restore": "(self, data)", "serialize": "(self)"},
    ExecutionRegistry: {
        "add": "(self, execution, ttl, pipeline, xx)",
        "get_execution_ids": "(self, start, end)",
    },
    StartedJobRegistry: {"cleanup": "(self, timestamp, exception_handlers)"},
    TimerDeathPenalty: {"__init__": "(self, timeout, exception, kwargs)"},
}


def form_of(owner: type, name: str) -> str:
    """A method by its parameters' names."""
    member = inspect.getattr_static(owner, name)
    if isinstance(member, property):
        return "property"
    return f"({', '.join(inspect.signature(member).parameters)})"


@pytest.mark.parametrize(
    ("owner", "name", "form"),
    [
        (owner, name, form)
        for methods in (OVERRIDDEN, CALLED)
        for owner, forms in methods.items()
        for name, form in forms.items()
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_signatures(owner, name, form):
    assert form is None or form_of(owner, name) == form


@pytest.mark.parametrize(("base", "ours"), [(BaseWorker, (Bookkeeper, GenerationWorker)), (Job, (GenerationJob,))])
def test_nothing_else_of_rqs_is_overridden(base, ours):
    defined = {name for cls in ours for name in vars(cls) if hasattr(base, name)}
    inherited_by_all = {name for name in defined if name.startswith("__") and name != "__init__"}
    assert defined - inherited_by_all == set(OVERRIDDEN[base])


def test_rq_calls_what_we_override_where_we_rely_on_it():
    """In the transactions that register an end, and once the failure stands in Redis."""
    for handler in (BaseWorker.handle_job_success, BaseWorker.handle_job_failure):
        assert "self.cleanup_execution(" in inspect.getsource(handler)
    failure = inspect.getsource(BaseWorker.handle_job_failure)
    assert failure.index("pipeline.execute()") < failure.index("self._release_slot_safely(job)")
    assert "job.retry(" in failure


# -- private names

PRIVATE = {
    "_failure_callback_name",
    "_result",
    "_status",
    "_stopped_callback_name",
    "_success_callback_name",
    "_unreadable_meta",
}
"""Of a job."""
PRIVATE_OF_WORKER = {"_stopped_job_id", "_release_slot_safely"}


def test_private_names_exist():
    job = Job("a", connection=object())
    assert {name for name in PRIVATE if not hasattr(job, name)} == set()
    source = inspect.getsource(BaseWorker)
    assert {name for name in PRIVATE_OF_WORKER if name not in source} == set()


def test_no_other_private_name_of_a_job_is_used():
    used = set()
    for path in [*WORKER_QUEUE.glob("*.py"), WORKER_QUEUE.parent / "intake.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            is_of_another = isinstance(node, ast.Attribute) and not (
                isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            )
            if is_of_another and isinstance(node.value, ast.Name) and node.attr.startswith("_"):
                used.add(node.attr)
    assert used <= PRIVATE
