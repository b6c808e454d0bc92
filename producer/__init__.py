"""What a script imports to enqueue prompts and to follow their tokens. Never torch, never the worker.

from producer import Producer

with Producer() as producer:
    print(producer.submit("你好，介绍一下你自己", model="tiny").result().text)
"""

from .async_client import AsyncJobHandle, AsyncProducer
from .client import JobHandle, Producer
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
from .job_status import JobStatus, Progress, WorkerInfo
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
    "NoSuchJob",
    "OutOfMemory",
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
