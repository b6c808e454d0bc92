"""The events of a stream: each survives the wire, and their ids are ordered as Redis orders them."""

import json

import pytest
import redis
from fakeredis import FakeRedis, FakeServer
from hypothesis import given, strategies as st

from producer.contract import (
    EngineFacts,
    Event,
    EventId,
    GenerationRequest,
    GenerationResult,
    InvalidRequest,
    JobCancelled,
    JobError,
    Started,
    StartedData,
    StreamedEvent,
    Tokens,
    TokensData,
    UnknownEvent,
    encode_entry,
    mirror_json,
    parse_entry,
    tokens_json,
)
from producer.contract.errors import OutOfMemory

from .strategies import event_ids, events, results, texts


@given(event_ids, events)
def test_every_event_survives_the_wire(event_id: EventId, event: Event) -> None:
    fields = {name.encode(): value.encode() for name, value in encode_entry(event).items()}

    assert parse_entry(str(event_id).encode(), fields) == StreamedEvent(event_id, event)


@given(results)
def test_every_result_survives_the_wire(result: GenerationResult) -> None:
    assert GenerationResult.model_validate_json(result.model_dump_json()) == result


@given(event_ids, events)
def test_the_mirror_is_json_with_id_type_and_data(event_id: EventId, event: Event) -> None:
    mirrored = json.loads(StreamedEvent(event_id, event).to_json())

    assert list(mirrored) == ["id", "type", "data"]
    assert mirrored["id"] == str(event_id)
    assert mirrored["type"] == event.type
    assert mirrored["data"] == json.loads(encode_entry(event)["data"])


@given(event_ids, event_ids)
def test_ids_are_ordered_as_redis_orders_them(one: EventId, other: EventId) -> None:
    client = FakeRedis(server=FakeServer(server_type="redis", version=(7, 4)))
    for event_id in sorted({one, other}):
        client.xadd("stream", {"a": "b"}, id=str(event_id))  # Redis refuses an id that is not above the last

    assert [EventId.parse(entry_id) for entry_id, _ in client.xrange("stream")] == sorted({one, other})


@pytest.mark.parametrize(
    "text", ["", "1", "1-", "-1", "1-7 ", "1--7", "a-b", "1-7-9", "$", "+", f"{2**64}-1", f"1-{2**64}"]
)
def test_what_is_no_event_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="<attempt>-<seq>"):
        EventId.parse(text)


def test_whatever_redis_takes_for_an_id_is_one(redis_client: redis.Redis) -> None:
    """Whoever reads a stream has to be able to read what anybody may have put there."""
    redis_client.xadd("stream", {"a": "b"}, id=f"{2**64 - 1}-{2**64 - 1}")

    assert [EventId.parse(entry_id) for entry_id, _ in redis_client.xrange("stream")] == [(2**64 - 1, 2**64 - 1)]


def test_a_tokens_event_without_logprobs_does_not_spend_bytes_on_them() -> None:
    entry = encode_entry(Tokens(data=TokensData(index=0, ids=(1,), text="a")))

    assert entry["data"] == '{"index":0,"ids":[1],"text":"a"}'


@pytest.mark.parametrize("event_type", ["planned", 'a"b', "ende\n", ""])
def test_an_event_of_a_later_version_has_its_place_and_is_mirrored_as_json(event_type: str) -> None:
    event = parse_entry(b"1-4", {b"type": event_type.encode(), b"data": b'{"a": 1}'})

    assert event == UnknownEvent(EventId(1, 4), event_type, '{"a": 1}')
    assert not event.is_terminal
    assert json.loads(mirror_json("1-4", event_type, '{"a": 1}')) == {
        "id": "1-4",
        "type": event_type,
        "data": {"a": 1},
    }


def _with_more(value: object) -> object:
    """What a later version would write: every object of it has a field more."""
    if isinstance(value, dict):
        return {**{name: _with_more(item) for name, item in value.items()}, "of_a_later_version": [None, {}]}
    return [_with_more(item) for item in value] if isinstance(value, list) else value


@given(events)
def test_fields_of_a_later_version_are_passed_over_wherever_they_stand(event: Event) -> None:
    fields = encode_entry(event)
    later = json.dumps(_with_more(json.loads(fields["data"])))

    assert parse_entry("1-0", {b"type": fields["type"].encode(), b"data": later.encode()}) == StreamedEvent(
        EventId(1, 0), event
    )


