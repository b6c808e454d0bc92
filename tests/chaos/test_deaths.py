"""Deaths are read as they were counted, and one that was none is found."""

from collections import Counter

import pytest
import redis

from producer.broker.embedded import EmbeddedBroker
from producer.contract import Keys
from producer.ledger.sweep import Member, sweep
from producer.ledger.take import come_back, put_back

from .deaths import NO_REWRITE, Casualties, Counted, check_deaths, read_counted, signs

KEYS = Keys("gen")
DIED = Casualties(ran={"w1": "a"}, killed={"w1"}, hung={"w2"}, engines=Counter({"a": 1}))
COUNTED = Counted("a", "w1-77")


def run_in(client: redis.Redis, worker: str) -> None:
    client.hset("rq:job:a", mapping={"origin": "generate.tiny", "status": "started", "worker_name": worker})
    client.rpush(KEYS.taken(worker), "a")


def test_what_the_ledger_counts_is_read_from_the_servers_file(tmp_path):
    with EmbeddedBroker(directory=tmp_path, append_only=True, options=NO_REWRITE) as broker:
        for worker in ("w1-77", "w2-77"):
            with redis.Redis(port=broker.port) as client:
                run_in(client, worker)
                assert sweep(KEYS, worker, Member(worker, "tiny"), "overdue", now="now").run(client)
            broker.kill()
            broker.start()
        with redis.Redis(port=broker.port) as client:
            come_back("w2-77", "a").run(client)
            run_in(client, "w3-77")
            assert put_back(KEYS, "w3-77", "a", "generate.tiny", engine_died=True).run(client)
    assert read_counted(tmp_path) == [COUNTED, Counted("a", "w2-77", is_taken_back=True), Counted("a")]


def test_how_a_death_was_noticed_is_read_from_the_logs(tmp_path):
    (tmp_path / "w9.log").write_text("12:00 WARNING worker w1-77 is dead (gone); job a is back at the front\n")
    assert signs(tmp_path.glob("*.log")) == {("w1", "a"): "gone"}


@pytest.mark.parametrize(
    ("counted", "faults"),
    [
        ([COUNTED], 0),
        ([COUNTED, Counted("a")], 0),
        ([COUNTED, Counted("b", "w2-77")], 0),
        ([COUNTED, Counted("b", "w3-77", is_taken_back=True)], 0),
        ([], 1),
        ([COUNTED, COUNTED], 1),
        ([COUNTED, Counted("b", "w3-77")], 1),
        ([COUNTED, Counted("b")], 1),
        ([COUNTED, Counted("a"), Counted("a")], 1),
    ],
    ids=[
        "a worker",
        "and its engine",
        "one that hung",
        "one that came back",
        "a death is missing",
        "one death counts twice",
        "the worker lives",
        "the engine lives",
        "one engine's death counts twice",
    ],
)
def test_only_what_died_may_count(counted, faults):
    assert [violation.rule for violation in check_deaths(counted, DIED)] == ["deaths"] * faults
