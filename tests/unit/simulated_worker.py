"""A whole worker without a process: the real Service on fakeredis, on an event loop that turns as a test says.

A worker that is stepped no more is stopped as by SIGSTOP; stepped again, it is the zombie that wakes up. Dead, it
reaches Redis no more. Death can be set to a number of commands from now, and so comes between any two of them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import redis
from fakeredis import FakeAsyncRedis, FakeServer

from producer.broker.outage import Outage
from producer.ledger.sweep import Member
from tests.unit.worker.server import Server
from worker.engine_process.client import EngineDied
from worker.engine_process.protocol import Accepted, Answer, Ended, RunFailed, StepMessage
from worker.leaving import Leaving
from worker.links import Links, OnConnect
from worker.lives import Lives
from worker.metrics import Metrics
from worker.neighbours import Dead
from worker.queue.rq_worker import GenerationWorker
from worker.queue.sweeping import Sweeper
from worker.service import Service
from worker.settings import WorkerSettings

STEP_S = 0.02
"""Time that passes with each turn of the loop."""
FAULT = "faulty"
"""A prompt that begins so makes the engine fail after its second token."""


class Killed(BaseException):
    """Past every handler, as kill -9 is."""


def undisturbed_ids(prompt: str, tokens: int) -> list[int]:
    """What the engine says to a prompt, in ids."""
    return [(len(prompt) * 7 + position * 3) % 1000 for position in range(tokens)]


def undisturbed_text(prompt: str, tokens: int) -> str:
    """What it says, in text: one letter for a token."""
    return "".join(chr(ord("a") + token_id % 26) for token_id in undisturbed_ids(prompt, tokens))


class SteadyRun:
    """One token a turn of the loop. The text of every other token is held back, as half a character would be."""

    def __init__(self, request: dict[str, Any], resumed_ids: Sequence[int]) -> None:
        self._prompt: str = request["prompt"]
        self._total: int = request.get("max_new_tokens", 256)
        self._position = len(resumed_ids)
        assert list(resumed_ids) == undisturbed_ids(self._prompt, self._position), "resumed from other tokens"
        self._flush: bool | None = None
        self.dying = False
        self._over = False

    async def batches(self) -> AsyncIterator[Sequence[Answer | StepMessage]]:
        has_ended = self._position == self._total
        yield [Accepted(prompt_tokens=1, finish_reason="length" if has_ended else None)]
        while self._position < self._total and self._flush is None:
            await asyncio.sleep(0)
            if self.dying:
                self._over = True
                raise EngineDied
            if self._prompt.startswith(FAULT) and self._position == 2:
                self._over = True
                yield [RunFailed(code="engine_error", message="as asked")]
                return
            yield [self._step()]
        self._over = True
        yield [Ended(tail=self._held() if self._flush else "")]

    def stop(self, *, flush: bool, park: bool = False) -> None:
        if self._flush is None:
            self._flush = flush

    def let_go(self) -> None:
        pass

    async def finish(self) -> None:
        self.stop(flush=False)

    def _step(self) -> StepMessage:
        held = self._held()
        self._position += 1
        is_last = self._position == self._total
        token_id = undisturbed_ids(self._prompt, self._position)[-1]
        letter = undisturbed_text(self._prompt, self._position)[-1]
        text = held + letter if is_last or not self._holds() else ""
        return StepMessage(0.0, token_id, text, "length" if is_last else None)

    def _holds(self) -> bool:
        return self._position % 2 == 1

    def _held(self) -> str:
        is_held = self._holds() and self._position < self._total
        return undisturbed_text(self._prompt, self._position)[-1] if is_held else ""


class SteadyEngine:
    """The engine of one worker. Dead, it is replaced at once."""

    died = False

    def __init__(self) -> None:
        self.run: SteadyRun | None = None

    async def wait_until_dead(self) -> None:
        await asyncio.Event().wait()

    def generate(self, request: dict[str, Any], *, seed: int, resumed_ids: Sequence[int]) -> SteadyRun:
        self.run = SteadyRun(request, resumed_ids)
        return self.run


class Line:
    """What stands between a worker and Redis: it can be cut for good, and lose an answer."""

    def __init__(self) -> None:
        self.commands_left: int | None = None
        self.answers_until_loss: int | None = None

    @property
    def is_cut(self) -> bool:
        return self.commands_left == 0

    def guard(self, client: Any) -> Any:
        """Send a client's commands through this line: each one fetches a connection, and gives it back."""
        pool = client.connection_pool
        fetch, give_back = pool.get_connection, pool.release
        if isinstance(client, FakeAsyncRedis):

            async def fetch_async(*args: Any, **kwargs: Any) -> Any:
                self._send()
                return await fetch(*args, **kwargs)

            async def give_back_async(connection: Any) -> None:
                await give_back(connection)
                self._answer()

            pool.get_connection, pool.release = fetch_async, give_back_async
        else:

            def fetch_sync(*args: Any, **kwargs: Any) -> Any:
                self._send()
                return fetch(*args, **kwargs)

            def give_back_sync(connection: Any) -> None:
                give_back(connection)
                self._answer()

            pool.get_connection, pool.release = fetch_sync, give_back_sync
        return client

    def _send(self) -> None:
        if self.is_cut:
            raise Killed
        if self.commands_left is not None:
            self.commands_left -= 1

    def _answer(self) -> None:
        if self.answers_until_loss is None or self.is_cut:
            return
        if self.answers_until_loss:
            self.answers_until_loss -= 1
            return
        self.answers_until_loss = None
        raise redis.ConnectionError("the answer got lost")


