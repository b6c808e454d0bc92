"""Workers and engines are killed over answers that are held to a structure, and others come first: each goes on
inside the same JSON."""

import json
import os
import random
import signal

import jsonschema
import pytest

from producer import GenerationRequest, GenerationResult, JobHandle, Producer
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
KILLS = 13
"""Of engines and of workers, in turn: `python -m tests.chaos` does it hundreds of times."""
PREEMPTIONS = 5
TRIES = 4 * PREEMPTIONS
"""A job may end before the other one is seen."""
FIELDS = {
    "greedy": {},
    "greedy, no drafts": {"prompt_lookup": False},
    "sampled": {"temperature": 1.2, "seed": 5},
    "sampled, no drafts": {"temperature": 1.0, "top_p": 0.9, "seed": 6, "prompt_lookup": False},
}


def by(schema: dict) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


class Asked:
    """One request, and the answer of an engine that nobody disturbs."""

    def __init__(self, engine: Engine, fields: dict) -> None:
        self.fields = {"prompt": "Who?", "max_new_tokens": 900, "response_format": by(PEOPLE), **fields}
        request = GenerationRequest.parse(self.fields)
        self._steps = list(engine.start(request, engine.encode(request), seed=fields.get("seed", 0)))

    def begun(self, producer: Producer, drawn: random.Random, **options) -> tuple[JobHandle, str]:
        """A job of it that has said something, and the name of its worker."""
        job = producer.submit(**self.fields, model="tiny", **options)
        events = producer.stream(job.job_id, timeout_s=100)
        name = next(events).event.data.worker
        for _ in range(drawn.randint(1, 9)):
            next(events)
        return job, name

    def check(self, result: GenerationResult) -> None:
        """Whether that is the undisturbed answer."""
        assert list(result.token_ids) == [step.token_id for step in self._steps]
        assert result.text == "".join(step.text for step in self._steps)
        assert result.finish_reason == "stop"
        jsonschema.validate(json.loads(result.text), PEOPLE)


@pytest.fixture(scope="module")
def engine(model_paths) -> Engine:
    return Engine.load(locate_model("tiny", model_paths), CPU)


@pytest.mark.long
@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_killed_and_preempted_the_text_is_that_of_an_undisturbed_run(fields, engine, start_worker):
    asked, drawn = Asked(engine, fields), random.Random(str(fields))
    with EmbeddedBroker() as broker, Producer(broker.url) as producer:
        settings = {"GENQUEUE_MAX_ATTEMPTS": str(2 * KILLS)}
        workers = [start_worker(broker.url, **settings) for _ in range(2)]
        for worker in workers:
            worker.wait_until_ready()
        attempts = 0
        for kill in range(KILLS):
            job, name = asked.begun(producer, drawn)
            [runs_it] = [worker for worker in workers if worker.name == name]
            if kill % 2:
                runs_it.send(signal.SIGKILL)
                workers.remove(runs_it)
                workers.append(start_worker(broker.url, **settings).wait_until_ready())
            else:
                os.kill(runs_it.engine_pid(), signal.SIGKILL)
            result = job.result(timeout_s=100)
            asked.check(result)
            attempts += result.attempts
        assert attempts > 1.5 * KILLS, "most of them met the job in mid-sentence"

        workers.pop().stop()  # the one that is left has to choose
        made_way = 0
        for _ in range(TRIES):
            low, _ = asked.begun(producer, drawn, priority="low")
            choice = {"type": "choice", "choice": ["The one that came first.", "The other one."]}
            high = producer.submit("Which?", grammar=choice, model="tiny", priority="high").result(timeout_s=100)
            assert high.text in choice["choice"]
            result = low.result(timeout_s=100)
            asked.check(result)
            made_way += result.timings.parked_ms is not None
            if made_way == PREEMPTIONS:
                break
        assert made_way == PREEMPTIONS
