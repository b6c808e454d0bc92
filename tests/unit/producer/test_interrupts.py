"""Ctrl-C comes between two items, and what an iteration raises comes through."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from producer.interrupts import Interrupted, interruptible, interruptible_call


def _press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_items_come_through_and_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)

    assert list(interruptible(range(5))) == [0, 1, 2, 3, 4]

    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_comes_through() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("of the items")

    items = interruptible(failing())

    assert next(items) == 1
    with pytest.raises(ValueError, match="of the items"):
        next(items)


def test_an_interrupt_ends_a_wait() -> None:
    over = threading.Event()

    def waiting() -> Iterator[int]:
        yield 1
        threading.Timer(0.05, _press).start()
        over.wait(60)

    items = interruptible(waiting())

    assert next(items) == 1
    with pytest.raises(Interrupted):
        next(items)
    over.set()


def test_an_interrupt_while_an_item_is_handled_comes_after_it() -> None:
    items = interruptible(range(1000))
    assert [next(items) for _ in range(4)] == [0, 1, 2, 3]

    _press()

    with pytest.raises(Interrupted):
        next(items)


def test_a_second_interrupt_comes_at_once() -> None:
    items = interruptible(range(1000))
    next(items)
    _press()

    with pytest.raises(KeyboardInterrupt):
        _press()
    items.close()


def test_a_call_gives_what_it_returns_and_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)

    assert interruptible_call(lambda: 5) == 5

    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_of_a_call_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        interruptible_call(lambda: 1 // 0)


def test_an_interrupt_ends_the_wait_for_a_call() -> None:
    before = signal.getsignal(signal.SIGINT)
    over = threading.Event()

    def press_and_wait() -> None:
        _press()
        over.wait(60)

    with pytest.raises(Interrupted):
        interruptible_call(press_and_wait)

    over.set()
    assert signal.getsignal(signal.SIGINT) is before
