"""Answers that are held to a structure, through a whole worker: valid, refused, several, and killed many times."""

import json
import os
import random
import signal
import time

import jsonschema
import pytest

from producer import GenerationRequest, InvalidRequest, Producer
from producer.broker.embedded import EmbeddedBroker
from tests.models import CPU
from worker.engine import Engine
from worker.models.config_loader import locate_model

from .conftest import joined

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


def test_an_answer_validates_and_is_streamed_as_any_other(producer):
    job = producer.submit("Who?", model="tiny", response_format=by(PERSON), temperature=1.0, seed=3)
    text, ids = joined(list(job.stream(timeout_s=100)))
    result = job.result()
    jsonschema.validate(result.parsed, PERSON)
    assert (text, ids, result.finish_reason) == (result.text, list(result.token_ids), "stop")


def test_a_keyword_that_cannot_be_kept_to_is_named(producer):
    job = producer.submit("Who?", model="tiny", response_format=by({"type": "array", "uniqueItems": True}))
    with pytest.raises(InvalidRequest, match="uniqueItems"):
        job.result(timeout_s=100)


def test_several_answers_read_their_prompt_once(producer):
    jobs = producer.submit("What is genqueue?" * 4, model="tiny", n=3, seed=1, temperature=1.5, max_new_tokens=20)
    results = [job.result(timeout_s=100) for job in jobs]
    assert len({result.text for result in results}) == 3
    assert [result.seed for result in results] == [1, 2, 3]
    prompt_tokens = results[0].usage.prompt_tokens
    assert all(result.usage.cached_tokens >= prompt_tokens - 2 for result in results[1:])


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
        many = {"GENQUEUE_MAX_ATTEMPTS": str(2 * KILLS)}
        workers = [start_worker(broker.url, **many).wait_until_ready(), start_worker(broker.url, **many)]
        for kill in range(KILLS):
            job = producer.submit(**asked, model="tiny")
            events = producer.stream(job.job_id, timeout_s=100)
            for _ in range(drawn.randint(1, 12)):
                next(events, None)
            name = producer.status(job.job_id).worker
            runner = next(
                (worker for worker in workers if name and name.endswith(str(worker.process.pid))), workers[0]
            )
            if kill % 2:
                runner.send(signal.SIGKILL)
                workers.remove(runner)
                workers.append(start_worker(broker.url, **many).wait_until_ready())
            else:
                os.kill(runner.engine_pid(), signal.SIGKILL)
                time.sleep(0.1)
            result = job.result(timeout_s=100)
            assert list(result.token_ids) == [step.token_id for step in undisturbed]
            assert result.text == "".join(step.text for step in undisturbed)
            if result.finish_reason == "stop":
                jsonschema.validate(json.loads(result.text), PEOPLE)
