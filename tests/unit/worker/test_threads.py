"""Threads that nobody waits for."""

import asyncio
import subprocess
import sys
import threading

import pytest

from worker.threads import DaemonThreads

STUCK = """
import asyncio, threading
from worker.threads import DaemonThreads

async def main():
    asyncio.get_running_loop().set_default_executor(DaemonThreads())
    stuck = asyncio.create_task(asyncio.to_thread(threading.Event().wait))
    await asyncio.sleep(0.01)
    stuck.cancel()

asyncio.run(main())
print("ended")
"""


def test_a_thread_that_is_stuck_does_not_keep_the_process():
    """Python's own executor is joined at exit: a worker stayed for as long as a frozen Redis said nothing."""
    ended = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "ended\n"


async def test_answers_and_errors_come_back():
    asyncio.get_running_loop().set_default_executor(DaemonThreads())
    assert await asyncio.to_thread(max, 1, 2) == 2
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(lambda: 1 / 0)


def test_a_thread_that_is_idle_serves_the_next_call():
    threads = DaemonThreads()
    names = {threads.submit(threading.current_thread).result(30)}
    for _ in range(50):
        names.add(threads.submit(threading.current_thread).result(30))
    # One may still be on its way to being idle when the next call comes.
    assert len(names) < 50


def test_calls_do_not_wait_for_each_other():
    threads, first = DaemonThreads(), threading.Event()
    waiting = threads.submit(first.wait, 30)
    threads.submit(first.set).result(30)
    assert waiting.result(30)
