"""The faults of the storm: each strikes a worker, an engine, the connections or the server."""

import contextlib
import random
import signal
import time
from dataclasses import replace

import redis

from producer.broker.embedded import EmbeddedBroker

from .fleet import Fleet, Gone, Member
from .plan import Plan

ENGINE_START_S = 8.0
"""A worker whose engine was killed is not counted on for so long."""
DECK = 12
"""Kills of workers, engines and the server, as they are shuffled."""


class Strikes:
    """Whom it hits is drawn; each fault is a method. Each raises errors of Redis, and Gone."""

    def __init__(
        self, broker: EmbeddedBroker, client: redis.Redis, fleet: Fleet, plan: Plan, rng: random.Random
    ) -> None:
        self._broker, self._client, self._fleet, self._plan, self._rng = broker, client, fleet, plan, rng
        self._deck: list[str] = []
        self.server_kills = 0
        self.broken: list[float] = []
        """When connections or the server were struck."""

    def draw(self) -> str:
        """The next fault of a shuffled deck, in the proportions of the plan; in the end, what is missing yet."""
        if len(self._fleet.deaths) >= self._plan.kills:
            return "kill_server"
        if not self._deck:
            servers = max(1, round(DECK * self._plan.server_kills / max(self._plan.kills, 1)))
            self._deck = ["kill_worker"] * (DECK - servers - 2) + ["kill_server"] * servers
            self._deck += ["kill_engine"] * 2 + ["stop_worker"] * 2 + ["cut_connections"] * 3
            self._rng.shuffle(self._deck)
        return self._deck.pop()

    def kill_worker(self) -> None:
        """With kill -9."""
        self.kill(self._victim())

    def kill(self, victim: Member) -> None:
        """Kill that worker, and see what it leaves behind."""
        victim.send(signal.SIGKILL)
        victim.wait()
        self._fleet.keep_up(self._client)

    def kill_engine(self) -> None:
        """The engine alone."""
        victim = self._victim()
        if self._client.hget(victim.hash_key, "model_state") != b"ready":
            raise Gone  # with a parked job in hand it starts its engine: one that is killed then ends the worker
        # Stopped first, or it may go on to another job between the look and the kill.
        victim.signal_all(signal.SIGSTOP, engine=True)
        before = self._fleet.death_of(victim, self._client, at=time.monotonic(), point="engine")
        victim.signal_engine(signal.SIGKILL)
        victim.signal_all(signal.SIGCONT, engine=False)
        self._fleet.disable(victim, until=time.monotonic() + ENGINE_START_S, stopped=False)
        self._fleet.deaths.append(replace(before, of_engine=True))

    def stop_worker(self) -> None:
        """A worker that hangs: shorter than its time to live, or longer."""
        victim = self._victim()
        victim.signal_all(signal.SIGSTOP, engine=self._rng.random() < 0.5)
        length_s = self._rng.choice((0.5, 2, 9, 18))
        self._fleet.disable(victim, until=time.monotonic() + length_s, stopped=True)

    def cut_connections(self) -> None:
        """Cut about half of all connections, our own and the subscribers' included."""
        self.broken.append(time.monotonic())
        for other in self._client.client_list():
            if self._rng.random() < 0.5:
                with contextlib.suppress(redis.ResponseError):
                    self._client.client_kill_filter(_id=other["id"], skipme=False)

    def kill_server(self) -> None:
        """It is back within seconds."""
        self.broken.append(time.monotonic())
        self._broker.kill()
        self.server_kills += 1
        time.sleep(self._rng.choice((0.0, 0.3, 1.0, 2.5)))
        self._broker.start()
        self.broken.append(time.monotonic())

    def _victim(self) -> Member:
        """A worker; if possible one that holds a job."""
        fit = self._fleet.fit()
        busy = [member for member in fit if self._fleet.held_by(member, self._client)]
        return self._rng.choice(busy or fit)
