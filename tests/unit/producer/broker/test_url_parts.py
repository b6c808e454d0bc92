"""Every URL that cannot work is refused with what to change, and nothing of a password is shown."""

import re
from urllib.parse import quote

import pytest

from producer import ProducerSettings
from producer.broker.url_parts import UrlFault, read_url
from producer.contract import InvalidRequest

PASSWORD = "p@ss:w/o#r?d[1]%zz"


def test_a_percent_encoded_password_comes_through() -> None:
    parts = read_url(f"redis://us%40er:{quote(PASSWORD, safe='')}@host:7/3")

    assert parts.options == {"username": "us@er", "password": PASSWORD, "host": "host", "port": 7, "db": 3}


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://", {"db": 0}),
        ("redis://host", {"host": "host", "port": 6379, "db": 0}),
        ("REDIS://host/2", {"host": "host", "port": 6379, "db": 2}),
        ("redis://[::1]:7/0", {"host": "::1", "port": 7, "db": 0}),
        ("redis://host/1?db=2", {"host": "host", "port": 6379, "db": 2}),
        ("redis://:a b+c@host", {"password": "a b+c", "host": "host", "port": 6379, "db": 0}),
        ("redis://:ünï@host", {"password": "ünï", "host": "host", "port": 6379, "db": 0}),
        ("unix:///run/redis.sock", {"path": "/run/redis.sock"}),
        ("unix://:pw@/run/a@b.sock?db=4", {"password": "pw", "path": "/run/a@b.sock", "db": 4}),
        ("unix:///run/redis.sock?socket_keepalive=true", {"path": "/run/redis.sock"}),
        (
            "redis://h?socket_timeout=1.5&health_check_interval=10&retry_on_timeout=True",
            {
                "host": "h",
                "port": 6379,
                "db": 0,
                "socket_timeout": 1.5,
                "health_check_interval": 10,
                "retry_on_timeout": True,
            },
        ),
        ("redis://h?protocol=2&decode_responses=False&encoding=UTF-8", {"host": "h", "port": 6379, "db": 0}),
    ],
)
def test_what_works_is_read(url: str, options: dict[str, object]) -> None:
    assert read_url(url).options == options


def test_options_of_the_pool_are_kept_apart() -> None:
    assert read_url("redis://h?max_connections=3&timeout=2").pool_options == {"max_connections": 3, "timeout": 2.0}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "it is empty"),
        ("  ", "it is empty"),
        (" redis://h", "white space or quotes"),
        ("redis://h\n", "white space or quotes"),
        ("'redis://h'", "white space or quotes"),
        ('"redis://h', "white space or quotes"),
        ("redis://:a\tb@h", "control character"),
        ("host:6379", "use redis://"),
        ("http://h", "use redis://"),
        ("valkey://h", "begin it with redis://"),
        ("valkeys://h", "begin it with rediss://"),
        ("redis+socket:///a", "begin it with unix://"),
        ("redis://h/abc", "a number"),
        ("redis://h/0/1", "a number"),
        ("redis://h/-1", "a number"),
        ("redis://h?db=x", "option db is a whole number"),
        ("redis://h?socket_timeout=abc", "option socket_timeout is a number of seconds"),
        ("redis://h?socket_timeout=nan", "option socket_timeout is a number of seconds"),
        ("redis://h?socket_keepalive=perhaps", "option socket_keepalive is true or false"),
        ("redis://h?max_connections=0", "option max_connections is a whole number from 1"),
        ("redis://h?client_name=my app", "option client_name has a space"),
        ("redis://h?unknown_option=1", "an option unknown_option that is not known"),
        ("redis://h?protocol=3", "protocol must be left out: RQ does not work with RESP3"),
        ("redis://h?decode_responses=True", "decode_responses must be left out"),
        ("redis://h?encoding=latin-1", "encoding must be left out"),
        ("redis://h?ssl_cert_reqs=none", "begin it with rediss://"),
        ("rediss://h?ssl_cert_reqs=maybe", "one of none, optional, required"),
        ("redis+sentinel://h/main?ssl_ca_certs=/ca", "begin it with rediss://"),
        ("redis://h?sentinel_password=x", "are for redis+sentinel://"),
        ("redis://h:70000", "a number up to 65535"),
        ("redis://h:x", "a number up to 65535"),
        ("redis://a..b", "its host is malformed"),
        (f"redis://{'a' * 64}.example", "its host is malformed"),
        ("redis+sentinel://h,a..b/main", "its host is malformed"),
        ("redis://[::1]x:1", "its host is malformed"),
        ("unix://run/redis.sock", "three slashes"),
        ("unix://", "three slashes"),
        ("redis+sentinel://h", "names Sentinels and a service"),
    ],
)
def test_what_cannot_work_is_told_what_to_change(url: str, said: str) -> None:
    with pytest.raises(UrlFault, match=re.escape(said)):
        read_url(url)


@pytest.mark.parametrize(
    "password",
    ["p@ss:w/o#r?d", "[brackets]", "6379/rest-of-secret", "12345#rest", "a?db=rest", "x/0?q7z=rst"],
)
@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+sentinel"])
def test_a_raw_password_that_falls_apart_is_not_shown(scheme: str, password: str) -> None:
    """`/`, `#` and `?` end the host: what stood before was connected to, and named in the error."""
    with pytest.raises(InvalidRequest, match="must be percent-encoded, %40 for @") as caught:
        ProducerSettings.load(redis_url=f"{scheme}://:{password}@127.0.0.1:6380/0")

    said = str(caught.value)
    parts = [password[start : start + 4] for start in range(len(password) - 3)]
    assert [part for part in parts if part in said] == []
