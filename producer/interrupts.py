"""Ctrl-C between two items of an iteration, and never within one: what was printed is what was counted.

A KeyboardInterrupt can strike anywhere, also between printing an event and noting its id, or inside a lock. Here
the iteration runs on a thread, and Ctrl-C is one more thing that arrives.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from types import FrameType
from typing import Generic, TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """Ctrl-C was pressed."""


@dataclass(frozen=True)
class _Item(Generic[T]):
    """One item arrived."""

    value: T


@dataclass(frozen=True)
class _End:
    """No more items: the iteration is over, it raised, or Ctrl-C was pressed."""

    error: Exception | None = None


def interruptible(items: Iterable[T]) -> Generator[T, None, None]:
    """The same items.  Raises Interrupted instead of the next one once Ctrl-C was pressed.

    Main thread only. A second Ctrl-C is a KeyboardInterrupt at once. The items' thread is left behind as it is:
    end what it waits for.
    """
    arrivals: SimpleQueue[_Item[T] | _End] = SimpleQueue()
    pressed = threading.Event()

    def on_interrupt(_signal: int, _frame: FrameType | None) -> None:
        """Let the reader know; it may be anywhere, and is told before its next item."""
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        arrivals.put(_End())  # the one queue that a signal handler may put into

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        threading.Thread(target=_pump, args=(items, arrivals), name="genqueue-items", daemon=True).start()
        while True:
            arrival = arrivals.get()
            if pressed.is_set():
                raise Interrupted
            if isinstance(arrival, _Item):
                yield arrival.value
            elif arrival.error is not None:
                raise arrival.error
            else:
                return
    finally:
        signal.signal(signal.SIGINT, before)


def interruptible_call(call: Callable[[], T]) -> T:
    """What the call returns.  Raises Interrupted once Ctrl-C was pressed; all else is as in `interruptible`."""

    def only_item() -> Iterator[T]:
        """Makes the call when it is asked for, which is on the thread."""
        yield call()

    with contextlib.closing(interruptible(only_item())) as items:
        return next(items)


class CtrlC:
    """Whether Ctrl-C was pressed since `begin`. Whoever handled it before still does, as `asyncio.run`."""

    def __init__(self) -> None:
        self.was_pressed = False
        self.before: Callable[[int, FrameType | None], object] | None = None
        """Who handled it before."""
        self.is_over = False

    def begin(self) -> None:
        """Look out for it. On another thread than the main one nobody can: there it is never seen."""
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(before) and self.before is None:
            self.before = before
            signal.signal(signal.SIGINT, self._note)

    def end(self) -> None:
        """Look no more. Those that began later may end later: then they put back what was before this one."""
        self.is_over = True
        if self.before is not None and signal.getsignal(signal.SIGINT) == self._note:
            before = self.before
            while isinstance(other := getattr(before, "__self__", None), CtrlC) and other.is_over:
                assert other.before is not None
                before = other.before
            signal.signal(signal.SIGINT, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.was_pressed = True
        assert self.before is not None
        self.before(number, frame)


def _pump(items: Iterable[T], arrivals: "SimpleQueue[_Item[T] | _End]") -> None:
    try:
        for item in items:
            arrivals.put(_Item(item))
    except Exception as error:  # noqa: BLE001 - it is raised where the items are read
        arrivals.put(_End(error))
    else:
        arrivals.put(_End())
