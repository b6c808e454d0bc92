"""Jobs as RQ itself would write them, and every option that is refused before anything is sent."""

import json
import time
from typing import Any

import pytest
from fakeredis import FakeRedis, FakeServer
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from producer import GenerationRequest, InvalidRequest, Message, Producer, ProducerSettings, PromptTooLong
from producer.contract import FUNCTION
from producer.submission import MAX_BATCH, MAX_REQUEST_BYTES, SubmitOptions, parse_request, prepare

REQUEST = GenerationRequest(prompt="a prompt that RQ must not log", temperature=0.5)
SETTINGS = ProducerSettings()


def _prepare_one(**options: Any) -> Any:
    batch = prepare([REQUEST], model="tiny", options=SubmitOptions.parse(options), settings=SETTINGS)
    return batch.submissions[0]


def test_rq_reads_the_hash_as_a_job_of_its_own(fake_server: FakeServer) -> None:
    submission = _prepare_one(timeout_s=30, result_ttl_s=50, priority="high")
    client = FakeRedis(server=fake_server)
    client.hset(Job.key_for(submission.job_id), mapping=submission.new_job.fields)

    job = Job.fetch(submission.job_id, connection=client, serializer=JSONSerializer)

    assert (job.func_name, job.args, job.kwargs) == (FUNCTION, [], {"request": REQUEST.to_wire()})
    assert (job.origin, job.timeout, job.result_ttl, job.failure_ttl) == ("generate.tiny.high", 30, 50, 50)
    assert job.get_status() == JobStatus.QUEUED
    assert job.enqueued_at is not None


def test_the_description_does_not_quote_the_prompt() -> None:
    fields = _prepare_one().new_job.fields

    assert fields["description"] == "generate tiny"
    assert b"must not log" not in b"".join(
        value if isinstance(value, bytes) else str(value).encode() for value in fields.values()
    )


def test_the_deadline_stands_in_the_meta_and_rqs_own_ttl_lies_behind_it() -> None:
    before = time.time()

    new_job = _prepare_one(queue_ttl_s=90.5, result_ttl_s=10).new_job

    meta = json.loads(new_job.fields["meta"])
    assert before + 90.5 <= meta["expires_at"] <= time.time() + 90.5
    assert new_job.hash_ttl_s == new_job.fields["ttl"] == 90 + 10 + 3600


def test_the_digest_is_that_of_the_request_whatever_the_order_of_its_fields() -> None:
    def digest_of(request: dict[str, Any]) -> str:
        parsed = parse_request(request, {})
        batch = prepare([parsed], model="tiny", options=SubmitOptions(), settings=SETTINGS)
        return batch.submissions[0].new_job.request_digest

    first = digest_of({"prompt": "Hi", "seed": 1})
    assert digest_of({"seed": 1, "prompt": "Hi", "top_k": 0}) == first
    assert digest_of({"prompt": "Hi", "seed": 2}) != first
    assert digest_of({"prompt": "Ho", "seed": 1}) != first


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"priority": "urgent"}, "priority: "),
        ({"queue_ttl_s": 0}, "queue_ttl_s: "),
        ({"queue_ttl_s": -5}, "queue_ttl_s: "),
        ({"queue_ttl_s": float("nan")}, "queue_ttl_s: "),
        ({"queue_ttl_s": float("inf")}, "queue_ttl_s: "),
        ({"queue_ttl_s": "5"}, "queue_ttl_s: "),
        ({"queue_ttl_s": True}, "queue_ttl_s: "),
        ({"timeout_s": 0}, "timeout_s: "),
        ({"timeout_s": -1}, "timeout_s: "),
        ({"timeout_s": 1.5}, "timeout_s: "),
        ({"timeout_s": "10"}, "timeout_s: "),
        ({"timeout_s": 10**12}, "timeout_s: "),
        ({"result_ttl_s": -1}, "result_ttl_s: "),
        ({"max_queued": -1}, "max_queued: "),
        ({"max_queued": True}, "max_queued: "),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match="invalid options") as refused:
        _prepare_one(**options)

    assert said in str(refused.value)


@pytest.mark.parametrize("job_ids", [["a:b"], ["a b"], [""], ["a", "b"], "a", []])
def test_wrong_job_ids_are_refused(job_ids: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"job id|job_ids"):
        prepare([REQUEST], model="tiny", options=SubmitOptions(), settings=SETTINGS, job_ids=job_ids)


