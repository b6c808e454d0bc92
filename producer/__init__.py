"""What a script imports to enqueue prompts and to follow their tokens. Never torch, never the worker.

from producer import Producer

with Producer() as producer:
    print(producer.submit("你好，介绍一下你自己", model="tiny").result().text)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .async_client import AsyncProducer
    from .client import Producer
    from .contract import (
        BrokerUnavailable,
        Cancelled,
        Delta,
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
        ToolCall,
        UnknownFunction,
        UnknownModel,
        Usage,
        WaitTimeout,
        WorkerLost,
    )
    from .handles import AsyncJobHandle, JobHandle
    from .job_status import JobStatus, Progress, WorkerInfo
    from .many import as_completed, gather
    from .overview_values import ModelOverview, Overview
    from .sampling import SamplingOptions
    from .settings import ProducerSettings

__all__ = [
    "AsyncJobHandle",
    "AsyncProducer",
    "BrokerUnavailable",
    "Cancelled",
    "Delta",
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
    "ToolCall",
    "UnknownFunction",
    "UnknownModel",
    "Usage",
    "WaitTimeout",
    "WorkerInfo",
    "WorkerLost",
    "as_completed",
    "gather",
]

_WHEN_ASKED_FOR = {
    "AsyncJobHandle": "handles",
    "AsyncProducer": "async_client",
    "JobHandle": "handles",
    "JobStatus": "job_status",
    "ModelOverview": "overview_values",
    "Overview": "overview_values",
    "Producer": "client",
    "ProducerSettings": "settings",
    "Progress": "job_status",
    "SamplingOptions": "sampling",
    "WorkerInfo": "job_status",
    "as_completed": "many",
    "gather": "many",
}
"""Names that are in another module than the contract, and bring redis and rq along."""


def __getattr__(name: str) -> Any:
    """Import what is asked for, and no more: pytest loads `producer.testing` wherever genqueue is installed."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_WHEN_ASKED_FOR.get(name, 'contract')}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
