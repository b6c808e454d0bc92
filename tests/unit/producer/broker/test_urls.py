"""From a URL to a client: what a Sentinel URL says, and that no message quotes a password."""

import asyncio
from typing import Any

import pytest
import redis

from producer import ProducerSettings
from producer.broker import urls as redis_url
from producer.broker.connections import address
from producer.contract import InvalidRequest

SENTINELS = "redis+sentinel://user:p%40ss@one:26380,two,[::1]:7/main/3?sentinel_password=other"


def parts(client: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Options of connections to the primary, and to each Sentinel."""
    pool = client.connection_pool
    return pool.connection_kwargs, [
        each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels
    ]


def assert_parts(client: Any) -> None:
    primary, sentinels = parts(client)
    assert (primary["username"], primary["password"], primary["db"]) == ("user", "p@ss", 3)
    assert primary["socket_timeout"] == 7
    assert "sentinel_password" not in primary
    assert [(each["host"], each["port"]) for each in sentinels] == [("one", 26380), ("two", 26379), ("::1", 7)]
    assert {each["password"] for each in sentinels} == {"other"}
    assert all(each["socket_timeout"] == redis_url.SENTINEL_TIMEOUT_S for each in sentinels)
    assert address(client) == "the primary of 'main', as its Sentinels name it"


def test_a_sentinel_url_names_sentinels_service_and_both_logins() -> None:
    with redis_url.client(SENTINELS, socket_timeout=7) as client:
        assert_parts(client)

    async def check() -> None:
        async with redis_url.async_client(SENTINELS, socket_timeout=7) as client:
            assert_parts(client)

    asyncio.run(check())


def test_tls_behind_sentinels_reaches_the_sentinels_too() -> None:
    with redis_url.client(SENTINELS.replace("redis+", "rediss+") + "&ssl_ca_certs=/ca.pem") as client:
        primary, sentinels = parts(client)
        assert issubclass(client.connection_pool.connection_class, redis.sentinel.SentinelManagedSSLConnection)
        assert primary["ssl_ca_certs"] == "/ca.pem"
        assert {each["ssl_ca_certs"] for each in sentinels} == {"/ca.pem"}


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://:hunter2@host:26379",
        "redis+sentinel://:hunter2@host:26379/main/first",
        "redis+sentinel://:hunter2@host:port/main",
        "redis+sentinel://:hunter2@host:1,/main",
        "redis+sentinel:///main",
        "redis://:hunter2@host:port/0",
        "redis://:hunter2@[::1/0",
        "http://:hunter2@host",
        "host:6379",
    ],
)
def test_what_is_no_url_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"redis_url: .*redis\+sentinel://host:port") as caught:
        ProducerSettings.load(redis_url=url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", [SENTINELS, "redis://h", "rediss://h:1/0?ssl_ca_certs=/ca.pem", "unix:///sock"])
def test_every_scheme_is_accepted(url: str) -> None:
    assert redis_url.check(url) == url
