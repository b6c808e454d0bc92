"""Many jobs waited for at once, on fakeredis: with a thread and with a task, by the same tests."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import redis
from fakeredis import FakeAsyncRedis, FakeRedis, FakeServer
from rq.job import Job
from rq.serializers import JSONSerializer

from producer import (
    AsyncProducer,
    BrokerUnavailable,
    InvalidRequest,
    JobCancelled,
    JobStranded,
    NoSuchJob,
    Producer,
    ProducerSettings,
    WaitTimeout,
    as_completed,
    gather,
    racing,
)
from producer.contract import ErrorInfo
from producer.race import Member, Race
from producer.racing import race_of
from tests.scripted_worker import ScriptedWorker

from .conftest import Clock

WAIT_S = 0.05


async def awaited(answer: Awaitable[Any]) -> Any:
    return await answer


async def listed(handles: Any) -> list[Any]:
    return [handle async for handle in handles]


class OnThread:
    """A Producer; what it answers is there."""

    def __init__(self, server: FakeServer, **settings: Any) -> None:
        self.producer = Producer(connection=FakeRedis(server=server), settings=ProducerSettings.load(**settings))
        self.hub = self.producer._hub

    def get(self, answer: Any) -> Any:
        return answer

    def next(self, handles: Any) -> Any:
        return next(handles)

    def all(self, handles: Any) -> list[Any]:
        return list(handles)

    def stop(self, handles: Any) -> None:
        handles.close()

    def close(self) -> None:
        self.producer.close()


class OnLoop:
    """An AsyncProducer, on a loop that runs while something is asked of it."""

    def __init__(self, server: FakeServer, **settings: Any) -> None:
        self._runner = asyncio.Runner()
        self._connection = FakeAsyncRedis(server=server)
        self.producer = AsyncProducer(connection=self._connection, settings=ProducerSettings.load(**settings))

    @property
    def hub(self) -> Any:
        return self.producer._hub

    def get(self, answer: Any) -> Any:
        return self._runner.run(awaited(answer))

    def next(self, handles: Any) -> Any:
        return self.get(anext(handles))

    def all(self, handles: Any) -> list[Any]:
        return self._runner.run(listed(handles))

    def stop(self, handles: Any) -> None:
        self.get(handles.aclose())

    def close(self) -> None:
        self.get(self.producer.aclose())
        self.get(self._connection.aclose())
        self._runner.close()


Side = OnThread | OnLoop


@pytest.fixture(params=[OnThread, OnLoop])
def start(request: pytest.FixtureRequest, fake_server: FakeServer) -> Iterator[Callable[..., Side]]:
    """Starts producers of one kind, and closes them."""
    started: list[Side] = []

    def start(**settings: Any) -> Side:
        started.append(request.param(fake_server, **settings))
        return started[-1]

    yield start
    for side in started:
        side.close()


@pytest.fixture
def side(start: Callable[..., Side]) -> Side:
    return start()


@pytest.fixture
def impatient(start: Callable[..., Side]) -> Side:
    return start(wait_s=WAIT_S)


def submit(side: Side, count: int, model: str = "tiny") -> list[Any]:
    return side.get(side.producer.submit_many([f"{number}" for number in range(count)], model=model))


def followed(side: Side) -> int:
    return len(side.hub._subscriptions._by_stream)


def test_each_comes_as_it_ends(side: Side, worker: ScriptedWorker) -> None:
    handles = submit(side, 3)
    ends = as_completed(handles)

    for place in (2, 0, 1):
        worker.play("a", job_id=handles[place].job_id)
        assert side.next(ends) is handles[place]
    assert side.all(ends) == []
    assert followed(side) == 0


def test_those_that_have_ended_come_first(side: Side, worker: ScriptedWorker) -> None:
    handles = submit(side, 3)
    worker.play("a", job_id=handles[1].job_id)

    ends = as_completed(handles)

    assert side.next(ends) is handles[1]
    side.stop(ends)
    assert followed(side) == 0


def test_the_result_of_one_that_has_come_is_asked_for_no_more(
    side: Side, worker: ScriptedWorker, client: FakeRedis
) -> None:
    [finished, failed] = submit(side, 2)
    worker.play("a")
    worker.take()
    worker.finish("failed", "error", ErrorInfo(code="engine_error", message="as asked"))
    assert len(side.all(as_completed([finished, failed]))) == 2

    client.flushall()

    assert side.get(finished.result()).text == "a"
    assert side.get(failed.result(check=False)).status == "failed"


def test_results_come_in_the_order_of_the_handles(side: Side, worker: ScriptedWorker) -> None:
    handles = submit(side, 3)
    for place in (1, 2, 0):
        worker.play(f"{place}", job_id=handles[place].job_id)

    results = side.get(gather(handle for handle in [*handles, handles[0]]))

    assert [result.text for result in results] == ["0", "1", "2", "0"]


def test_a_handle_that_is_given_twice_comes_once(side: Side, worker: ScriptedWorker) -> None:
    [handle] = submit(side, 1)
    worker.play("a")

    assert side.all(as_completed([handle, handle])) == [handle]


def test_two_handles_of_one_job_both_come(side: Side, worker: ScriptedWorker) -> None:
    handles = [side.get(side.producer.submit("a", model="tiny", job_id="one")) for _ in range(2)]
    worker.play("a")

    assert len(side.all(as_completed(handles))) == 2
    assert [result.text for result in side.get(gather(handles))] == ["a", "a"]


def test_handles_of_several_producers(start: Callable[..., Side], worker: ScriptedWorker) -> None:
    """On one loop: there the two must share it."""
    one = start()
    handles = submit(one, 1)
    two = type(one.producer)(connection=one.producer._link.client) if isinstance(one, OnThread) else None
    if two is None:
        two = AsyncProducer(connection=one._connection)
    handles += one.get(two.submit_many(["b"], model="tiny"))
    worker.play("a")
    worker.play("b")

    assert [result.text for result in one.get(gather(handles))] == ["a", "b"]
    one.get(two.aclose()) if isinstance(two, AsyncProducer) else two.close()


def test_nothing_is_waited_for_at_once() -> None:
    assert gather([]) == []
    assert list(as_completed([])) == []

    async def main() -> list[list[Any]]:
        task = asyncio.create_task(gather([]))
        return [await gather([]), await task, await listed(as_completed([]))]

    assert asyncio.run(main()) == [[], [], []]


def test_what_is_no_handle_is_refused_at_the_call(side: Side, producer: Producer) -> None:
    [handle] = submit(side, 1)
    for call in (gather, as_completed):
        with pytest.raises(InvalidRequest, match=r"handles\[1\] is no handle, but a str"):
            call([handle, "job"])
        with pytest.raises(InvalidRequest, match="give a list of handles"):
            call(handle)
        with pytest.raises(InvalidRequest, match="timeout_s must be a number of seconds"):
            call([handle], timeout_s=-1)
    if isinstance(side, OnLoop):
        with pytest.raises(InvalidRequest, match="wait for each kind apart"):
            gather([handle, producer.submit("a", model="tiny")])


def test_the_first_error_is_raised_and_the_others_go_on(side: Side, worker: ScriptedWorker) -> None:
    handles = submit(side, 3)
    side.get(handles[1].cancel())

    with pytest.raises(JobCancelled):
        side.get(gather(handles))

    assert followed(side) == 0
    worker.play("a")
    worker.play("b")
    assert [result.text for result in side.get(gather([handles[0], handles[2]]))] == ["a", "b"]


def test_errors_stand_in_the_list_where_they_are_asked_for(
    side: Side, worker: ScriptedWorker, client: FakeRedis
) -> None:
    """Also that of a job that nobody will ever end, and of one that is not there."""
    handles = submit(side, 4)
    side.get(handles[1].cancel())
    Job.fetch(handles[2].job_id, connection=client, serializer=JSONSerializer).cancel()
    client.delete(f"rq:job:{handles[3].job_id}")
    worker.play("a", job_id=handles[0].job_id)

    results = side.get(gather(handles, return_exceptions=True))

    assert results[0].text == "a"
    assert [type(error) for error in results[1:]] == [JobCancelled, JobStranded, NoSuchJob]


def test_a_job_that_nobody_ends_does_not_hide_the_others(
    side: Side, worker: ScriptedWorker, client: FakeRedis
) -> None:
    handles = submit(side, 2)
    Job.fetch(handles[0].job_id, connection=client, serializer=JSONSerializer).cancel()
    ends = as_completed(handles)

    assert side.next(ends) is handles[0]
    worker.play("a", job_id=handles[1].job_id)
    assert side.next(ends) is handles[1]
    with pytest.raises(JobStranded):
        side.get(handles[0].result())


def test_the_bound_is_that_of_the_whole(side: Side, worker: ScriptedWorker) -> None:
    handles = submit(side, 3)
    worker.play("a")

    with pytest.raises(WaitTimeout, match=r"^2 of 3 jobs have not ended within 0\.05 s\. One of") as error:
        side.get(gather(handles, timeout_s=0.05, return_exceptions=True))

    assert error.value.job_id in {handle.job_id for handle in handles[1:]}
    assert followed(side) == 0
    with pytest.raises(WaitTimeout):
        side.all(as_completed(handles, timeout_s=0))
    assert side.get(handles[0].result(timeout_s=0)).text == "a"


def test_a_bound_of_no_time_gives_all_that_has_ended(
    side: Side, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are asked for in as few round trips as there are, which are over in the time that an answer has."""
    monkeypatch.setattr(racing, "ASKED_AT_ONCE", 4)
    handles = submit(side, 9)
    for _ in handles:
        worker.play("a")

    assert len(side.get(gather(handles, timeout_s=0))) == 9


