"""Answers of a form, and several of them, as a script asks for them."""

import builtins
import json
from typing import Any

import pytest
from fakeredis import FakeRedis
from rq.job import Job
from rq.serializers import JSONSerializer

from producer import AsyncProducer, GenerationResult, InvalidRequest, Producer, schemas
from producer.contract.requests import MAX_SEED

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
NO_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objekt"}}}


@pytest.fixture
def client() -> FakeRedis:
    return FakeRedis()


@pytest.fixture
def producer(client: FakeRedis) -> Producer:
    return Producer(connection=client)


def wire_of(client: FakeRedis, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = Job.fetch(job_id, connection=client, serializer=JSONSerializer).kwargs["request"]
    return found


def test_a_response_format_goes_as_openai_has_it(producer: Producer, client: FakeRedis) -> None:
    job = producer.submit("Hi", model="tiny", response_format=FORMAT)
    assert wire_of(client, job.job_id) == {"prompt": "Hi", "response_format": FORMAT}


def test_text_is_the_default_and_is_not_sent(producer: Producer, client: FakeRedis) -> None:
    job = producer.submit("Hi", model="tiny", response_format={"type": "text"})
    assert wire_of(client, job.job_id) == {"prompt": "Hi"}


def test_what_is_no_schema_is_said_with_its_row(producer: Producer, client: FakeRedis) -> None:
    with pytest.raises(
        InvalidRequest, match=r"^requests\[1\]: response_format.*no JSON Schema: \$\.type: 'objekt'"
    ):
        producer.submit_many(["a", {"prompt": "b", "response_format": NO_SCHEMA}], model="tiny")
    assert not client.keys()


def test_without_jsonschema_the_worker_is_to_say_it(producer: Producer, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("jsonschema"):
            raise ModuleNotFoundError(name)
        return imported(name, *args, **options)

    schemas._fault.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(builtins, "__import__", without)
        assert producer.submit("Hi", model="tiny", response_format=NO_SCHEMA).created
    schemas._fault.cache_clear()


def test_so_deep_that_jsonschema_gives_up_is_for_the_worker() -> None:
    deep: dict[str, Any] = {}
    for _ in range(180):
        deep = {"items": deep}
    assert schemas._fault(json.dumps(deep)) is None


def test_a_schema_has_a_bound(producer: Producer) -> None:
    large = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"description": "x" * 70_000}}}
    with pytest.raises(InvalidRequest, match="a schema may have 65536 characters as JSON, and this one has 700"):
        producer.submit("Hi", model="tiny", response_format=large)


class TestN:
    def test_seeds_are_apart_and_end_where_seeds_end(self, producer: Producer, client: FakeRedis) -> None:
        jobs = producer.submit("Hi", model="tiny", n=3, seed=MAX_SEED - 1, temperature=1)
        seeds = [wire_of(client, job.job_id)["seed"] for job in jobs]
        assert seeds == [MAX_SEED - 1, MAX_SEED, 0]

    def test_without_a_seed_each_draws_its_own(self, producer: Producer, client: FakeRedis) -> None:
        jobs = producer.submit("Hi", model="tiny", n=2, temperature=1)
        assert all("seed" not in wire_of(client, job.job_id) for job in jobs)
        assert len({job.job_id for job in jobs}) == 2

    def test_one_is_a_list_of_one(self, producer: Producer) -> None:
        assert len(producer.submit("Hi", model="tiny", n=1)) == 1

    def test_submitted_twice_they_are_the_same(self, producer: Producer) -> None:
        first = producer.submit("Hi", model="tiny", n=2, job_id="mine")
        again = producer.submit("Hi", model="tiny", n=2, job_id="mine")
        assert [job.job_id for job in first] == [job.job_id for job in again] == ["mine-0", "mine-1"]
        assert [job.created for job in again] == [False, False]

    @pytest.mark.parametrize("n", [0, -1, 1_001, True, 2.0, "3"])
    def test_another_number_is_refused(self, producer: Producer, n: Any) -> None:
        with pytest.raises(InvalidRequest, match="n: it takes the number of answers"):
            producer.submit("Hi", model="tiny", n=n)

    async def test_in_asyncio(self, genqueue_worker: Any) -> None:
        async with AsyncProducer() as producer:
            assert len(await producer.submit("Hi", model="tiny", n=2)) == 2


class TestParsed:
    def result(self, text: str, finish_reason: str) -> GenerationResult:
        return GenerationResult(
            job_id="a", status="finished", model="tiny", text=text, finish_reason=finish_reason
        )

    def test_it_is_the_text_as_json(self) -> None:
        assert self.result('{"a": [1, null]}', "stop").parsed == {"a": [1, None]}

    def test_it_says_why_it_is_none(self) -> None:
        with pytest.raises(ValueError, match="job a was cut off by max_new_tokens"):
            _ = self.result('{"a": [1', "length").parsed
        with pytest.raises(ValueError, match="job a is no JSON"):
            _ = self.result("Hello", "stop").parsed
