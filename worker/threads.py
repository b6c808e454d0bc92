"""Threads that nobody waits for: a call that is stuck in a socket must not keep the process from ending."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Any

_Call = tuple["Future[Any]", Callable[[], Any]]


class DaemonThreads(ThreadPoolExecutor):
    """An executor for `asyncio.to_thread`. Python joins the threads of its own at exit, however long they take.

    Each call that finds no idle thread gets a new one; whoever calls bounds how many are under way.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: SimpleQueue[_Call] = SimpleQueue()
        self._idle = Semaphore(0)

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """The future of what the call returns, as with any executor."""
        future: Future[Any] = Future()
        self._calls.put((future, lambda: call(*args, **kwargs)))
        if not self._idle.acquire(blocking=False):
            Thread(target=self._serve, name="genqueue-call", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Waits for nothing: what is stuck ends with the process."""

    def _serve(self) -> None:
        while True:
            future, call = self._calls.get()
            if future.set_running_or_notify_cancel():
                try:
                    answer = call()
                except BaseException as error:  # noqa: BLE001 - it is raised where the answer is awaited
                    future.set_exception(error)
                else:
                    future.set_result(answer)
            del future, call
            self._idle.release()
