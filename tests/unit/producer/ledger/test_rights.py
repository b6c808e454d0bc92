"""Which rights a user of Redis lacks, asked of a real server. That configs/redis.acl grants them: test_acl.py."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from producer import ledger
from producer.broker.embedded import EmbeddedBroker
from producer.contract import Keys
from producer.ledger.rights import gateway_needs, producer_needs, refused, worker_needs

KEYS = Keys()
USER, PASSWORD = "somebody", "secret"


SCRIPTS = {path.stem: path.read_text() for path in (Path(ledger.__file__).parent / "lua").glob("*.lua")}
PRELUDES = SCRIPTS.pop("guards") + SCRIPTS.pop("turns") + SCRIPTS.pop("files")
GUARDS = dict(re.findall(r"^local function (\w+)(.*?)^end$", PRELUDES, re.DOTALL | re.MULTILINE))
OF_A_PRODUCER = {"submit", "cancel", "await_end", "delete", "ahead", "want"}
OF_FILES = {"write_file", "delete_file", "begin_batch", "lease_batch", "mark_batch", "cancel_batch", "note_call"}
OF_A_GATEWAY = OF_A_PRODUCER | {"spend", "stay"} | OF_FILES
BY_A_CLIENT = {
    producer_needs: {"EVALSHA", "GET", "SUNION", "TTL", "XRANGE", "XREAD"},
    gateway_needs: {
        "EVALSHA",
        "GET",
        "SUNION",
        "TTL",
        "XRANGE",
        "XREAD",
        "HGET",
        "LRANGE",
        "ZCARD",
        "ZREVRANGE",
        "HGETALL",
        "HMGET",
        "ZRANGE",
    },
    worker_needs: {"EVALSHA", "BLMOVE", "CLIENT", "HGETALL"},
}
"""What each sends beside its scripts."""


def commands_of(text: str) -> set[str]:
    """That a script sends, by itself and by the guards that it calls."""
    called = [body for name, body in GUARDS.items() if re.search(rf"\b{name}\(", text)]
    sent = set(re.findall(r"\b(?:redis\.p?call|unless_wrong_type|drop|try)\('([A-Z]+)'", text))
    return sent.union(*map(commands_of, called))


SCRIPTS_OF = {
    producer_needs: OF_A_PRODUCER,
    gateway_needs: OF_A_GATEWAY,
    worker_needs: SCRIPTS.keys() - OF_A_GATEWAY,
}


@pytest.mark.parametrize("needs", SCRIPTS_OF)
def test_what_is_asked_for_is_what_is_sent(needs) -> None:
    scripts = SCRIPTS_OF[needs]
    sent = set().union(*(commands_of(SCRIPTS[name]) for name in scripts))
    assert {name for name, *_ in needs(KEYS, "tiny")} == sent | BY_A_CLIENT[needs]


@pytest.mark.parametrize("needs", SCRIPTS_OF)
def test_each_is_a_whole_command_whose_keys_are_of_no_job_that_is_one(redis_client: redis.Redis, needs) -> None:
    keyless = {"TIME", "PUBLISH", "CLIENT", "PUBSUB"}
    common = {"rq:queues", "rq:workers", "rq:suspended", KEYS.takers, KEYS.beats}
    common |= {KEYS.open_batches, KEYS.batch_runners}
    for command in needs(KEYS, "tiny"):
        assert command[0].isupper()
        if command[0] in keyless:
            with pytest.raises(redis.ResponseError, match="no key arguments"):
                redis_client.command_getkeys(*command)
        else:
            names = set(redis_client.command_getkeys(*command))
            assert all("doctor" in name or "tiny" in name for name in names - common), command


@pytest.fixture
def somebody(redis_client: redis.Redis, broker: EmbeddedBroker) -> Iterator[Callable[..., redis.Redis]]:
    """A client whose user has these rules."""

    def connect(*rules: str) -> redis.Redis:
        redis_client.execute_command("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", *rules)
        return redis.Redis(port=broker.port, username=USER, password=PASSWORD)

    yield connect
    redis_client.execute_command("ACL", "DELUSER", USER)


@pytest.mark.parametrize("needs", [producer_needs, worker_needs])
def test_a_user_who_may_do_all_lacks_nothing(redis_client: redis.Redis, needs) -> None:
    assert refused(redis_client, needs(KEYS, "tiny")) == []


@pytest.mark.parametrize("needs", [producer_needs, worker_needs])
def test_nothing_is_changed(redis_client: redis.Redis, needs) -> None:
    refused(redis_client, needs(KEYS, "tiny"))
    assert redis_client.keys() == []
    assert redis_client.ping()


@pytest.mark.parametrize(
    ("rules", "lacking"),
    [
        (("+@all", "-xadd", "~*", "&*"), {"XADD"}),
        (("+@all", "~rq:*", "&*"), {"XADD", "XREAD", "SET", "GET", "ZADD"}),
        (("+@all", "~*", "resetchannels"), {"PUBLISH"}),
        (("+@all", "-@scripting", "~*", "&*"), {"EVALSHA"}),
    ],
)
def test_what_is_lacking_is_named(somebody: Callable[..., redis.Redis], rules, lacking) -> None:
    with somebody(*rules) as client:
        faults = refused(client, producer_needs(KEYS, "tiny"))
        assert client.ping()  # the connection is whole
    assert lacking <= {fault.split()[0] for fault in faults}
    assert len(lacking) > 1 or len({fault.split()[0] for fault in faults}) == 1


def test_a_producers_rights_are_not_a_workers(somebody: Callable[..., redis.Redis]) -> None:
    with somebody("+@all", "-lmove", "-client|list", "~*", "&*") as client:
        assert refused(client, worker_needs(KEYS, "tiny")) == [
            "LMOVE rq:queue:generate.tiny",
            "CLIENT LIST",
        ]
        assert refused(client, producer_needs(KEYS, "tiny")) == []


def test_a_user_without_transactions_is_told_of_that(somebody: Callable[..., redis.Redis]) -> None:
    with somebody("+@all", "-multi", "~*", "&*") as client, pytest.raises(redis.exceptions.NoPermissionError):
        refused(client, producer_needs(KEYS, "tiny"))
