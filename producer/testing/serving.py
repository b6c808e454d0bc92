"""The loop of a scripted worker: it takes jobs of any model, one at a time, and has a turn at each."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import redis

from ..contract import (
    FUNCTION,
    GenerationRequest,
    GenerationResult,
    JobError,
    JobExpired,
    Keys,
    UnknownFunction,
    WorkerLost,
)
from ..contract.keys import DEFAULT_PREFIX
from ..ledger import rq_names
from .answers import Answers, Asked
from .bell import Bell
from .seat import Held, Seat
from .turn import Interrupted, Lost, Turn, raised

MAX_ATTEMPTS = 3
"""A real worker's default: of a job over which so many have died, no other takes a try."""
STOP_S = 10.0


@dataclass
class Plan:
    """What a test has said, and what has come of it."""

    answers: Answers = field(default_factory=Answers)
    delay_s: float = 0.0
    deaths: list[int] = field(default_factory=list)
    """After how many tokens the worker dies, for each turn that comes."""
    models: frozenset[str] | None = None
    """Those that are served; None: any."""
    is_paused: bool = False
    requests: list[Asked] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)


class Serving:
    """A thread that serves jobs as the plan says. Whoever changes the plan rings."""

    def __init__(self, client: redis.Redis, plan: Plan) -> None:
        self._client = client
        self._plan = plan
        self._seats: dict[tuple[str, str], Seat] = {}
        self._changing = threading.Lock()
        self._is_stopping = False
        self._bell = Bell(client)
        self.ring = self._bell.ring
        self._thread = threading.Thread(target=self._serve, name="genqueue-scripted-worker", daemon=True)
        self._thread.start()

    @property
    def models(self) -> tuple[str, ...]:
        """Those that it serves by now."""
        with self._changing:
            return tuple(sorted({model for _, model in self._seats}))

    def seat_at(self, models: frozenset[str], prefix: str) -> None:
        """Serve those models, and be seen as their worker at once; leave those of the other ones."""
        with self._changing:
            self._plan.models = models
            for at, seat in list(self._seats.items()):
                if seat.model not in models:
                    seat.get_up()
                    del self._seats[at]
            for model in models:
                self._sit_down(prefix, model)
        self.ring()

    def pause(self, is_paused: bool) -> None:
        """Take no job from now on, or take them again."""
        with self._changing:
            self._plan.is_paused = is_paused
        self.ring()

    def stop(self) -> None:
        """End the thread. A job that runs is left as it is."""
        self._is_stopping = True
        self.ring()
        self._thread.join(STOP_S)

    # -- on its thread

    def _serve(self) -> None:
        try:
            while not self._is_stopping:
                if not self._serve_next():
                    self._bell.wait(self._until_a_deadline())
        except Exception as error:  # noqa: BLE001 - raised where the test ends: nobody sees it on a thread
            self._plan.failures.append(error)

    def _serve_next(self) -> bool:
        """Serve the next job. Tells whether there was one."""
        with self._changing:
            self._look_for_queues()
            for seat in self._seats.values():
                for late in seat.take_late():
                    self._refuse(seat, late, JobExpired())
            taken = None if self._plan.is_paused else self._take()
        if taken is None:
            return False
        self._have_turn(*taken)
        return True

    def _take(self) -> tuple[tuple[str, str], Seat, Held] | None:
        for at, seat in self._seats.items():
            if (held := seat.take()) is not None:
                return at, seat, held
        return None

    def _look_for_queues(self) -> None:
        """Sit down at the models that jobs have come for. A queue's name says prefix and model."""
        queues: Any = self._client.smembers(rq_names.QUEUES)
        for raw in queues:
            name = raw.decode(errors="replace").removeprefix(rq_names.queue(""))
            is_default = name.startswith(Keys().queue_prefix)
            prefix = DEFAULT_PREFIX if is_default else name.partition(".generate.")[0]
            try:
                model = Keys(prefix).model_of_queue(name)
            except ValueError:
                continue  # a queue of somebody else's
            if model is not None and (self._plan.models is None or model in self._plan.models):
                self._sit_down(prefix, model)

    def _sit_down(self, prefix: str, model: str) -> None:
        if (prefix, model) not in self._seats:
            self._seats[prefix, model] = seat = Seat(self._client, Keys(prefix), model)
            seat.sit_down()

    def _have_turn(self, at: tuple[str, str], seat: Seat, held: Held) -> None:
        result = None
        try:
            turn = Turn(seat, held, self._pause)
            result = turn.ended()
            if result is None or result.status != "finished":
                if result is not None:
                    turn.begin_anew()
                result = self._play(turn, seat, held)
                if result is None and not self._is_stopping:
                    with self._changing:
                        self._seats[at] = seat.die()
                    return
        except Lost:
            result = None
        seat.put_down(held, result)

    def _play(self, turn: Turn, seat: Seat, held: Held) -> GenerationResult | None:
        try:
            asked = self._read(seat, held)
        except JobError as error:
            return turn.fail(error)
        if all(known.job_id != asked.job_id for known in self._plan.requests):
            self._plan.requests.append(asked)
        try:
            answer = self._plan.answers.answer(asked)
        except Exception as error:  # noqa: BLE001 - whatever the test's function raises
            self._plan.failures.append(error)
            return turn.fail(raised(error))
        dies_after = self._plan.deaths.pop(0) if self._plan.deaths else None
        return turn.play(asked, answer, dies_after=dies_after)

    def _read(self, seat: Seat, held: Held) -> Asked:
        job, raw = held.job, held.raw
        if not raw:
            raise JobExpired
        if job.func_name != FUNCTION or set(job.kwargs) != {"request"}:
            raise UnknownFunction
        request = GenerationRequest.parse(job.kwargs["request"], as_worker=True)
        deaths, deadline = raw.get(b"deaths", b"0"), raw.get(b"expires_at_ms", b"")
        if int(deaths) >= MAX_ATTEMPTS:
            raise WorkerLost
        if job.started_at is None and deadline.isdigit() and held.now_ms > int(deadline):
            raise JobExpired
        return Asked(job.id, seat.model, request, seat.keys.group_of_queue(job.origin))

    def _refuse(self, seat: Seat, held: Held, error: JobError) -> None:
        try:
            result = Turn(seat, held, self._pause).fail(error)
        except Lost:
            seat.put_down(held)
        else:
            seat.put_down(held, result)

    def _pause(self, turn: Turn) -> None:
        began = time.monotonic()
        while True:
            if self._is_stopping:
                raise Interrupted("stopping")
            if turn.left_s <= 0:
                raise Interrupted("timeout")
            left_s = began + self._plan.delay_s - time.monotonic()
            if left_s <= 0:
                return  # a request to cancel is seen by the next append
            if turn.is_cancelled:
                raise Interrupted("cancelled")
            self._bell.wait(min(left_s, turn.left_s))

    def _until_a_deadline(self) -> float | None:
        left = [seat.next_deadline_s for seat in list(self._seats.values())]
        return min((seconds for seconds in left if seconds is not None), default=None)
