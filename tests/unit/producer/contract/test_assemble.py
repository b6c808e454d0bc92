"""What a job's events add up to."""

from hypothesis import given, strategies as st

from producer.contract import (
    ErrorInfo,
    EventId,
    Started,
    StartedData,
    StreamedEvent,
    Tokens,
    TokensData,
    UnknownEvent,
    Usage,
)
from producer.contract.assemble import assemble

from .strategies import tokens


def _started(attempt: int, worker: str, resumed: int = 0) -> Started:
    data = StartedData(
        attempt=attempt, worker=worker, model="tiny", prompt_tokens=5, resumed_tokens=resumed, seed=42
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


@given(st.lists(tokens))
def test_events_with_and_without_ids_amount_to_the_same(events: list[Tokens]) -> None:
    streamed = [StreamedEvent(EventId(1, seq), event) for seq, event in enumerate(events)]

    bare = assemble("job", "tiny", events, status="finished", finish_reason="length")

    assert bare == assemble("job", "tiny", streamed, status="finished", finish_reason="length")
    assert bare.text == "".join(event.data.text for event in events)
