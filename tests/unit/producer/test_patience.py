"""How long a wait goes on, on a clock that a test turns."""

import math

import pytest

from producer import EventId, InvalidRequest
from producer.patience import CONFIRM_S, GRACE_S, LOOK_EVERY_S, LOOKS, Patience, Stand

from .conftest import Clock

IN_LINE, UNSERVED, RUNNING = Stand("in line"), Stand("unserved"), Stand("running", "1-0")


@pytest.fixture(autouse=True)
def _begin_at_1000(clock: Clock) -> None:
    clock.now = 1000.0


def looks(patience: Patience, clock: Clock, stand: Stand) -> bool:
    """Wait until the next look is due, and tell how the job stands then."""
    clock.turn(patience.left_s)
    return patience.goes_on(stand)


def test_a_job_in_line_is_waited_for_as_long_as_it_may_live(clock: Clock) -> None:
    patience = Patience(None, wait_s=60)
    patience.learn(3600, UNSERVED)

    for _ in range(60):
        assert looks(patience, clock, IN_LINE)
    assert not looks(patience, clock, IN_LINE)
    assert clock.now == 1000 + 3600 + GRACE_S


def test_a_queue_that_nobody_serves_is_waited_in_for_wait_s(clock: Clock) -> None:
    patience = Patience(None, wait_s=20)
    patience.learn(3600, UNSERVED)

    assert not looks(patience, clock, UNSERVED)
    assert (clock.now, patience.waited_s) == (1020, 20)


def test_a_worker_that_has_gone_may_come_back_within_wait_s(clock: Clock) -> None:
    patience = Patience(None, wait_s=20)

    assert [looks(patience, clock, stand) for stand in (IN_LINE, UNSERVED, IN_LINE, UNSERVED, UNSERVED)] == [
        *(True, True, True, True),
        False,
    ]


def test_a_job_that_runs_and_says_something_is_waited_for_beyond_its_life(clock: Clock) -> None:
    """It may have been taken over by another worker, whose time counts anew."""
    patience = Patience(None, wait_s=20)
    patience.learn(30, UNSERVED)

    for seq in range(20):
        assert looks(patience, clock, Stand("running", f"1-{seq}"))
    assert not all(looks(patience, clock, Stand("running", "1-19")) for _ in range(LOOKS))


def test_silence_counts_from_the_last_event(clock: Clock) -> None:
    patience = Patience(None, wait_s=20)
    clock.turn(15)
    patience.heard(EventId(1, 0))
    clock.turn(15)

    assert patience.left_s == 5
    assert not looks(patience, clock, RUNNING)


def test_a_silence_longer_than_a_look_is_bounded_exactly(clock: Clock) -> None:
    patience = Patience(None, wait_s=3 * LOOK_EVERY_S)
    patience.learn(math.inf, UNSERVED)

    assert [looks(patience, clock, UNSERVED) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("wait_s", [61, 75, 90, 119, 150])
@pytest.mark.parametrize("stand", [UNSERVED, RUNNING])
def test_a_silence_that_is_no_multiple_of_a_look_is_bounded_exactly(
    clock: Clock, wait_s: float, stand: Stand
) -> None:
    patience = Patience(None, wait_s)
    patience.learn(math.inf, stand)

    while looks(patience, clock, stand):
        pass
    assert clock.now == pytest.approx(1000 + wait_s)


@pytest.mark.parametrize("wait_s", [20, 60, 90])
@pytest.mark.parametrize("last_event_s", [1, 19])
def test_silence_counts_from_the_last_event_also_where_only_looks_tell_of_it(
    clock: Clock, wait_s: float, last_event_s: float
) -> None:
    """As in a wait for the end alone."""
    patience = Patience(None, wait_s)
    patience.learn(math.inf, Stand("running", "1-0"))

    stand = Stand("running", "1-0")
    while patience.goes_on(stand):
        clock.turn(patience.left_s)
        stand = Stand("running", "1-1" if clock.now >= 1000 + last_event_s else "1-0")
    assert wait_s <= clock.now - 1000 - last_event_s <= wait_s + wait_s / LOOKS


def test_whoever_hears_the_events_looks_no_more_often_than_needed(clock: Clock) -> None:
    patience = Patience(None, wait_s=60)
    patience.learn(math.inf, RUNNING)
    patience.heard(EventId(1, 0))

    assert patience.left_s == 60


def test_an_outage_at_every_second_look_does_not_make_a_wait_endless(clock: Clock) -> None:
    patience = Patience(None, wait_s=60)
    patience.learn(math.inf, RUNNING)

    stands = [Stand("unknown"), RUNNING] * 20
    assert not all(looks(patience, clock, stand) for stand in stands)


def test_what_nobody_could_say_during_an_outage_is_no_silence(clock: Clock) -> None:
    patience = Patience(None, wait_s=60)
    patience.learn(math.inf, RUNNING)
    clock.turn(50)
    assert patience.goes_on(Stand("unknown"))
    clock.turn(40)

    assert patience.goes_on(RUNNING)
    assert patience.left_s == pytest.approx(10)


def test_an_outage_that_lasts_ends_a_wait(clock: Clock) -> None:
    patience = Patience(None, wait_s=60)
    patience.learn(math.inf, IN_LINE)

    assert looks(patience, clock, Stand("unknown"))
    assert not looks(patience, clock, Stand("unknown"))


def test_a_job_that_waits_for_another_outlives_its_own_queue_ttl(clock: Clock) -> None:
    patience = Patience(None, wait_s=60)
    patience.learn(60, UNSERVED)

    assert all(looks(patience, clock, Stand("later")) for _ in range(100))


@pytest.mark.parametrize("stand", [IN_LINE, UNSERVED, RUNNING, Stand("later"), Stand("unknown")])
def test_a_bound_of_the_callers_is_kept_whatever_the_job_does(clock: Clock, stand: Stand) -> None:
    patience = Patience(150, wait_s=10)
    patience.learn(5, UNSERVED)

    while looks(patience, clock, stand):
        pass
    assert (clock.now, patience.waited_s) == (1150, 150)


def test_no_bound_is_none(clock: Clock) -> None:
    patience = Patience(float("inf"), wait_s=10)
    patience.learn(5, UNSERVED)

    assert all(looks(patience, clock, UNSERVED) for _ in range(1000))
    assert patience.answer_by == math.inf


def test_a_wait_s_without_end_still_looks_now_and_then(clock: Clock) -> None:
    patience = Patience(None, wait_s=math.inf)

    assert patience.left_s == LOOK_EVERY_S
    assert all(looks(patience, clock, RUNNING) for _ in range(1000))


def test_a_job_that_seems_lost_is_looked_at_once_more_soon(clock: Clock) -> None:
    patience, lost = Patience(None, wait_s=60), Stand("lost")
    patience.learn(3600, lost)

    assert patience.left_s == CONFIRM_S
    assert patience.confirms(lost)
    assert not patience.confirms(Stand("lost", "1-0"))


def test_a_wait_of_no_time_has_time_for_one_answer(clock: Clock) -> None:
    patience = Patience(0, wait_s=60)

    assert patience.left_s == 0
    assert patience.answer_by == pytest.approx(1000.4)
    assert not patience.goes_on(IN_LINE)


@pytest.mark.parametrize("timeout_s", [-1, float("nan"), "60", "soon", [60], object()])
def test_what_is_no_time_is_refused(timeout_s: object) -> None:
    with pytest.raises(InvalidRequest, match="timeout_s must be a number of seconds, from 0; inf waits"):
        Patience(timeout_s, wait_s=60)  # type: ignore[arg-type]
