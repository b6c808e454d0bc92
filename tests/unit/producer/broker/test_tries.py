"""Which errors are worth another try, and that the tries end with their bound."""

import time

import pytest
import redis
from redis import exceptions

from producer.broker.tries import REFUSED_S, Tries

ANSWER_S, CONNECT_S = 100.0, 50.0


def tries(**options: object) -> Tries:
    return Tries(**{"answer_s": ANSWER_S, "connect_s": CONNECT_S, "deadline": None, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ReadOnlyError("You can't write against a read only replica."),
        exceptions.ResponseError("READONLY You can't write against a read only replica. script: x"),
        exceptions.ResponseError("UNBLOCKED force unblock from blocking operation, instance state changed"),
        exceptions.MasterDownError("Link with MASTER is down"),
        exceptions.ResponseError("MASTERDOWN Link with MASTER is down"),
        exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
        redis.sentinel.MasterNotFoundError("No master found for 'main'"),
    ],
)
def test_what_a_fail_over_or_a_start_brings_is_tried_until_the_bound(
    error: redis.RedisError, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tries()
    began = time.monotonic()

    assert made.delay_s(error) is not None
    monkeypatch.setattr(time, "monotonic", lambda: began + 0.9 * ANSWER_S)
    assert made.delay_s(error) is not None
    monkeypatch.setattr(time, "monotonic", lambda: began + ANSWER_S)
    assert made.delay_s(error) is None


def test_a_server_that_refuses_connections_is_tried_for_as_long_as_a_restart_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, error = tries(), exceptions.ConnectionError("Error 111 connecting")
    began = time.monotonic()

    assert made.delay_s(error) is not None
    monkeypatch.setattr(time, "monotonic", lambda: began + 2 * REFUSED_S)
    assert made.delay_s(error) is None


@pytest.mark.parametrize(
    "error",
    [
        exceptions.TimeoutError("Timeout reading from socket"),  # it has used up the bound
        exceptions.AuthenticationError("invalid username-password pair"),
        exceptions.NoPermissionError("no permissions"),
        exceptions.ResponseError("DB index is out of range"),
        exceptions.ConnectionError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"),
    ],
)
def test_what_will_not_pass_is_tried_once(error: redis.RedisError) -> None:
    assert tries().delay_s(error) is None


def test_a_client_with_retries_of_its_own_is_not_tried_again() -> None:
    error = exceptions.ConnectionError("Error 111 connecting")

    assert tries(sits_out_outages=False).delay_s(error) is None


def test_the_callers_deadline_comes_first_and_connecting_is_bounded_by_itself() -> None:
    deadline = time.monotonic() + 10

    assert tries(deadline=deadline).bound.answer_by == deadline
    assert tries(deadline=deadline).bound.connect_by == deadline
    bound = tries().bound
    assert bound.answer_by - bound.connect_by == pytest.approx(ANSWER_S - CONNECT_S)


def test_each_try_has_time_to_make_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that loads hangs up, and one that was demoted is left: each try needs a new one."""
    made = tries()
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began + 60)
    with made.attempt() as bound, bound.connecting():
        assert bound.left_s == pytest.approx(ANSWER_S - 60, abs=1)
    monkeypatch.setattr(time, "monotonic", lambda: began + 40)
    with made.attempt() as bound, bound.connecting():
        assert bound.left_s == CONNECT_S


def test_the_delays_grow_and_stay_bounded() -> None:
    made, error = tries(), exceptions.BusyLoadingError("loading")
    delays = [made.delay_s(error) for _ in range(10)]

    assert delays == sorted(delays)  # type: ignore[type-var]
    assert delays[-1] == 0.5


def test_a_last_try_that_is_cut_short_does_not_hide_what_the_others_said() -> None:
    made = tries()
    refusal, cut_short = exceptions.ReadOnlyError("read only replica"), exceptions.TimeoutError("Timeout")

    assert made.reason(cut_short) is cut_short
    made.delay_s(refusal)
    made.delay_s(cut_short)
    assert made.reason(cut_short) is refusal
    other = exceptions.ResponseError("other")
    assert made.reason(other) is other
