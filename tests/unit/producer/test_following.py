"""Cursors and inboxes: no gap, no repeat, no unbounded inbox, and a wake only where a read would miss one."""

import threading
from collections import deque

import pytest

from producer.cold_streams import CHECK_AT_MOST, CHECK_EVERY_S, CHECKS_PER_S
from producer.contract import (
    BEFORE_FIRST,
    BrokerUnavailable,
    Event,
    EventId,
    Finished,
    GenerationResult,
    GenqueueError,
    Keys,
    StreamedEvent,
    Tokens,
    TokensData,
    encode_entry,
)
from producer.following import READ_COUNT, Entries, Subscriptions
from producer.subscription import INBOX_LIMIT, RESUME_AT, Subscription

KEYS = Keys()


@pytest.fixture
def subscriptions() -> Subscriptions:
    return Subscriptions(KEYS, "me")


def _subscription(job_id: str = "a", cursor: EventId = BEFORE_FIRST) -> Subscription:
    return Subscription(job_id, cursor, threading.Event())


def _entry(seq: int, event: Event | None = None) -> tuple[bytes, dict[bytes, bytes]]:
    event = event or Tokens(data=TokensData(index=seq, ids=(seq,), text=str(seq)))
    return f"1-{seq}".encode(), {name.encode(): value.encode() for name, value in encode_entry(event).items()}


def _end(seq: int) -> tuple[bytes, dict[bytes, bytes]]:
    result = GenerationResult(job_id="a", model="tiny", status="finished", finish_reason="stop")
    return _entry(seq, Finished(data=result))


def _reply(job_id: str, entries: Entries) -> list[tuple[bytes, Entries]]:
    return [(KEYS.events(job_id).encode(), entries)]


def _seqs(subscription: Subscription) -> list[int]:
    return [event.id.seq for event in subscription.inbox]


def _drain(subscription: Subscription) -> None:
    subscription.inbox.clear()


def test_nothing_to_follow_is_nothing_to_read(subscriptions: Subscriptions) -> None:
    assert subscriptions.next_read() == {}


def test_each_stream_is_read_from_its_cursor_beside_the_wake_stream(subscriptions: Subscriptions) -> None:
    subscriptions.add(_subscription("a"))
    subscriptions.add(_subscription("b", EventId(2, 7)))

    assert subscriptions.next_read() == {
        KEYS.events("a"): "0-0",
        KEYS.events("b"): "2-7",
        KEYS.wake("me"): "0-0",
    }


def test_the_cursor_moves_on_with_what_was_delivered(subscriptions: Subscriptions) -> None:
    subscription = _subscription()
    subscriptions.add(subscription)
    subscriptions.next_read()

    subscriptions.deliver(_reply("a", [_entry(0), _entry(1)]))

    assert _seqs(subscription) == [0, 1]
    assert subscription.signal.is_set()  # type: ignore[attr-defined]
    assert subscriptions.next_read()[KEYS.events("a")] == "1-1"


def test_two_subscribers_of_one_stream_each_see_what_is_new_to_them(subscriptions: Subscriptions) -> None:
    early, late = _subscription(), _subscription(cursor=EventId(1, 1))
    subscriptions.add(early)
    subscriptions.add(late)

    assert subscriptions.next_read()[KEYS.events("a")] == "0-0"
    subscriptions.deliver(_reply("a", [_entry(seq) for seq in range(4)]))

    assert (_seqs(early), _seqs(late)) == ([0, 1, 2, 3], [2, 3])


def test_a_stream_that_has_ended_is_not_read_any_more(subscriptions: Subscriptions) -> None:
    subscription = _subscription()
    subscriptions.add(subscription)
    subscriptions.next_read()

    subscriptions.deliver(_reply("a", [_entry(0), _end(1), _entry(2)]))

    assert _seqs(subscription) == [0, 1]
    assert subscriptions.next_read() == {}


