"""What each error of Redis means to a caller, and which of them a follower sits out."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest
import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from producer.broker import urls as redis_url
from producer.broker.advice import broker_unavailable, is_transient, may_pass
from producer.broker.bounds import AsyncBoundedConnection
from producer.broker.connections import (
    BLOCK_S,
    address,
    block_ms,
    check_suits,
    connect,
    connect_async,
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
        (exceptions.MasterDownError("Link with MASTER is down"), "lost its primary"),
        (exceptions.ResponseError("DB index is out of range"), "no database of that number"),
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
    assert message.startswith("Redis at example:6380 cannot be used: ")
    assert str(broker_unavailable(error)) == message.replace(" at example:6380", "")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exceptions.ConnectionError("gone"), True),
        (exceptions.TimeoutError("slow"), True),
        (exceptions.BusyLoadingError("loading"), True),
        (exceptions.ReadOnlyError("You can't write against a read only replica."), True),
        (
            exceptions.ResponseError("UNBLOCKED force unblock from blocking operation, instance state changed"),
            True,
        ),
        (exceptions.MasterDownError("Link with MASTER is down"), True),
        (exceptions.ResponseError("BUSY Redis is busy running a script."), True),
        (exceptions.ResponseError("LOADING Redis is loading. script: x"), True),
        (exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"), True),
        (exceptions.TryAgainError("Multiple keys request during rehashing of slot"), True),
        (exceptions.AuthenticationError("wrong"), False),
        (exceptions.NoPermissionError("no"), False),
        (exceptions.ConnectionError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"), False),
        (exceptions.ResponseError("what"), False),
        (
            exceptions.ResponseError("Command # 1 (GET READONLY-1) of pipeline caused error: WRONGTYPE Operation"),
            False,
        ),
    ],
)
def test_a_follower_sits_out_what_passes(error: redis.RedisError, expected: bool) -> None:
    assert is_transient(error) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exceptions.ConnectionError("Error 111 connecting"), True),
        (exceptions.TimeoutError("slow"), True),
        (exceptions.BusyLoadingError("loading"), True),
        (exceptions.ReadOnlyError("You can't write against a read only replica."), True),
        (exceptions.OutOfMemoryError("command not allowed"), True),
        (exceptions.AuthenticationError("wrong"), False),
        (exceptions.NoPermissionError("no"), False),
        (exceptions.ConnectionError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"), False),
        (exceptions.InvalidResponse("Protocol error"), False),
    ],
)
def test_a_start_waits_for_what_passes(error: redis.RedisError, expected: bool) -> None:
    assert may_pass(error) is expected


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (exceptions.OutOfMemoryError("command not allowed"), "raise its maxmemory, or wait for keys to expire"),
        (exceptions.BusyLoadingError("loading"), "try again in a moment"),
        (exceptions.ReadOnlyError("read only replica"), "use the URL of its primary"),
        (exceptions.NoPermissionError("no"), "extend the user's ACL"),
        (exceptions.ConnectionError("Error 111 connecting"), "check the URL and that the server runs"),
        (exceptions.ResponseError("BUSY Redis is busy running a script."), "try again in a moment"),
    ],
)
def test_the_hint_is_what_to_do_about_that_error(error: redis.RedisError, hint: str) -> None:
    unavailable = broker_unavailable(error, "example:6380", job_id="a")

    assert unavailable.hint.startswith(hint)
    assert unavailable.job_id == "a"
    assert str(unavailable).endswith(f": {unavailable.hint}")


def test_what_a_command_holds_is_not_repeated() -> None:
    error = exceptions.ResponseError("Command # 1 (SET a OOM secret) of pipeline caused error: index out of range")

    assert "secret" not in str(broker_unavailable(error))
    assert "out of memory" not in str(broker_unavailable(error))


def test_an_address_holds_no_password() -> None:
    with redis.Redis.from_url(URL) as client:
        assert address(client) == "example:6380"
    with redis.Redis.from_url("unix://user:hunter2@/run/redis.sock") as client:
        assert address(client) == "unix:///run/redis.sock"


def test_a_client_whose_replies_nobody_here_can_read_is_refused() -> None:
    with redis.Redis(decode_responses=True) as client, pytest.raises(ValueError, match="decode_responses"):
        check_suits(client, redis.Redis)
    for options in ({"protocol": 3}, {"protocol": "3"}, {"legacy_responses": False}):
        with redis.Redis(**options) as client, pytest.raises(ValueError, match="pass one without protocol=3"):  # type: ignore[arg-type]
            check_suits(client, redis.Redis)
    with redis.Redis(protocol=2) as client:
        check_suits(client, redis.Redis)
        with pytest.raises(TypeError, match=r"is a redis\.client\.Redis: pass a redis\.Redis to a Producer"):
            check_suits(client, redis.asyncio.Redis)
    cluster = redis.RedisCluster.__new__(redis.RedisCluster)
    for other in (redis.asyncio.Redis(), cluster, object()):
        with pytest.raises(TypeError, match="pass a"):
            check_suits(other, redis.Redis)


@pytest.mark.parametrize(("socket_timeout_s", "expected_ms"), [(None, 4000), (5, 4000), (1, 800), (60, 4000)])
def test_a_read_blocks_for_less_than_its_socket_waits(socket_timeout_s: float | None, expected_ms: int) -> None:
    with redis.Redis(socket_timeout=socket_timeout_s) as client:
        assert block_ms(client) == expected_ms


def test_our_own_blocking_clients_wait_longer_than_they_block() -> None:
    reach = {"redis_url": "redis://127.0.0.1:1/0", "connect_timeout_s": 1, "socket_timeout_s": 2}
    for client in (connect(**reach, blocking=True), connect_async(**reach, blocking=True)):
        assert client.connection_pool.connection_kwargs["socket_timeout"] > BLOCK_S
        assert "protocol" not in client.connection_pool.connection_kwargs


PATIENT_S, SHORT_S = 60.0, 0.5
"""For an answer that comes, however busy the machine is; and for one that never does."""


@contextlib.contextmanager
def listener(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server of one's own, which does that with each connection. Yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):  # closed by the test's end
                while True:
                    connection, _ = server.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.settimeout(10)
                        serve(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        thread.join(60)


def speak_tls(connection: socket.socket) -> None:
    """The beginning of a handshake is as far as a client gets that speaks none."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_socket(connection, server_side=True)