@given(results)
def test_fields_of_a_later_version_in_a_result_are_passed_over(result: GenerationResult) -> None:
    later = _with_more(result.model_dump(mode="json"))

    assert GenerationResult.model_validate(later) == result


def test_words_of_a_later_version_are_read_as_they_are() -> None:
    result = _result(status="paused", finish_reason="tool", error={"code": "quota", "message": "pay"})

    assert (result.status, result.finish_reason) == ("paused", "tool")
    with pytest.raises(JobError, match="pay") as raised:
        result.raise_for_status()
    assert raised.value.code == "quota"
    assert GenerationResult.model_validate_json(result.model_dump_json()) == result


def test_an_end_of_a_later_version_is_no_success() -> None:
    with pytest.raises(JobError, match="ended as 'paused'"):
        _result(status="paused", finish_reason="tool").raise_for_status()


@pytest.mark.parametrize("data", ['{"index":0,"ids":[],"text":"a"},"x":1', '"a"', "[]", "null", "{}", ""])
def test_data_that_is_no_event_of_its_type_is_refused(data: str) -> None:
    with pytest.raises(ValueError, match="validation error"):
        parse_entry(b"1-0", {b"type": b"tokens", b"data": data.encode()})


def _result(**fields: object) -> GenerationResult:
    plain = {"job_id": "a", "model": "tiny", "status": "finished", "finish_reason": "stop"}
    return GenerationResult.model_validate({**plain, **fields})


def test_raise_for_status_returns_a_finished_result() -> None:
    result = _result()

    assert result.raise_for_status() is result


def test_raise_for_status_raises_the_error_of_the_code() -> None:
    failed = _result(
        status="failed", finish_reason="error", error={"code": "out_of_memory", "message": "shorten it"}
    )

    with pytest.raises(OutOfMemory, match="shorten it"):
        failed.raise_for_status()
    with pytest.raises(JobCancelled, match="job a was cancelled"):
        _result(status="cancelled", finish_reason="cancelled").raise_for_status()


def test_an_attempt_that_does_not_say_what_it_runs_on_has_no_such_field() -> None:
    started = StartedData(attempt=1, worker="w", model="tiny", prompt_tokens=3, seed=7)

    assert "runs_on" not in encode_entry(Started(data=started))["data"]


@pytest.mark.parametrize(
    ("runs_on", "read"),
    [
        ({"device": "a card", "driver": 590}, EngineFacts(device="a card")),
        ({"device": 5}, None),
        ("a card", None),
        (None, None),
    ],
)
def test_what_an_attempt_runs_on_may_be_of_any_form(runs_on: object, read: EngineFacts | None) -> None:
    """Nothing depends on it: a form that is not known must not keep a job from being gone on with."""
    data = {"attempt": 1, "worker": "w", "model": "tiny", "prompt_tokens": 3, "seed": 7, "runs_on": runs_on}
    streamed = parse_entry(b"1-0", {b"type": b"started", b"data": json.dumps(data).encode()})

    assert isinstance(streamed, StreamedEvent)
    assert streamed.event == Started(data=StartedData(**{**data, "runs_on": read}))


@given(st.integers(0, 2**31), st.lists(st.integers(0, 2**31), max_size=5), texts)
def test_the_short_way_to_a_tokens_event_gives_the_same_bytes(index: int, ids: list[int], text: str) -> None:
    event = Tokens(data=TokensData(index=index, ids=tuple(ids), text=text))

    assert tokens_json(index, ids, text) == encode_entry(event)["data"]


def test_a_call_in_a_form_of_a_later_version_is_told_as_it_is() -> None:
    """Neither its id nor its name would be taken in a request of today."""
    call = {"id": "a" * 65, "function": {"name": "ein Wetter", "arguments": "{}", "new": 1}}
    fields = {"job_id": "a", "status": "finished", "model": "tiny", "finish_reason": "stop", "tool_calls": [call]}

    message = GenerationResult.model_validate(fields).message

    assert message.tool_calls[0].function.name == "ein Wetter"
    with pytest.raises(InvalidRequest, match="a function's name is 1 to 64"):
        GenerationRequest.parse({"messages": [message.model_dump()]})
