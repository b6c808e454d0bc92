"""What a job's events add up to."""

import json

import pytest
from hypothesis import given, strategies as st

from producer.contract import (
    ErrorInfo,
    EventId,
    FinishReason,
    FunctionCall,
    Markup,
    Started,
    StartedData,
    StreamedEvent,
    Tokens,
    TokensData,
    ToolCall,
    UnknownEvent,
    Usage,
)
from producer.contract.assemble import assemble
from producer.contract.views.message_view import call_id

from .strategies import tokens


def _started(attempt: int, worker: str, resumed: int = 0, markup: Markup | None = None) -> Started:
    data = StartedData(
        attempt=attempt,
        worker=worker,
        model="tiny",
        prompt_tokens=5,
        resumed_tokens=resumed,
        seed=42,
        markup=markup,
    )
    return Started(data=data)


def _tokens(index: int, ids: tuple[int, ...], text: str) -> Tokens:
    return Tokens(data=TokensData(index=index, ids=ids, text=text))


def test_tokens_of_all_attempts_are_joined_and_the_last_worker_is_named() -> None:
    events = [
        _started(1, "w1"),
        _tokens(0, (7, 8), "Hello"),
        _started(3, "w3", resumed=2),
        _tokens(2, (9,), ", you"),
    ]

    result = assemble("job", "tiny", events, status="finished", finish_reason="stop", cached_tokens=4)

    assert result.text == "Hello, you"
    assert result.token_ids == (7, 8, 9)
    assert result.usage == Usage(prompt_tokens=5, completion_tokens=3, cached_tokens=4)
    assert (result.seed, result.attempts, result.worker) == (42, 3, "w3")


def test_events_of_a_later_version_add_nothing() -> None:
    known = [StreamedEvent(EventId(1, 0), _started(1, "w1")), StreamedEvent(EventId(1, 2), _tokens(0, (7,), "a"))]
    with_unknown = [known[0], UnknownEvent(EventId(1, 1), "planned", "{}"), known[1]]

    result = assemble("job", "tiny", with_unknown, status="finished", finish_reason="stop")

    assert result == assemble("job", "tiny", known, status="finished", finish_reason="stop")


def test_a_job_that_no_worker_took_has_no_attempts() -> None:
    result = assemble("job", "tiny", [], status="cancelled", finish_reason="cancelled")

    assert (result.attempts, result.worker, result.seed, result.text) == (0, None, None, "")


def test_a_failed_job_keeps_its_text_and_says_why() -> None:
    error = ErrorInfo(code="timeout", message="raise timeout_s")

    result = assemble(
        "job", "tiny", [_tokens(0, (1,), "so far")], status="failed", finish_reason="error", error=error, seed=0
    )

    assert (result.text, result.error, result.seed) == ("so far", error, 0)


CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
CALLED = (ToolCall(id=call_id("job", 0), function=FunctionCall(name="f", arguments='{"a": 1}')),)
TOOLS = Markup(tool_calls="hermes")


def test_a_call_that_two_attempts_have_written_is_one() -> None:
    events = [
        _started(1, "w1", markup=TOOLS),
        _tokens(0, (7,), "See: " + CALL[:14]),
        _started(2, "w2", resumed=1, markup=TOOLS),
        _tokens(1, (8,), CALL[14:]),
    ]

    result = assemble("job", "tiny", events, status="finished", finish_reason="stop")

    assert (result.text, result.content, result.tool_calls) == ("See: " + CALL, "See:", CALLED)
    assert result.finish_reason == "tool_calls"
    assert result.message.content == "See:"
    assert result.message.tool_calls[0].id == CALLED[0].id


@pytest.mark.parametrize("reason", ["length", "cancelled", "error"])
def test_a_job_that_was_cut_ends_as_it_did_also_behind_a_call(reason: FinishReason) -> None:
    events = [_started(1, "w1", markup=TOOLS), _tokens(0, (7,), CALL)]

    result = assemble("job", "tiny", events, status="failed", finish_reason=reason)

    assert (result.finish_reason, result.tool_calls) == (reason, CALLED)


@pytest.mark.parametrize("markup", [None, Markup(reasoning="think")])
def test_a_job_without_tools_has_no_calls_and_its_text_is_its_content(markup: Markup | None) -> None:
    events = [_started(1, "w1", markup=markup), _tokens(0, (7,), CALL), _started(2, "w2", markup=TOOLS)]

    result = assemble("job", "tiny", events, status="finished", finish_reason="stop")

    assert (result.finish_reason, result.tool_calls, result.reasoning, result.content) == (
        "stop",
        None,
        None,
        None,
    )
    assert not {"tool_calls", "reasoning", "content"} & json.loads(result.model_dump_json()).keys()
    assert result.message.content == CALL


@given(st.lists(tokens))
def test_events_with_and_without_ids_amount_to_the_same(events: list[Tokens]) -> None:
    streamed = [StreamedEvent(EventId(1, seq), event) for seq, event in enumerate(events)]

    bare = assemble("job", "tiny", events, status="finished", finish_reason="length")

    assert bare == assemble("job", "tiny", streamed, status="finished", finish_reason="length")
    assert bare.text == "".join(event.data.text for event in events)