class SteppedLoop(asyncio.SelectorEventLoop):
    """Turns when told to. What it sends to threads is done on the spot, so that a run can be repeated exactly."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self.failures: list[BaseException] = []
        self.set_default_executor(_Inline())
        self.set_exception_handler(self._note)

    def time(self) -> float:
        return self._now

    def turn(self) -> None:
        """Run what is ready, once."""
        self._now += STEP_S
        self.call_soon(self.stop)
        self.run_forever()

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not isinstance(error, Killed):
            self.failures.append(error)


class _Inline(ThreadPoolExecutor):
    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(call(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - handed on
            future.set_exception(error)
        return future


class SimulatedWorker:
    """One worker: the Service's own loop over jobs; its side tasks run when the test says so."""

    def __init__(self, server: FakeServer, name: str, **options: Any) -> None:
        """options: settings that are not the usual ones."""
        self.loop = SteppedLoop()
        self.line = Line()
        self.engine = SteadyEngine()
        client = self.line.guard(Server(server=server))
        asyncs = [self.line.guard(FakeAsyncRedis(server=server)) for _ in range(5)]
        settings = WorkerSettings(**{"model_name": "tiny", "name": name, "heartbeat_ttl_s": 3600, **options})
        worker = GenerationWorker(settings, client, on_stop=lambda: None)
        worker.register_birth()
        self.service = Service(
            settings,
            self.engine,  # type: ignore[arg-type]
            worker,
            links=Links(client, *asyncs, OnConnect()),
            lives=Lives(None),
            outage=Outage(),
            metrics=Metrics(),
            leaving=Leaving(grace_s=1, engine_stop_s=1),
        )
        self._main = self.loop.create_task(self._work())
        self._side: list[asyncio.Task[None]] = []
        self._sweeper = Sweeper(worker)
        self.beat()

    @property
    def key(self) -> str:
        """Key of its record, which lives as long as its heart beats."""
        return self.service.worker.key

    @property
    def is_dead(self) -> bool:
        return self.line.is_cut

    def turn(self, turns: int = 1) -> None:
        """Let it run for some turns of its loop."""
        for _ in range(turns):
            if self.is_dead:
                return
            self.service._looks.wake()
            self.loop.turn()

    def turn_until(self, happened: Callable[[], object], turns: int = 500) -> None:
        """Let it run until something has happened.  Raises AssertionError when that takes more turns."""
        for _ in range(turns):
            if happened():
                return
            self.turn()
        raise AssertionError("it did not come to that")

    def do(self, step: Callable[[], Any]) -> None:
        """Have a side task of the service do its step, beside the job that runs."""
        self._side.append(self.loop.create_task(step()))
        self.turn()

    def beat(self) -> None:
        """Say that it is alive."""
        self.do(self.service.presence.beat)

    def sweep(self) -> None:
        """Bury those whose beat is overdue, beside the job that runs."""
        self.do(partial(asyncio.to_thread, self.bury))

    def bury(self) -> None:
        """Bury those whose beat is overdue, and those of earlier versions whose record is gone."""
        worker = self.service.worker
        for raw in worker.connection.zrangebyscore(worker.keys.beats, "-inf", time.time() * 1000):
            if (member := Member.parse(raw)).worker != worker.name:
                self._sweeper.sweep(Dead(member, "overdue"))
        for dead in self._sweeper.dead_of_earlier_versions():
            self._sweeper.sweep(dead)
        self._sweeper.settle()

    def expire(self) -> None:
        """End what has waited for too long."""
        self.do(self.service.upkeep._housekeeping._expire)

    def outlive(self, client: redis.Redis) -> None:
        """Time passes without a beat of this worker."""
        client.zadd(self.service.worker.keys.beats, {f"{self.service.worker.name} tiny": 0}, xx=True)
        client.delete(self.key)

    def failures(self) -> list[BaseException]:
        """What went wrong in it and should not have."""
        ended = [task.exception() for task in (self._main, *self._side) if task.done() and not task.cancelled()]
        return [
            *self.loop.failures,
            *(error for error in ended if error is not None and not isinstance(error, Killed | redis.RedisError)),
        ]

    def close(self) -> None:
        """Leave nothing pending, and nothing of it in Redis."""
        self.line.commands_left = 0
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        while asyncio.all_tasks(self.loop):
            self.loop.turn()
        self.loop.close()

    async def _work(self) -> None:
        while True:
            await self.service._serve_next()