def test_a_slow_subscriber_keeps_a_bounded_inbox_and_misses_nothing(subscriptions: Subscriptions) -> None:
    slow, quick = _subscription(), _subscription()
    subscriptions.add(slow)
    subscriptions.add(quick)
    events = [_entry(seq) for seq in range(3 * INBOX_LIMIT)]
    seen: list[int] = []

    while quick.cursor.seq + 1 < len(events):
        cursor = EventId.parse(subscriptions.next_read()[KEYS.events("a")])
        start = cursor.seq + 1 if cursor.attempt else 0
        subscriptions.deliver(_reply("a", events[start : start + READ_COUNT]))
        seen += _seqs(quick)
        _drain(quick)

    assert seen == list(range(3 * INBOX_LIMIT))
    assert _seqs(slow) == list(range(INBOX_LIMIT))

    _drain(slow)
    assert subscriptions.next_read()[KEYS.events("a")] == f"1-{INBOX_LIMIT - 1}"


class ShrinkingInbox(deque[StreamedEvent]):
    """An inbox whose subscriber takes an event right after it was seen to be full."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[StreamedEvent] = []

    def __len__(self) -> int:
        length = super().__len__()
        if length >= INBOX_LIMIT:
            self.taken.append(self.popleft())
        return length


def test_an_inbox_that_is_emptied_during_a_delivery_gets_no_gap(subscriptions: Subscriptions) -> None:
    """The subscriber's thread takes events without the hub's lock. The inbox was full for event 1024, which was
    left for later, and had room again for event 1025, which was put in: 1024 never came."""
    subscription = _subscription()
    subscription.inbox = inbox = ShrinkingInbox()
    subscriptions.add(subscription)
    subscriptions.next_read()

    subscriptions.deliver(_reply("a", [_entry(seq) for seq in range(INBOX_LIMIT + 50)]))

    seen = [event.id.seq for event in (*inbox.taken, *inbox)]
    assert seen == list(range(len(seen)))
    assert subscription.cursor.seq == len(seen) - 1


def test_a_subscriber_added_during_a_read_ends_it_once(subscriptions: Subscriptions) -> None:
    assert subscriptions.add(_subscription("a")) is False  # nobody reads yet
    subscriptions.next_read()

    assert subscriptions.add(_subscription("b")) is True
    assert subscriptions.add(_subscription("c")) is False  # the wake is on its way


def test_a_subscriber_whose_stream_is_being_read_from_before_its_cursor_ends_nothing(
    subscriptions: Subscriptions,
) -> None:
    subscriptions.add(_subscription("a", EventId(1, 5)))
    subscriptions.next_read()

    assert subscriptions.add(_subscription("a", EventId(1, 5))) is False
    assert subscriptions.add(_subscription("a", EventId(1, 4))) is True


def test_a_subscriber_that_comes_during_a_read_with_an_older_cursor_waits_for_its_own_read(
    subscriptions: Subscriptions,
) -> None:
    """The read began after 1-4. Served from it, the newcomer at 1-3 would never see 1-4."""
    subscriptions.add(_subscription("a", EventId(1, 4)))
    subscriptions.next_read()
    newcomer = _subscription("a", EventId(1, 3))
    subscriptions.add(newcomer)
    subscriptions.deliver(_reply("a", [_entry(5)]))
    assert _seqs(newcomer) == []

    subscriptions.next_read()
    subscriptions.deliver(_reply("a", [_entry(4), _entry(5)]))
    assert _seqs(newcomer) == [4, 5]


def test_after_a_reply_or_a_failure_there_is_no_read_to_end(subscriptions: Subscriptions) -> None:
    subscriptions.add(_subscription("a"))
    subscriptions.next_read()
    subscriptions.deliver([])
    assert subscriptions.add(_subscription("b")) is False

    subscriptions.next_read()
    subscriptions.read_failed()
    assert subscriptions.add(_subscription("c")) is False


def test_only_the_last_subscriber_ends_the_read_when_it_leaves(subscriptions: Subscriptions) -> None:
    one, other, third = _subscription("a"), _subscription("a"), _subscription("b")
    for subscription in (one, other, third):
        subscriptions.add(subscription)
    subscriptions.next_read()

    assert subscriptions.remove(one) is False
    assert subscriptions.remove(other) is False
    assert subscriptions.remove(third) is True
    assert subscriptions.next_read() == {}


def test_a_subscriber_that_caught_up_ends_a_read_that_leaves_it_out(subscriptions: Subscriptions) -> None:
    slow = _subscription("a")
    subscriptions.add(slow)
    subscriptions.add(_subscription("b"))
    subscriptions.next_read()
    subscriptions.deliver(_reply("a", [_entry(seq) for seq in range(INBOX_LIMIT)]))
    assert KEYS.events("a") not in subscriptions.next_read()

    while len(slow.inbox) > RESUME_AT:
        slow.inbox.popleft()

    assert subscriptions.resume(slow) is True
    assert KEYS.events("a") in subscriptions.next_read()
    assert subscriptions.resume(slow) is False


def test_the_wake_stream_has_a_cursor_of_its_own(subscriptions: Subscriptions) -> None:
    subscription = _subscription()
    subscriptions.add(subscription)
    subscriptions.next_read()

    subscriptions.deliver([(KEYS.wake("me").encode(), [(b"99-0", {b"wake": b""}), (b"100-0", {b"wake": b""})])])

    assert subscriptions.next_read()[KEYS.wake("me")] == "100-0"
    assert not subscription.inbox


def test_entries_for_somebody_who_left_are_dropped(subscriptions: Subscriptions) -> None:
    gone = _subscription()
    subscriptions.add(gone)
    subscriptions.next_read()
    subscriptions.remove(gone)

    subscriptions.deliver(_reply("a", [_entry(0)]))

    assert not gone.inbox


@pytest.mark.parametrize(
    "fields",
    [{}, {b"type": b"tokens"}, {b"type": b"tokens", b"data": b"{}"}, {b"type": b"\xff", b"data": b"{}"}],
)
def test_an_entry_that_is_no_event_fails_its_stream_and_no_other(
    subscriptions: Subscriptions, fields: dict[bytes, bytes]
) -> None:
    foreign, fine = _subscription("a"), _subscription("b")
    subscriptions.add(foreign)
    subscriptions.add(fine)
    subscriptions.next_read()

    subscriptions.deliver([*_reply("a", [_entry(0), (b"1-1", fields)]), *_reply("b", [_entry(0)])])

    assert _seqs(foreign) == [0]
    assert isinstance(foreign.error, GenqueueError)
    assert "1-1" in str(foreign.error)
    assert fine.error is None
    assert list(subscriptions.next_read()) == [KEYS.events("b"), KEYS.wake("me")]


@pytest.mark.parametrize("data", [b"{}", b'{"plan": ["a"]}'])
def test_an_event_of_a_later_version_is_passed_over_and_not_read_again(
    subscriptions: Subscriptions, data: bytes
) -> None:
    subscription = _subscription("a")
    subscriptions.add(subscription)
    subscriptions.next_read()

    subscriptions.deliver(_reply("a", [_entry(0), (b"1-1", {b"type": b"planned", b"data": data})]))

    assert _seqs(subscription) == [0]
    assert subscriptions.next_read()[KEYS.events("a")] == "1-1"

    subscriptions.deliver(_reply("a", [_entry(2)]))

    assert _seqs(subscription) == [0, 2]
    assert subscription.error is None


def test_an_error_reaches_every_subscriber(subscriptions: Subscriptions) -> None:
    one, other = _subscription("a"), _subscription("b")
    subscriptions.add(one)
    subscriptions.add(other)
    error = BrokerUnavailable("gone", hint="mend it")

    subscriptions.fail_all(error)

    assert one.signal.is_set()  # type: ignore[attr-defined]
    for subscription in (one, other):
        assert isinstance(subscription.error, BrokerUnavailable)
        assert (str(subscription.error), subscription.error.hint) == ("gone", "mend it")
        assert subscription.error.job_id == subscription.job_id


def test_an_error_that_many_raise_is_nobody_elses(subscriptions: Subscriptions) -> None:
    """One object would grow with each that raises it, and show where the others were."""
    one, other = _subscription("a"), _subscription("b")
    subscriptions.add(one)
    subscriptions.add(other)
    subscriptions.fail_all(RuntimeError("closed"))

    assert one.error is not None
    assert other.error is not None
    with pytest.raises(RuntimeError, match="closed"):
        raise one.error
    assert other.error.__traceback__ is None


def test_an_error_that_cannot_be_copied_reaches_all_the_same(subscriptions: Subscriptions) -> None:
    class Odd(Exception):
        def __init__(self, *, why: str) -> None:
            super().__init__(why)

    subscription = _subscription("a")
    subscriptions.add(subscription)
    subscriptions.fail_all(Odd(why="odd"))

    assert isinstance(subscription.error, Odd)


def test_an_entry_that_is_no_event_is_nothing_to_who_is_past_it(subscriptions: Subscriptions) -> None:
    early, late = _subscription("a", EventId(1, 0)), _subscription("a", EventId(1, 1))
    subscriptions.add(early)
    subscriptions.add(late)
    subscriptions.next_read()

    subscriptions.deliver(_reply("a", [(b"1-1", {}), _entry(2)]))

    assert isinstance(early.error, GenqueueError)
    assert (early.error.job_id, early.error.hint.partition(" ")[0]) == ("a", "use")
    assert (late.error, _seqs(late)) == (None, [2])


# --- waiting for nothing but ends -----------------------------------------------------------------------------


def _end_of(subscriptions: Subscriptions, job_id: str) -> Subscription:
    subscription = Subscription(job_id, BEFORE_FIRST, threading.Event(), only_end=True)
    subscriptions.add(subscription)
    return subscription


def _ends_of_many(subscriptions: Subscriptions, count: int = 11) -> list[Subscription]:
    return [_end_of(subscriptions, f"job-{number}") for number in range(count)]


def _streams(read: dict[str, str]) -> list[str]:
    return [key for key in read if key != KEYS.wake("me")]


def _announce(job_id: str, entry_id: bytes = b"5-0") -> list[tuple[bytes, Entries]]:
    return [(KEYS.wake("me").encode(), [(entry_id, {b"ended": job_id.encode()})])]


def test_who_waits_for_an_end_gets_that_and_no_other_event(subscriptions: Subscriptions) -> None:
    waiting = _end_of(subscriptions, "a")
    subscriptions.next_read()

    subscriptions.deliver(_reply("a", [_entry(0), _entry(1)]))
    assert not waiting.inbox
    assert not waiting.signal.is_set()  # type: ignore[attr-defined]
    assert _streams(subscriptions.next_read()) == [], "no event ends the read"

    subscriptions.deliver(_announce("a"))
    assert subscriptions.next_read()[KEYS.events("a")] == "1-1"
    subscriptions.deliver(_reply("a", [_end(2)]))
    assert _seqs(waiting) == [2]
    assert waiting.signal.is_set()  # type: ignore[attr-defined]


def test_an_event_names_no_stream_of_the_many_whose_end_is_waited_for(subscriptions: Subscriptions) -> None:
    """Each event sent the names of all of them again: 61 KiB at 1,000."""
    _ends_of_many(subscriptions, 1000)
    subscriptions.add(_subscription("followed"))
    subscriptions.next_read(now_s=100)  # looks at all of them
    subscriptions.deliver(_reply("followed", [_entry(0)]))

    assert list(subscriptions.next_read(now_s=100)) == [KEYS.events("followed"), KEYS.wake("me")]


def test_one_more_of_many_ends_no_read(subscriptions: Subscriptions) -> None:
    _ends_of_many(subscriptions)
    subscriptions.next_read(now_s=100)
    subscriptions.deliver([])
    subscriptions.next_read(now_s=100)

    assert subscriptions.add(Subscription("one-more", BEFORE_FIRST, threading.Event(), only_end=True)) is False


def test_an_end_that_is_announced_is_read_at_once(subscriptions: Subscriptions) -> None:
    waiting = _ends_of_many(subscriptions)
    subscriptions.next_read(now_s=100)
    subscriptions.deliver(_announce("job-3"))

    assert _streams(subscriptions.next_read(now_s=100)) == [KEYS.events("job-3")]
    subscriptions.deliver(_reply("job-3", [_entry(0)]))
    assert _streams(subscriptions.next_read(now_s=100)) == [KEYS.events("job-3")], "until its end is there"
    subscriptions.deliver(_reply("job-3", [_end(1)]))
    assert [each.job_id for each in waiting if each.ended] == ["job-3"]
    assert _streams(subscriptions.next_read(now_s=100)) == []


@pytest.mark.parametrize("job_id", ["unknown", "", "\N{SNOWMAN}"])
def test_an_announcement_of_no_job_of_ours_changes_nothing(subscriptions: Subscriptions, job_id: str) -> None:
    _ends_of_many(subscriptions)
    subscriptions.next_read(now_s=100)

    subscriptions.deliver(_announce(job_id))

    assert subscriptions.next_read(now_s=100) == {KEYS.wake("me"): "5-0"}


def test_ends_that_nobody_announces_are_found_in_turn(subscriptions: Subscriptions) -> None:
    count = 2 * CHECK_AT_MOST + 500
    _ends_of_many(subscriptions, count)
    seen: list[str] = []
    now_s = 100.0
    for _ in range(3):
        read = _streams(subscriptions.next_read(now_s))
        assert len(read) <= CHECK_AT_MOST
        seen += read
        subscriptions.deliver([])
        assert subscriptions.next_read(now_s) == {KEYS.wake("me"): "0-0"}, "not again at once"
        assert subscriptions.block_s(now_s, 1000.0) == pytest.approx(len(read) / CHECKS_PER_S)
        now_s += len(read) / CHECKS_PER_S

    assert set(seen) == {KEYS.events(f"job-{number}") for number in range(count)}


def test_the_blocked_read_ends_in_time_for_the_next_look(subscriptions: Subscriptions) -> None:
    _ends_of_many(subscriptions)
    subscriptions.next_read(now_s=100)

    assert subscriptions.block_s(100, 4.0) == CHECK_EVERY_S
    assert subscriptions.block_s(100.75, 4.0) == CHECK_EVERY_S - 0.75
    assert subscriptions.block_s(100, 0.5) == 0.5


def test_after_a_lost_connection_all_are_looked_at(subscriptions: Subscriptions) -> None:
    """What was announced meanwhile may be lost, and the wake stream begin anew."""
    _ends_of_many(subscriptions, CHECK_AT_MOST + 5)
    subscriptions.next_read(now_s=100)
    subscriptions.deliver(_announce("job-3"))
    subscriptions.next_read(now_s=100)
    subscriptions.read_failed()

    first, second = subscriptions.next_read(now_s=100), subscriptions.next_read(now_s=100)

    assert first[KEYS.wake("me")] == "0-0"
    both = {*_streams(first), *_streams(second)}
    assert both == {KEYS.events(f"job-{number}") for number in range(CHECK_AT_MOST + 5)}
    assert _streams(subscriptions.next_read(now_s=100)) == [KEYS.events("job-3")]


def test_a_look_that_finds_a_full_reply_is_followed_by_another(subscriptions: Subscriptions) -> None:
    _ends_of_many(subscriptions)
    subscriptions.next_read(now_s=100)
    subscriptions.deliver(_reply("job-1", [_entry(seq) for seq in range(READ_COUNT)]))

    assert subscriptions.next_read(now_s=100)[KEYS.events("job-1")] == f"1-{READ_COUNT - 1}"
    subscriptions.deliver(_reply("job-1", [_entry(READ_COUNT)]))
    assert _streams(subscriptions.next_read(now_s=100)) == []


def test_a_stream_that_somebody_follows_is_read_for_both(subscriptions: Subscriptions) -> None:
    _ends_of_many(subscriptions)
    follower = _subscription("job-1")
    subscriptions.add(follower)
    subscriptions.next_read(now_s=100)
    subscriptions.deliver([])
    assert _streams(subscriptions.next_read(now_s=100)) == [KEYS.events("job-1")]
    subscriptions.deliver(_announce("job-1"))  # heard while it was followed anyway

    subscriptions.remove(follower)

    assert _streams(subscriptions.next_read(now_s=100)) == [KEYS.events("job-1")], "looked at once more"
    subscriptions.deliver([])
    assert _streams(subscriptions.next_read(now_s=100)) == []


def test_when_the_last_of_many_has_left_there_is_nothing_to_read(subscriptions: Subscriptions) -> None:
    waiting = _ends_of_many(subscriptions)
    subscriptions.next_read(now_s=100)

    assert [subscriptions.remove(each) for each in waiting][-1] is True
    assert subscriptions.next_read(now_s=200) == {}


def _with_bell(subscriptions: Subscriptions, subscription: Subscription) -> str:
    """A stream whose bell hangs, and which was read since."""
    key = KEYS.events(subscription.job_id)
    subscriptions.add(subscription)
    subscriptions.hang_bell(key)
    subscriptions.next_read(BEFORE_CHECK)
    subscriptions.deliver([])
    return key


BEFORE_CHECK = -1.0
"""When no stream is looked at in turn yet."""


def test_a_stream_is_read_once_its_bell_hangs_and_whenever_it_rings(subscriptions: Subscriptions) -> None:
    subscription = _subscription("a")
    key = KEYS.events("a")
    subscriptions.add(subscription)
    subscriptions.next_read(BEFORE_CHECK)

    assert subscriptions.hang_bell(key)  # the read that names it is of before
    assert subscriptions.next_read(BEFORE_CHECK)[key] == "0-0"
    subscriptions.deliver(_reply("a", [_entry(0)]))
    assert subscriptions.next_read(BEFORE_CHECK) == {}
    subscriptions.ring(key)
    assert subscriptions.due_in_s(BEFORE_CHECK, 1.0) == 0
    assert subscriptions.next_read(BEFORE_CHECK)[key] == "1-0"


def test_a_bell_rings_for_nobody_once_the_stream_is_left(subscriptions: Subscriptions) -> None:
    subscription = _subscription("a")
    key = _with_bell(subscriptions, subscription)
    subscriptions.remove(subscription)
    assert not subscriptions.ring(key)
    assert not subscriptions.have_bells


def test_who_comes_later_to_a_stream_with_a_bell_has_it_read(subscriptions: Subscriptions) -> None:
    key = _with_bell(subscriptions, _subscription("a", EventId(1, 7)))
    subscriptions.add(_subscription("a", EventId(1, 3)))
    assert subscriptions.next_read(BEFORE_CHECK)[key] == "1-3"


def test_a_stream_with_a_bell_is_read_on_for_who_was_slow(subscriptions: Subscriptions) -> None:
    slow = _subscription("a")
    key = _with_bell(subscriptions, slow)
    for begin in range(0, 2 * INBOX_LIMIT, READ_COUNT):
        subscriptions.ring(key)
        subscriptions.next_read(BEFORE_CHECK)
        subscriptions.deliver(_reply("a", [_entry(seq) for seq in range(begin, begin + READ_COUNT)]))
    assert subscriptions.next_read(BEFORE_CHECK) == {}
    _drain(slow)
    subscriptions.resume(slow)
    assert subscriptions.next_read(BEFORE_CHECK)[key] == f"1-{INBOX_LIMIT - 1}"


def test_what_did_not_go_into_one_read_is_read_without_a_bell(subscriptions: Subscriptions) -> None:
    key = _with_bell(subscriptions, _subscription("a"))
    subscriptions.ring(key)
    subscriptions.next_read(BEFORE_CHECK)
    subscriptions.deliver(_reply("a", [_entry(seq) for seq in range(READ_COUNT)]))
    assert key in subscriptions.next_read(BEFORE_CHECK)


def test_streams_with_bells_are_read_again_after_a_read_that_failed(subscriptions: Subscriptions) -> None:
    key = _with_bell(subscriptions, _subscription("a"))
    subscriptions.ring(key)
    subscriptions.next_read(BEFORE_CHECK)
    subscriptions.read_failed()
    assert key in subscriptions.next_read(BEFORE_CHECK)


def test_without_bells_all_are_in_every_read_again(subscriptions: Subscriptions) -> None:
    keys = {_with_bell(subscriptions, _subscription(job_id)) for job_id in ("a", "b")}
    subscriptions.next_read(BEFORE_CHECK)
    subscriptions.lose_bells()
    assert keys < set(subscriptions.next_read(BEFORE_CHECK))


def test_of_a_stream_with_a_bell_the_end_alone_may_be_left_to_wait_for(subscriptions: Subscriptions) -> None:
    reader = _subscription("a")
    key = _with_bell(subscriptions, reader)
    waiting = Subscription("a", BEFORE_FIRST, threading.Event(), only_end=True)
    assert not subscriptions.add(waiting)
    subscriptions.remove(reader)
    assert not subscriptions.reads("a")
    assert key in subscriptions.next_read(BEFORE_CHECK)  # its end may have been announced meanwhile


def test_bells_that_ring_do_not_put_off_the_look_at_the_others(subscriptions: Subscriptions) -> None:
    silent = _with_bell(subscriptions, _subscription("silent"))
    loud = _with_bell(subscriptions, _subscription("loud"))
    subscriptions.ring(loud)
    assert set(subscriptions.next_read(CHECK_EVERY_S)) > {silent, loud}
