"""Workers and engines are killed over answers that are held to a structure: each goes on inside the same JSON."""

import json
import os
import random
import signal

import jsonschema
import pytest

from producer import GenerationRequest, Producer
from producer.broker.embedded import EmbeddedBroker
from tests.models import CPU
from worker.engine import Engine
from worker.models.config_loader import locate_model

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "born": {"type": "integer", "minimum": 0, "maximum": 9999},
    },
    "required": ["name", "born"],
    "additionalProperties": False,
}
PEOPLE = {"type": "array", "items": PERSON, "minItems": 24, "maxItems": 24}
KILLS = 12
"""Of engines and of workers, in turn: `python -m tests.chaos` does it hundreds of times."""


def by(schema: dict) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


@pytest.mark.long
@pytest.mark.parametrize(
    "fields",
    [{}, {"temperature": 1.2, "seed": 5}, {"temperature": 1.0, "top_p": 0.9, "seed": 6, "prompt_lookup": False}],
    ids=["greedy", "sampled", "sampled, no drafts"],
)
def test_killed_over_and_over_the_text_is_that_of_an_undisturbed_run(fields, start_worker, model_paths):
    asked = {"prompt": "Who?", "max_new_tokens": 900, "response_format": by(PEOPLE), **fields}
    engine = Engine.load(locate_model("tiny", model_paths), CPU)
    request = GenerationRequest.parse(asked)
    undisturbed = list(engine.start(request, engine.encode(request), seed=fields.get("seed", 0)))
    drawn = random.Random(str(fields))
    with EmbeddedBroker() as broker, Producer(broker.url) as producer:
        settings = {"GENQUEUE_MAX_ATTEMPTS": str(2 * KILLS)}
        workers = [start_worker(broker.url, **settings) for _ in range(2)]
        for worker in workers:
            worker.wait_until_ready()
        attempts = 0
        for kill in range(KILLS):
            job = producer.submit(**asked, model="tiny")
            events = producer.stream(job.job_id, timeout_s=100)
            name = next(events).event.data.worker
            for _ in range(drawn.randint(1, 9)):
                next(events)
            [runs_it] = [worker for worker in workers if worker.name == name]
            if kill % 2:
                runs_it.send(signal.SIGKILL)
                workers.remove(runs_it)
                workers.append(start_worker(broker.url, **settings).wait_until_ready())
            else:
                os.kill(runs_it.engine_pid(), signal.SIGKILL)
            result = job.result(timeout_s=100)
            assert list(result.token_ids) == [step.token_id for step in undisturbed]
            assert result.text == "".join(step.text for step in undisturbed)
            if result.finish_reason == "stop":
                jsonschema.validate(json.loads(result.text), PEOPLE)
            attempts += result.attempts
    assert attempts > 1.5 * KILLS, "most of them met the job in mid-sentence"
