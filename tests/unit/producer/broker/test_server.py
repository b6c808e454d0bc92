"""What is to be known of a server before a worker trusts it with jobs."""

from collections.abc import Iterator

import pytest
import redis

from producer.broker.embedded import EmbeddedBroker
from producer.broker.server import NEEDED, inspect_server
from producer.contract import BrokerUnavailable


@pytest.fixture
def memory(redis_client: redis.Redis) -> Iterator[redis.Redis]:
    """A server whose settings of memory may be changed."""
    yield redis_client
    redis_client.config_set("maxmemory", "0")
    redis_client.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize("policy", ["volatile-lru", "allkeys-lru", "volatile-ttl", "allkeys-random"])
def test_a_policy_that_loses_jobs_is_named_with_what_to_do(memory, policy):
    memory.config_set("maxmemory-policy", policy)
    memory.config_set("maxmemory", "1gb")
    [warning] = inspect_server(memory).warnings
    assert f"maxmemory-policy {policy}" in warning
    assert "Set maxmemory-policy to noeviction" in warning


@pytest.mark.parametrize(("maxmemory", "policy"), [("1gb", "noeviction"), ("0", "allkeys-lru")])
def test_where_nothing_is_evicted_there_is_no_warning(memory, maxmemory, policy):
    memory.config_set("maxmemory-policy", policy)
    memory.config_set("maxmemory", maxmemory)
    report = inspect_server(memory)
    assert report.warnings == ()
    assert report.version.partition(" ")[0] in ("Redis", "Valkey")


@pytest.mark.parametrize("command", ["BLMOVE", "EVALSHA", "EVAL"])
def test_a_command_that_is_not_there_is_named_with_the_servers_version(command):
    said = rf"\d\.\d.* has no {command}; it takes Redis 6\.2"
    with (
        EmbeddedBroker(options=("--rename-command", command, "")) as broker,
        redis.Redis(port=broker.port) as client,
        pytest.raises(BrokerUnavailable, match=said),
    ):
        inspect_server(client)


def test_a_user_who_may_not_ask_for_the_commands_is_not_refused_for_that(redis_client):
    redis_client.acl_setuser("asks-little", enabled=True, nopass=True, commands=["+info"])
    try:
        with redis.Redis(
            port=redis_client.get_connection_kwargs()["port"], username="asks-little", password="any"
        ) as client:
            assert inspect_server(client).warnings == ()
    finally:
        redis_client.acl_deluser("asks-little")


def test_the_commands_that_are_asked_for_are_commands(redis_client):
    """One that were misspelt would refuse every server."""
    assert None not in redis_client.execute_command("COMMAND INFO", *NEEDED)