def test_a_model_that_nobody_serves_does_not_hide_the_others(
    impatient: Side, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for it is over, and that is said once there is nothing else to wait for."""
    worker.register()
    [served, unserved] = [*submit(impatient, 1), *submit(impatient, 1, model="other")]
    given_up: list[str] = []
    real = Race._give_up

    def give_up(race: Race[Any], member: Member[Any], error: WaitTimeout) -> None:
        real(race, member, error)
        given_up.append(member.job_id)
        if given_up.count(member.job_id) == 2:
            worker.play("a")

    monkeypatch.setattr(Race, "_give_up", give_up)
    ends = as_completed([unserved, served])

    assert impatient.next(ends) is served
    assert set(given_up) == {unserved.job_id}
    with pytest.raises(WaitTimeout, match=r"1 of 2 jobs has not ended\. One of them: no live worker serves other"):
        impatient.next(ends)


def test_a_model_that_is_served_again_is_waited_for_again(
    impatient: Side, client: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody served the first at first; then somebody comes, and the other's worker goes."""
    first, other = ScriptedWorker(client, model="first", name="f"), ScriptedWorker(client, model="other", name="o")
    other.register()
    handles = [*submit(impatient, 1, model="first"), *submit(impatient, 1, model="other")]
    real = Race._give_up

    def give_up(race: Race[Any], member: Member[Any], error: WaitTimeout) -> None:
        real(race, member, error)
        if member.job_id == handles[0].job_id:
            first.register()
            client.delete("rq:worker:o")
        else:
            first.play("a", job_id=handles[0].job_id)

    monkeypatch.setattr(Race, "_give_up", give_up)

    assert impatient.next(as_completed(handles)) is handles[0]


def test_at_the_end_of_the_bound_one_of_them_is_looked_at(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    handles = submit(side, 5)
    looks: list[str] = []
    real = side.producer._operations.look
    monkeypatch.setattr(
        side.producer._operations, "look", lambda job_id, **how: looks.append(job_id) or real(job_id, **how)
    )

    with pytest.raises(WaitTimeout):
        side.get(gather(handles, timeout_s=0))

    assert looks == [handles[0].job_id]


def test_where_nobody_serves_any_that_stands_in_the_list(impatient: Side) -> None:
    handles = submit(impatient, 3)

    results = impatient.get(gather(handles, return_exceptions=True))

    assert [(type(error), error.job_id) for error in results] == [
        (WaitTimeout, handle.job_id) for handle in handles
    ]
    with pytest.raises(WaitTimeout, match="3 of 3 jobs have not ended"):
        impatient.get(gather(handles))


def test_a_redis_that_is_away_is_an_error_for_all(side: Side, fake_server: FakeServer) -> None:
    handles = submit(side, 3)
    fake_server.connected = False

    with pytest.raises(BrokerUnavailable):
        side.get(gather(handles, return_exceptions=True))
    fake_server.connected = True


def test_in_an_outage_one_of_them_asks_for_all(producer: Producer, clock: Clock, worker: ScriptedWorker) -> None:
    """Each command may take seconds to fail, and the other waits are not to add theirs."""
    worker.register()
    race, _ = race_of(producer.submit_many(["a", "b"], model="tiny"), None)
    with race:
        members = race.due()
        for member in members:
            producer._link.run(member.go_on())
            race.settle(member)
        clock.turn(100)
        first, second = (member.go_on() for member in members)

        next(first)
        with pytest.raises(StopIteration):
            first.throw(redis.ConnectionError("gone"))
        with pytest.raises(StopIteration):
            next(second)

        race.due()  # another round
        clock.turn(100)
        assert next(members[1].go_on())


def test_an_async_gather_that_is_cancelled_waits_no_more(fake_server: FakeServer) -> None:
    side = OnLoop(fake_server)
    handles = submit(side, 3)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await gather(handles)
        assert followed(side) == 0

    side.get(main())
    side.close()


def test_a_handle_of_another_event_loop_says_so(fake_server: FakeServer) -> None:
    side = OnLoop(fake_server)
    handles = submit(side, 1)

    with pytest.raises(RuntimeError, match="belongs to an event loop that has ended"):
        asyncio.run(awaited(gather(handles)))
    side.close()