def test_ids_that_repeat_in_a_batch_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="differ"):
        prepare([REQUEST] * 2, model="tiny", options=SubmitOptions(), settings=SETTINGS, job_ids=["a", "a"])


def test_a_batch_that_would_hold_up_redis_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at most"):
        prepare([REQUEST] * (MAX_BATCH + 1), model="tiny", options=SubmitOptions(), settings=SETTINGS)


def test_a_request_beyond_the_limit_is_refused() -> None:
    huge = GenerationRequest(prompt="语" * (MAX_REQUEST_BYTES // 6))

    with pytest.raises(PromptTooLong, match="shorten"):
        prepare([huge], model="tiny", options=SubmitOptions(), settings=SETTINGS)


@pytest.mark.parametrize(
    "request_",
    [
        "Hi",
        {"prompt": "Hi"},
        GenerationRequest(prompt="Hi"),
        {"prompt": "Hi", "messages": None, "prompt_token_ids": None, "seed": None},
    ],
)
def test_a_request_takes_three_forms(request_: Any) -> None:
    assert parse_request(request_, {}) == GenerationRequest(prompt="Hi")


def test_a_request_overrides_what_holds_for_all() -> None:
    common = {"temperature": 0.5, "seed": 1}

    assert parse_request({"prompt": "Hi", "seed": 2}, common) == GenerationRequest(
        prompt="Hi", temperature=0.5, seed=2
    )


@pytest.mark.parametrize(
    "request_",
    [{"prompt": "Hi", "temperature": 0.0}, GenerationRequest(prompt="Hi", temperature=0.0)],
)
def test_a_request_that_gives_a_default_says_so(request_: Any) -> None:
    assert parse_request(request_, {"temperature": 0.7}) == GenerationRequest(prompt="Hi")


@pytest.mark.parametrize("request_", [{"prompt": "Hi", "seed": None}, GenerationRequest(prompt="Hi", seed=None)])
def test_what_is_none_in_a_request_is_not_given(request_: Any) -> None:
    assert parse_request(request_, {"seed": 7}) == GenerationRequest(prompt="Hi", seed=7)


def test_messages_can_be_models_or_mappings() -> None:
    plain = {"role": "user", "content": "Hi"}

    parsed = parse_request({"messages": [plain, Message(role="assistant", content="Ho")]}, {})

    assert parsed.messages == (Message(role="user", content="Hi"), Message(role="assistant", content="Ho"))


@pytest.mark.parametrize("request_", [None, 5, b"Hi", ["Hi"]])
def test_what_is_no_request_is_refused(request_: Any) -> None:
    with pytest.raises(InvalidRequest, match="a request is"):
        parse_request(request_, {})


# Every field at its default; each source of a prompt is None then, and means not given.
AT_DEFAULTS = {
    name: field.get_default(call_default_factory=True) for name, field in GenerationRequest.model_fields.items()
}


def test_no_default_is_sent_whichever_way_a_request_is_given(fake_server: FakeServer) -> None:
    """An older worker refuses a field that it does not know, also one that asks for nothing."""
    explicit = {**AT_DEFAULTS, "prompt": "Hi"}
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in explicit.items()}
    client = FakeRedis(server=fake_server)

    with Producer(connection=FakeRedis(server=fake_server)) as producer:
        handles = [
            producer.submit(**explicit, model="tiny"),
            *producer.submit_many([explicit, lists, GenerationRequest(**explicit), "Hi"], model="tiny"),
            *producer.submit_many(["Hi"], model="tiny", **{**AT_DEFAULTS, "prompt": None}),
        ]

    for handle in handles:
        job = Job.fetch(handle.job_id, connection=client, serializer=JSONSerializer)
        assert job.kwargs == {"request": {"prompt": "Hi"}}


def test_a_batch_says_which_fields_not_every_worker_knows() -> None:
    """Nothing of the base is among them, so that nobody is asked about most requests."""

    def beyond(*requests: GenerationRequest) -> frozenset[frozenset[str]]:
        options = SubmitOptions.parse({})
        return prepare(requests, model="tiny", options=options, settings=SETTINGS).beyond_base

    newer = GenerationRequest(prompt="Hi", prompt_lookup=True)

    assert beyond(REQUEST, GenerationRequest(prompt="Hi", prompt_lookup=None)) == frozenset()
    assert beyond(REQUEST, newer, newer) == {frozenset({"prompt_lookup"})}
