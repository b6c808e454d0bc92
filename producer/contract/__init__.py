"""The wire contract, version 1: what producers and workers say to each other on Redis.

Knows the standard library and pydantic, and nothing of Redis, RQ or torch. Anything that speaks Redis can use
the contract without this package; `keys` has the glossary of names, `events` the stream, `results` how a job ends,
`errors` the codes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chat import Message
    from .compatibility import BASE_REQUEST_FIELDS, REQUEST_FIELDS, check_understood
    from .errors import (
        BrokerUnavailable,
        EngineError,
        ErrorCode,
        GenqueueError,
        InvalidRequest,
        JobCancelled,
        JobConflict,
        JobError,
        JobExpired,
        JobStranded,
        JobTimeout,
        NoSuchJob,
        OutOfMemory,
        PromptTooLong,
        QueueFull,
        UnknownFunction,
        UnknownModel,
        WaitTimeout,
        WorkerLost,
        job_error,
    )
    from .event_id import BEFORE_FIRST, EventId
    from .events import (
        TERMINAL_TYPES,
        Cancelled,
        EngineFacts,
        Entry,
        Event,
        Failed,
        Finished,
        Started,
        StartedData,
        StreamedEvent,
        TerminalEvent,
        Tokens,
        TokensData,
        UnknownEvent,
        data_json,
        encode_entry,
        mirror_json,
        parse_entry,
        terminal_event,
        tokens_json,
    )
    from .keys import FUNCTION, Keys, Priority
    from .markup import Delta, FunctionCall, Markup, ToolCall, ToolCallDelta
    from .requests import DEFAULT_MAX_NEW_TOKENS, GenerationRequest, SamplingParams
    from .results import (
        ErrorInfo,
        FinishReason,
        GenerationResult,
        Status,
        Timings,
        TokenLogprob,
        Usage,
    )
    from .version import VERSION

__all__ = [
    "BASE_REQUEST_FIELDS",
    "BEFORE_FIRST",
    "DEFAULT_MAX_NEW_TOKENS",
    "FUNCTION",
    "REQUEST_FIELDS",
    "TERMINAL_TYPES",
    "VERSION",
    "BrokerUnavailable",
    "Cancelled",
    "Delta",
    "EngineError",
    "EngineFacts",
    "Entry",
    "ErrorCode",
    "ErrorInfo",
    "Event",
    "EventId",
    "Failed",
    "FinishReason",
    "Finished",
    "FunctionCall",
    "GenerationRequest",
    "GenerationResult",
    "GenqueueError",
    "InvalidRequest",
    "JobCancelled",
    "JobConflict",
    "JobError",
    "JobExpired",
    "JobStranded",
    "JobTimeout",
    "Keys",
    "Markup",
    "Message",
    "NoSuchJob",
    "OutOfMemory",
    "Priority",
    "PromptTooLong",
    "QueueFull",
    "SamplingParams",
    "Started",
    "StartedData",
    "Status",
    "StreamedEvent",
    "TerminalEvent",
    "Timings",
    "TokenLogprob",
    "Tokens",
    "TokensData",
    "ToolCall",
    "ToolCallDelta",
    "UnknownEvent",
    "UnknownFunction",
    "UnknownModel",
    "Usage",
    "WaitTimeout",
    "WorkerLost",
    "check_understood",
    "data_json",
    "encode_entry",
    "job_error",
    "mirror_json",
    "parse_entry",
    "terminal_event",
    "tokens_json",
]

_LIGHTEST_FIRST = (
    "version",
    "errors",
    "keys",
    "event_id",
    "chat",
    "markup",
    "requests",
    "results",
    "events",
    "compatibility",
)


def __getattr__(name: str) -> Any:
    """Import as far as what is asked for: pydantic takes its time, and errors and keys need none of it."""
    if name in __all__:
        for each in _LIGHTEST_FIRST:
            if hasattr(module := import_module(f".{each}", __name__), name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
