"""A call of a tool whose worker is killed while it makes it, as those see it who follow it, and who come later."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import jsonschema
import pytest
import torch

from producer import Delta, GenerationRequest, Producer
from producer.broker.embedded import EmbeddedBroker
from producer.contract.views.message_view import call_id
from tests.models import save_random_model
from tests.unit.worker.engine.text.chat_templates import tokenizer_of
from worker.engine import Engine

from .test_survival import client_of
from .test_worker import wait_for_tokens
from .worker_process import WorkerProcess

pytestmark = [pytest.mark.slow, pytest.mark.long]
SCHEMA = {
    "type": "object",
    "properties": {"answers": {"type": "array", "items": {"type": "boolean"}, "minItems": 900, "maxItems": 900}},
    "required": ["answers"],
    "additionalProperties": False,
}
REQUEST = {
    "messages": [{"role": "user", "content": "Yes or no?"}],
    "tools": [{"type": "function", "function": {"name": "note", "parameters": SCHEMA}}],
    "tool_choice": {"type": "function", "function": {"name": "note"}},
    "max_new_tokens": 7000,
    "temperature": 1.0,
    "seed": 7,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Of random weights, whose chat template is Qwen2.5's."""
    folder = save_random_model(tmp_path / "model", context_length=8192, eos_token_id=[2])
    tokenizer_of("Qwen2.5", folder)
    return folder


def joined(deltas: Sequence[Delta]) -> tuple[str, list[str | None], str]:
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    said = "".join(delta.content or "" for delta in deltas)
    return said, [call.id for call in calls if call.id], "".join(call.function.arguments for call in calls)


def test_a_call_goes_on_where_its_worker_was_killed(model: Path, tmp_path: Path) -> None:
    engine = Engine.load(model, torch.device("cpu"))
    asked = GenerationRequest.parse(REQUEST)
    undisturbed = "".join(step.text for step in engine.start(asked, engine.encode(asked), seed=7))
    paths = tmp_path / "model_paths.yaml"
    paths.write_text("tiny: model\n")
    seen: list[Delta] = []
    with EmbeddedBroker(append_only=True) as broker, Producer(broker.url) as producer:
        workers = [WorkerProcess(broker.url, paths, tmp_path / "worker.log").wait_until_ready()]
        try:
            job = producer.submit(**REQUEST, model="tiny")
            follower = threading.Thread(target=lambda: seen.extend(job.deltas(timeout_s=100)), daemon=True)
            follower.start()
            wait_for_tokens(client_of(broker), job.job_id)
            workers[0].process.kill()
            workers.append(WorkerProcess(broker.url, paths, tmp_path / "worker.log"))
            result = job.result(timeout_s=300)
            follower.join(100)
            later = list(job.deltas())
        finally:
            for worker in workers:
                worker.stop()

    assert (result.text, result.attempts, result.finish_reason) == (undisturbed, 2, "tool_calls")
    [call] = result.message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), SCHEMA)
    assert call.id == call_id(job.job_id, 0)
    assert joined(seen) == joined(later) == ("", [call.id], call.function.arguments)