def send_alert(connection: socket.socket) -> None:
    """Some ends of TLS say first why they hang up, in TLS: fatal, protocol_version."""
    connection.recv(1000)
    connection.sendall(b"\x15\x03\x03\x00\x02\x02\x46")


def hang_up(connection: socket.socket) -> None:
    """And some say nothing, once they have read what they do not understand."""
    connection.recv(1000)


def wait_for_a_line(connection: socket.socket) -> None:
    """As Redis does with the bytes of a handshake: they may be the beginning of a command in plain text."""
    while connection.recv(1000):
        pass


def answer_in_plain_text(connection: socket.socket) -> None:
    """As a Redis does where the handshake happens to hold the end of a line, or a proxy."""
    connection.recv(1000)
    connection.sendall(b"-ERR unknown command\r\n")


def sync_error(url: str, timeout_s: float) -> redis.RedisError:
    timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    with (
        redis_url.client(url, retry=Retry(NoBackoff(), 0), **timeouts) as client,
        pytest.raises(redis.RedisError) as caught,
    ):
        client.ping()
    return caught.value


def async_error(url: str, timeout_s: float) -> redis.RedisError:
    async def ping() -> redis.RedisError:
        timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        async with redis_url.async_client(url, retry=AsyncRetry(NoBackoff(), 0), **timeouts) as client:
            with pytest.raises(redis.RedisError) as caught:
                await client.ping()
        return caught.value

    return asyncio.run(ping())


@pytest.mark.parametrize("error_of", [sync_error, async_error])
@pytest.mark.parametrize("serve", [speak_tls, send_alert, hang_up])
def test_a_plain_url_for_a_tls_port_is_told_to_use_tls(
    error_of: Callable[[str, float], redis.RedisError], serve: Callable[[socket.socket], None]
) -> None:
    with listener(serve) as port:
        error = error_of(f"redis://:hunter2@127.0.0.1:{port}/0", PATIENT_S)
    message = str(broker_unavailable(error, f"127.0.0.1:{port}"))
    assert "if that port speaks TLS, begin the URL with rediss://" in message
    assert "hunter2" not in message
    assert may_pass(error) is (serve is not send_alert), "a server that starts or stops may hang up, too"


@pytest.mark.parametrize("error_of", [sync_error, async_error])
@pytest.mark.parametrize("serve", [wait_for_a_line, answer_in_plain_text])
def test_a_tls_url_for_a_plain_port_is_told_to_use_none(
    error_of: Callable[[str, float], redis.RedisError], serve: Callable[[socket.socket], None]
) -> None:
    with listener(serve) as port:
        timeout_s = SHORT_S if serve is wait_for_a_line else PATIENT_S
        error = error_of(f"rediss://:hunter2@127.0.0.1:{port}/0", timeout_s)
    message = str(broker_unavailable(error, f"127.0.0.1:{port}"))
    # asyncio's time-out says nothing of a handshake.
    sure = "begin the URL with redis:// in place of rediss://" in message
    assert sure or "if the URL begins with rediss://, check that the port speaks TLS" in message
    assert sure or (error_of, serve) == (async_error, wait_for_a_line)
    assert "hunter2" not in message
    assert may_pass(error) is (serve is wait_for_a_line), "a server that is overloaded may say nothing, too"


async def test_a_cancel_that_comes_as_a_command_is_sent_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the task reads the answer and goes on, for ever if it waits for something."""

    async def send(*_: object, **__: object) -> None:
        """As redis-py's: `asyncio.wait_for` loses a cancel that comes with its result, up to Python 3.11."""
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)

    closed = []

    async def disconnect(_: object, nowait: bool = False, **__: object) -> None:
        closed.append(nowait)

    monkeypatch.setattr(redis.asyncio.connection.AbstractConnection, "send_packed_command", send)
    monkeypatch.setattr(redis.asyncio.connection.AbstractConnection, "disconnect", disconnect)
    connection = AsyncBoundedConnection()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(connection.send_packed_command(b""))
    assert closed == [True]
