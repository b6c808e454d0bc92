"""What people type first, and what they are told: each answer names the option and says what to do instead."""

import datetime as dt
import decimal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fakeredis import FakeRedis
from rq.job import Job
from rq.serializers import JSONSerializer

from producer import InvalidRequest, NoSuchJob, Producer, ProducerSettings, PromptTooLong
from producer.contract import JobConflict

USER = {"role": "user", "content": "Hi"}


def submitting(*args: Any, **options: Any) -> Callable[[Producer], object]:
    return lambda producer: producer.submit(*args, **{"model": "tiny", **options})


def many(requests: Any, **options: Any) -> Callable[[Producer], object]:
    return lambda producer: producer.submit_many(requests, **{"model": "tiny", **options})


def asking(operation: str, *args: Any, **options: Any) -> Callable[[Producer], object]:
    return lambda producer: getattr(producer, operation)(*args, **options)


def setting(**options: Any) -> Callable[[Producer], object]:
    return lambda _: Producer(settings=ProducerSettings.load(**options))


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": 1}}}
MISTAKES: dict[str, tuple[Callable[[Producer], object], str]] = {
    # OpenAI's names
    "max_tokens=3": (
        submitting("Hi", max_tokens=3),
        "max_tokens: there is no such option: it is called max_new_tokens",
    ),
    "max_completion_tokens=3": (submitting("Hi", max_completion_tokens=3), "it is called max_new_tokens"),
    "best_of=3": (submitting("Hi", best_of=3), "a job has one answer: submit(n=...) makes several jobs"),
    "n=0": (submitting("Hi", n=0), "n: it takes the number of answers, from 1 to 1,000"),
    "guided_json=": (submitting("Hi", guided_json={}), "response_format says it"),
    "a schema that is none": (
        submitting(
            "Hi", response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": 1}}}
        ),
        "response_format.json_schema.schema is no JSON Schema: $.type: 1 is not valid",
    ),
    "a format of its own": (submitting("Hi", response_format={"type": "xml"}), "response_format: Input tag 'xml'"),
    "two structures": (
        submitting("Hi", response_format={"type": "json_object"}, grammar={"type": "regex", "regex": "a"}),
        "response_format and grammar say the same thing in two ways",
    ),
    "ignore_eos with a structure": (
        submitting("Hi", response_format={"type": "json_object"}, ignore_eos=True),
        "ignore_eos and response_format may leave no token between them",
    ),
    "a regex without its pattern": (submitting("Hi", grammar={"type": "regex"}), "grammar.regex: it is missing"),
    "function_call=": (submitting("Hi", function_call="auto"), "it is called tool_choice"),
    "functions=": (submitting("Hi", functions=[]), "they are called tools, a list of"),
    "enable_thinking=": (submitting("Hi", enable_thinking=False), "give it as chat_template_kwargs="),
    "tools with a prompt": (submitting("Hi", tools=[TOOL]), "tools goes through the chat template: give messages"),
    "a tool whose schema is none": (
        submitting(messages=[USER], tools=[TOOL], tool_choice="required"),
        "tools.0.function.parameters is no JSON Schema: $.type: 1 is not valid",
    ),
    "top_logprobs=5": (submitting("Hi", logprobs=1, top_logprobs=5), "logprobs says it: the number of likeliest"),
    "logprobs=True": (submitting("Hi", logprobs=True), "logprobs: it takes a number: 0 for each token's"),
    "system=": (submitting("Hi", system="Be brief"), 'give it as the first of messages: {"role": "system"'),
    "stream=True": (submitting("Hi", stream=True), "stream: there is no such option: every job has a stream"),
    # transformers' names
    "max_length=50": (submitting("Hi", max_length=50), "it is called max_new_tokens, and counts the answer alone"),
    "do_sample=True": (submitting("Hi", do_sample=True), "temperature says it: 0 is greedy, and above 0"),
    "num_return_sequences=2": (submitting("Hi", num_return_sequences=2), "a job has one answer"),
    "num_beams=4": (submitting("Hi", num_beams=4), "there is no beam search here"),
    "stop_strings=": (submitting("Hi", stop_strings=["a"]), "it is called stop, and takes the strings themselves"),
    "input_ids=": (submitting(input_ids=[1, 2]), "it is called prompt_token_ids"),
    # RQ's, and guesses
    "timeout=30": (submitting("Hi", timeout=30), "timeout: there is no such option: it is called timeout_s"),
    "job_timeout=30": (submitting("Hi", job_timeout=30), "it is called timeout_s, in seconds"),
    "at_front=True": (submitting("Hi", at_front=True), 'priority="high" is served first'),
    "temprature=1": (
        submitting("Hi", temprature=1),
        "temprature: there is no such option: did you mean temperature?",
    ),
    "maxNewTokens=3": (submitting("Hi", maxNewTokens=3), "did you mean max_new_tokens?"),
    "max_queue=3": (submitting("Hi", max_queue=3), "did you mean max_queued?"),
    "frobnicate=3": (submitting("Hi", frobnicate=3), "frobnicate: there is no such option"),
    # values
    "nothing": (submitting(), "give exactly one of prompt, messages and prompt_token_ids, not none"),
    "prompt and messages": (submitting("Hi", messages=[USER]), "not prompt and messages"),
    "an empty prompt": (submitting(""), "prompt: String should have at least 1 character"),
    "a list of prompts": (submitting(["Hi", "Ho"]), "prompt: it takes one text: give a chat as messages"),
    "bytes": (submitting(b"Hi"), "prompt: bytes are no text: decode them"),
    "a Decimal": (
        submitting("Hi", top_p=decimal.Decimal("0.9")),
        "top_p: a Decimal is no number, text or list: convert it",
    ),
    "temperature='hot'": (submitting("Hi", temperature="hot"), "temperature: Input should be a valid number"),
    "temperature=-1": (
        submitting("Hi", temperature=-1),
        "temperature: Input should be greater than or equal to 0",
    ),
    "temperature=nan": (submitting("Hi", temperature=float("nan")), "temperature: "),
    "top_p=0": (submitting("Hi", top_p=0), "top_p: Input should be greater than 0"),
    "max_new_tokens=0": (
        submitting("Hi", max_new_tokens=0),
        "max_new_tokens: Input should be greater than or equal",
    ),
    "max_new_tokens=2.5": (
        submitting("Hi", max_new_tokens=2.5),
        "max_new_tokens: Input should be a valid integer",
    ),
    "stop=['']": (submitting("Hi", stop=[""]), "stop.0: String should have at least 1 character"),
    "a role of its own": (
        submitting(messages=[{"role": "bot", "content": "Hi"}]),
        "messages.0.role: Input should be",
    ),
    "no turns": (submitting(messages=[]), "messages: it should have at least 1 item, not 0"),
    "a turn without content": (submitting(messages=[{"role": "user"}]), "messages.0.content: it is missing"),
    "a turn with a name": (
        submitting(messages=[{**USER, "name": "Ann"}]),
        "messages.0.name: there is no such field",
    ),
    "priority='urgent'": (
        submitting("Hi", priority="urgent"),
        "priority: Input should be 'high', 'normal' or 'low'",
    ),
    "timeout_s='10'": (submitting("Hi", timeout_s="10"), "timeout_s: Input should be a valid integer"),
    "a timedelta": (submitting("Hi", timeout_s=dt.timedelta(seconds=5)), "timeout_s: Input should be"),
    "queue_ttl_s=inf": (submitting("Hi", queue_ttl_s=float("inf")), "queue_ttl_s: Input should be"),
    # names
    "a model of the Hub": (
        submitting("Hi", model="Qwen/Qwen2-7B"),
        "is not valid: an id or a folder is none; give the name",
    ),
    "a queue of RQ's": (submitting("Hi", model="tiny.high"), "no .high or .low at its end"),
    "a job id with a colon": (
        submitting("Hi", job_id="user:1"),
        "job id 'user:1' is not valid: use 1 to 128 letters",
    ),
    "a cursor": (asking("stream", "a", "yesterday"), "event id 'yesterday' is not valid"),
    "timeout_s='60' of a wait": (asking("result", "a", "60"), "timeout_s must be a number of seconds"),
    # many at once
    "a row with a fault": (
        many(["a", {"prompt": "b", "temperature": "hot"}]),
        "requests[1]: invalid request: temper",
    ),
    "a row that is none": (
        many(["a", None]),
        "requests[1]: a request is a prompt, a mapping or a GenerationRequest",
    ),
    "a row with an option": (
        many([{"prompt": "a", "job_id": "x"}]),
        "requests[0]: job_id: it is no field of a request",
    ),
    "a row that is a pair": (many([("a", "b")]), "requests[0]: a request is a prompt, a mapping or"),
    "one string": (many("Hi"), "requests is one str: give a list of requests"),
    "one mapping": (many({"prompt": "Hi"}), "requests is one dict: give a list of requests"),
    "an option for all": (
        many(["a"], max_tokens=3),
        "invalid request: max_tokens: there is no such option: it is",
    ),
    "too few ids": (many(["a", "b"], job_ids=["x"]), "job_ids must be a list of 2 ids, one for each request"),
    "a generator of ids": (
        many(["a", "b"], job_ids=iter("x")),
        "job_ids must be a list of 2 ids, one for each request",
    ),
    "ids in pairs": (many(["a"], job_ids=[["x"]]), "job id"),
    "one id of many": (asking("cancel_many", "a"), "job_ids is no list of ids: give one, or cancel the one job"),
    "no id of many": (asking("cancel_many", None), "job_ids is no list of ids: give one"),
    "an id twice": (many(["a", "b"], job_ids=["x", "x"]), "job_ids must all differ, and 'x' is there twice"),
    # settings and URLs
    "redis_url without scheme": (setting(redis_url="localhost:6379"), "redis_url: "),
    "redis_url of HTTP": (setting(redis_url="http://localhost:6379"), "redis_url: it is not the URL of a Redis"),
    "a setting that is none": (setting(wait=5), "wait: there is no such option: did you mean wait_s?"),
    "result_ttl_s=0": (setting(result_ttl_s=0), "result_ttl_s: Input should be greater than 0"),
    "wait_s=nan": (setting(wait_s=float("nan")), "wait_s: Input should be greater than 0"),
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_answered_with_what_to_do(producer: Producer, client: FakeRedis, typed: str) -> None:
    make, said = MISTAKES[typed]

    with pytest.raises(InvalidRequest) as refused:
        make(producer)

    assert said in str(refused.value)
    assert ("requests[" in said) == ("requests[" in str(refused.value))
    assert (refused.value.code, bool(refused.value.hint)) == ("invalid_request", True)
    assert "Field required" not in str(refused.value)
    assert "Extra inputs" not in str(refused.value)
    assert "after validation" not in str(refused.value)
    assert client.keys() == []


def test_a_row_that_is_too_large_is_named(producer: Producer) -> None:
    with pytest.raises(PromptTooLong, match=r"^requests\[1\]: the request takes \d+ bytes"):
        producer.submit_many(["a", "语" * 3_000_000], model="tiny")


@pytest.mark.parametrize("operation", ["result", "stream", "status", "cancel"])
def test_an_unknown_job_is_told_at_the_call(producer: Producer, operation: str) -> None:
    """Of a stream, too, and not when its first event is asked for."""
    with pytest.raises(NoSuchJob, match="never submitted") as refused:
        getattr(producer, operation)("unknown")

    assert (refused.value.code, refused.value.job_id) == ("no_such_job", "unknown")
    assert "prefix" in refused.value.hint


def test_a_conflict_names_the_job(producer: Producer) -> None:
    producer.submit("Hi", model="tiny", job_id="mine")

    with pytest.raises(JobConflict) as refused:
        producer.submit("Ho", model="tiny", job_id="mine")

    assert (refused.value.job_id, refused.value.hint) == ("mine", "choose another job_id")


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"stop": "END"}, {"stop": ["END"]}),
        ({"stop": ("END", "###")}, {"stop": ["END", "###"]}),
        ({"max_new_tokens": np.int64(3)}, {"max_new_tokens": 3}),
        ({"temperature": np.float32(0.5)}, {"temperature": 0.5}),
        ({"ignore_eos": np.bool_(True)}, {"ignore_eos": True}),
        ({"seed": np.array(7)}, {"seed": 7}),
        ({"prompt": None, "prompt_token_ids": np.arange(1, 4)}, {"prompt": None, "prompt_token_ids": [1, 2, 3]}),
        ({"prompt": None, "prompt_token_ids": [np.int32(1)]}, {"prompt": None, "prompt_token_ids": [1]}),
        ({"timeout_s": np.int64(30), "queue_ttl_s": np.float32(60), "max_queued": np.int8(5)}, {}),
    ],
)
def test_what_is_meant_is_taken(
    producer: Producer, client: FakeRedis, given: dict[str, Any], sent: dict[str, Any]
) -> None:
    handle = producer.submit(**{"prompt": "Hi", "model": "tiny", **given})

    request = Job.fetch(handle.job_id, connection=client, serializer=JSONSerializer).kwargs["request"]
    assert request == {name: value for name, value in {"prompt": "Hi", **sent}.items() if value is not None}


@pytest.mark.parametrize("value", [np.float32(2.5), np.array([1, 2]), np.float32("nan"), np.bool_(True)])
def test_what_numpy_means_otherwise_is_refused_by_its_name(producer: Producer, value: object) -> None:
    with pytest.raises(InvalidRequest, match="max_new_tokens: Input should be"):
        producer.submit("Hi", model="tiny", max_new_tokens=value)  # type: ignore[arg-type]
