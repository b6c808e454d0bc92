"""What each error of Redis means to a caller, and which of them a follower sits out."""

import pytest
import redis
import redis.asyncio
from redis import exceptions

from producer import ProducerSettings
from producer.broker import (
    BLOCK_S,
    address,
    block_ms,
    broker_unavailable,
    check_returns_bytes,
    connect,
    connect_async,
    is_transient,
)

URL = "redis://user:hunter2@example:6380/2"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (exceptions.AuthenticationError("Authentication required."), "needs a password"),
        (
            exceptions.AuthenticationError("HELLO must be called with the client already authenticated"),
            "a password",
        ),
        (exceptions.ResponseError("NOAUTH Authentication required."), "needs a password"),
        (
            exceptions.AuthenticationError("invalid username-password pair or user is disabled."),
            "user name or password",
        ),
        (exceptions.NoPermissionError("no permissions to run the 'hset' command"), "extend the user's ACL"),
        (exceptions.ResponseError("ACL failure in script: user x can't run 'hset'"), "extend the user's ACL"),
        (exceptions.ReadOnlyError("You can't write against a read only replica."), "URL of its primary"),
        (exceptions.ResponseError("READONLY You can't write against a replica"), "URL of its primary"),
        (exceptions.OutOfMemoryError("command not allowed"), "out of memory"),
        (exceptions.ResponseError("OOM command not allowed when used memory > 'maxmemory'"), "out of memory"),
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "still loading"),
        (exceptions.MaxConnectionsError("Too many connections"), "pool"),
        (exceptions.TimeoutError("Timeout reading from socket"), "does not answer"),
        (exceptions.ConnectionError("Error 111 connecting"), "check the URL and that the server runs"),
        (exceptions.ResponseError("WRONGTYPE key holds the wrong kind"), "WRONGTYPE"),
    ],
)
def test_an_error_says_where_and_what_to_do(error: redis.RedisError, advice: str) -> None:
    message = str(broker_unavailable(error, "example:6380"))

    assert advice in message
    assert "example:6380" in message


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exceptions.ConnectionError("gone"), True),
        (exceptions.TimeoutError("slow"), True),
        (exceptions.BusyLoadingError("loading"), True),
        (exceptions.AuthenticationError("wrong"), False),
        (exceptions.NoPermissionError("no"), False),
        (exceptions.ResponseError("what"), False),
    ],
)
def test_a_follower_sits_out_what_passes(error: redis.RedisError, expected: bool) -> None:
    assert is_transient(error) is expected


def test_an_address_holds_no_password() -> None:
    with redis.Redis.from_url(URL) as client:
        assert address(client) == "example:6380"
    with redis.Redis.from_url("unix://user:hunter2@/run/redis.sock") as client:
        assert address(client) == "unix:///run/redis.sock"


def test_a_client_that_decodes_is_refused() -> None:
    with redis.Redis(decode_responses=True) as client, pytest.raises(ValueError, match="decode_responses"):
        check_returns_bytes(client)


@pytest.mark.parametrize(("socket_timeout_s", "expected_ms"), [(None, 4000), (5, 4000), (1, 800), (60, 4000)])
def test_a_read_blocks_for_less_than_its_socket_waits(socket_timeout_s: float | None, expected_ms: int) -> None:
    with redis.Redis(socket_timeout=socket_timeout_s) as client:
        assert block_ms(client) == expected_ms


def test_our_own_blocking_clients_wait_longer_than_they_block() -> None:
    settings = ProducerSettings.load(socket_timeout_s=2)
    for client in (connect(settings, blocking=True), connect_async(settings, blocking=True)):
        assert client.connection_pool.connection_kwargs["socket_timeout"] > BLOCK_S
        assert "protocol" not in client.connection_pool.connection_kwargs
