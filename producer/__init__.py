"""What a script imports to enqueue prompts and to follow their tokens. Never torch, never the worker.

from producer import Producer

with Producer() as producer:
    print(producer.submit("你好，介绍一下你自己", model="tiny").result().text)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .contract import (
    BrokerUnavailable,
    Cancelled,
    EngineError,
    ErrorInfo,
    Event,
    EventId,
    Failed,
    Finished,
    GenerationRequest,
    GenerationResult,
    GenqueueError,
    InvalidRequest,
    JobCancelled,
    JobConflict,
    JobError,
    JobExpired,
    JobStranded,
    JobTimeout,
    Message,
    NoSuchJob,
    OutOfMemory,
    PromptTooLong,
    QueueFull,
    SamplingParams,
    Started,
    StreamedEvent,
    Timings,
    Tokens,
    UnknownFunction,
    UnknownModel,
    Usage,
    WaitTimeout,
    WorkerLost,
)

if TYPE_CHECKING:
    from .async_client import AsyncJobHandle, AsyncProducer
    from .client import JobHandle, Producer
    from .job_status import JobStatus, Progress, WorkerInfo
    from .overview_values import ModelOverview, Overview
    from .sampling import SamplingOptions
    from .settings import ProducerSettings

__all__ = [
    "AsyncJobHandle",
    "AsyncProducer",
    "BrokerUnavailable",
    "Cancelled",
    "EngineError",
    "ErrorInfo",
    "Event",
    "EventId",
    "Failed",
    "Finished",
    "GenerationRequest",
    "GenerationResult",
    "GenqueueError",
    "InvalidRequest",
    "JobCancelled",
    "JobConflict",
    "JobError",
    "JobExpired",
    "JobHandle",
    "JobStatus",
    "JobStranded",
    "JobTimeout",
    "Message",
    "ModelOverview",
    "NoSuchJob",
    "OutOfMemory",
    "Overview",
    "Producer",
    "ProducerSettings",
    "Progress",
    "PromptTooLong",
    "QueueFull",
    "SamplingOptions",
    "SamplingParams",
    "Started",
    "StreamedEvent",
    "Timings",
    "Tokens",
    "UnknownFunction",
    "UnknownModel",
    "Usage",
    "WaitTimeout",
    "WorkerInfo",
    "WorkerLost",
]

_WHEN_ASKED_FOR = {
    "AsyncJobHandle": "async_client",
    "AsyncProducer": "async_client",
    "JobHandle": "client",
    "JobStatus": "job_status",
    "ModelOverview": "overview_values",
    "Overview": "overview_values",
    "Producer": "client",
    "ProducerSettings": "settings",
    "Progress": "job_status",
    "SamplingOptions": "sampling",
    "WorkerInfo": "job_status",
}
"""Names whose modules bring redis and rq along: the process of an engine needs the contract alone."""


def __getattr__(name: str) -> Any:
    if name not in _WHEN_ASKED_FOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_WHEN_ASKED_FOR[name]}", __name__), name)
