"""What a URL says, and what is wrong with one that cannot work. No message quotes any part that may be a secret.

A password with special characters falls apart: what follows its `/`, `#` or `?` looks like a path or an option,
what stands before like a host and a port. So a URL is read strictly, and of what is wrong only the place is named.

Knows the forms of URLs and the names of redis-py's options, and makes no connection.
"""

import math
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from . import in_process

SENTINEL_PORT = 26379
_SENTINEL_FORM = "redis+sentinel://host:port,host:port/service/db"
FORMS = f"redis://host:port/db, rediss://host:port/db, unix:///path/to.sock or {_SENTINEL_FORM}"

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "inprocess")
_OTHER_SCHEMES = {
    "valkey": "redis",
    "valkeys": "rediss",
    "redis+tls": "rediss",
    "redis+ssl": "rediss",
    "tls": "rediss",
    "tcp": "redis",
    "redis+socket": "unix",
    "redis-socket": "unix",
    "redis+unix": "unix",
    "sentinel": "redis+sentinel",
    "redis-sentinel": "redis+sentinel",
    "valkey+sentinel": "redis+sentinel",
    "valkeys+sentinel": "rediss+sentinel",
}
_NO_URL = f"it is not the URL of a Redis: use {FORMS}"
_ENCODE = (
    "special characters of a user name or password must be percent-encoded, %40 for @, %2F for /, %3A for :, "
    "%23 for #, %3F for ?, %5B for [, %25 for %, as Python's urllib.parse.quote(password, safe='') does it"
)


class UrlFault(ValueError):
    """The URL cannot work. The message says what to change, and quotes nothing of it."""

    def __init__(self, what: str = "") -> None:
        super().__init__(f"it is not the URL of a Redis: {what}; use {FORMS}" if what else _NO_URL)


@dataclass(frozen=True)
class UrlParts:
    """A URL, taken apart.  options: redis-py's, for a connection to the server."""

    is_tls: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    pool_options: dict[str, Any] = field(default_factory=dict)
    """redis-py's, for the pool: max_connections, and timeout for one that waits."""
    service: str | None = None
    """Behind Sentinels: which of their services."""
    sentinels: tuple[tuple[str, int], ...] = ()
    sentinel_options: dict[str, Any] = field(default_factory=dict)
    """redis-py's, for connections to the Sentinels."""
    server: in_process.InProcessServer | None = None
    """A server inside this process."""

    @property
    def is_unix(self) -> bool:
        """Whether it leads to a socket in the file system."""
        return "path" in self.options


def read_url(url: str) -> UrlParts:
    """Take a URL apart.  Raises UrlFault."""
    scheme = _scheme(url)
    rest = url.partition("://")[2]
    if f"{scheme}://" == in_process.SCHEME:
        return _in_process(rest)
    try:
        # Of Python's own messages some quote the host, which a raw password can look like.
        parts = urlsplit(f"{scheme}://{rest}")
    except ValueError:
        raise UrlFault(_ENCODE if "@" in rest else "its host is malformed") from None
    _check_login(parts)
    given = _query_options(parts.query)
    if scheme == "unix":
        return _unix(parts, given)
    if scheme.endswith("+sentinel"):
        return _sentinel(parts, given)
    return _tcp(parts, given)


def _scheme(url: str) -> str:
    if not url.strip():
        raise UrlFault("it is empty: leave the setting out altogether for the default, or give a URL")
    if url != url.strip() or url[0] in "'\"`" or url[-1] in "'\"`":
        raise UrlFault("it has white space or quotes around it: take them away")
    if re.search(r"[\x00-\x1f\x7f]", url):
        raise UrlFault("it has a line break or another control character in it: take it away")
    scheme, found, _ = url.partition("://")
    scheme = scheme.lower()
    if not found:
        raise UrlFault
    if scheme in _OTHER_SCHEMES:
        raise UrlFault(f"it begins with {scheme}://: begin it with {_OTHER_SCHEMES[scheme]}://")
    if scheme not in _SCHEMES:
        raise UrlFault
    return scheme


def _check_login(parts: SplitResult) -> None:
    """What is left over of a password that fell apart."""
    login, _, _ = parts.netloc.rpartition("@")
    has_fallen_apart = "@" in parts.query or ("@" in parts.path and parts.scheme != "unix")
    if has_fallen_apart or parts.fragment or any(bracket in login for bracket in "[]"):
        raise UrlFault(_ENCODE)


def _tcp(parts: SplitResult, given: dict[str, Any]) -> UrlParts:
    is_tls = parts.scheme == "rediss"
    _check_tls_options(given, is_tls=is_tls)
    pool_options = _taken(given, _POOL_OPTIONS)
    _refuse_sentinel_options(given)
    options = {**_login(parts), "db": _database(parts.path.removeprefix("/")), **given}
    _, _, host = parts.netloc.rpartition("@")
    if host:
        options["host"], options["port"] = _host_and_port(host, 6379)
    return UrlParts(is_tls=is_tls, options=options, pool_options=pool_options)


def _unix(parts: SplitResult, given: dict[str, Any]) -> UrlParts:
    _, _, host = parts.netloc.rpartition("@")
    if host or not parts.path.strip("/"):
        raise UrlFault("the path of its socket is absolute: three slashes, as in unix:///run/redis.sock")
    _check_tls_options(given, is_tls=False)
    pool_options = _taken(given, _POOL_OPTIONS)
    _refuse_sentinel_options(given)
    given.pop("socket_keepalive", None)  # of TCP
    return UrlParts(options={**_login(parts), "path": unquote(parts.path), **given}, pool_options=pool_options)


def _sentinel(parts: SplitResult, given: dict[str, Any]) -> UrlParts:
    is_tls = parts.scheme.startswith("rediss")
    _, _, hosts = parts.netloc.rpartition("@")
    service, _, db = parts.path.strip("/").partition("/")
    if not service or not hosts:
        raise UrlFault(f"a Sentinel URL names Sentinels and a service, as {_SENTINEL_FORM}")
    _check_tls_options(given, is_tls=is_tls)
    pool_options = _taken(given, _POOL_OPTIONS)
    own = {name.removeprefix("sentinel_"): given.pop(name, None) for name in _SENTINEL_OPTIONS}
    tls = {name: value for name, value in given.items() if name.startswith("ssl")}
    return UrlParts(
        is_tls=is_tls,
        options={**_login(parts), "db": _database(db), **given},
        pool_options=pool_options,
        service=unquote(service),
        sentinels=tuple(_host_and_port(host, SENTINEL_PORT) for host in hosts.split(",")),
        sentinel_options={**own, **tls},
    )


def _in_process(name: str) -> UrlParts:
    server = in_process.find(name)
    if server is None:
        raise UrlFault(
            "it names a server inside another process, or one that has ended: a test's fixture is reached from "
            "the test's own process, while the test lasts"
        )
    return UrlParts(server=server, options={"host": f"{in_process.SCHEME}{name}", **server.options})


def _login(parts: SplitResult) -> dict[str, str]:
    login, _, _ = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    return {name: unquote(text) for name, text in (("username", username), ("password", password)) if text}


def _host_and_port(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        text = ""
    if not host or not text or port == 0:
        raise UrlFault(
            "behind the last @, or from the start, it has host:port, where the port is a number up to 65535; "
            f"{_ENCODE}"
        )
    host = unquote(host)
    # A socket would raise a UnicodeError for such a name; and what stands between a bracket and a colon gets lost.
    if not _is_host(host) or re.search(r"\][^:]", text):
        raise UrlFault(
            "its host is malformed: a part of it between dots is empty or above 63 characters, or something "
            "stands behind a closing bracket"
        )
    return host, port or default_port


def _is_host(name: str) -> bool:
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True


def _database(text: str) -> int:
    if not re.fullmatch(r"[0-9]{0,9}", text):
        raise UrlFault("the database at its end is a number, as the 0 in redis://host:port/0")
    return int(text or "0")


def _check_tls_options(given: Mapping[str, Any], *, is_tls: bool) -> None:
    if not is_tls and any(name.startswith("ssl_") for name in given):
        raise UrlFault("its options that begin with ssl_ are for TLS: begin it with rediss://, or leave them out")


def _refuse_sentinel_options(given: Mapping[str, Any]) -> None:
    if any(name in _SENTINEL_OPTIONS for name in given):
        raise UrlFault(f"sentinel_username and sentinel_password are for {_SENTINEL_FORM}")


def _taken(given: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: given.pop(name) for name in names if name in given}


def _query_options(query: str) -> dict[str, Any]:
    """redis-py's options, by name and with their types."""
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            # No @ follows, or the password would have fallen apart: what stands here is no part of one.
            shown = f" {name}" if re.fullmatch(r"[a-z_]{1,40}", name) else ""
            raise UrlFault(f"it has an option{shown} that is not known: those are {', '.join(sorted(_OPTIONS))}")
        try:
            value = _OPTIONS[name](text)
        except ValueError as error:
            raise UrlFault(f"its option {name} {error}") from None
        if value is not None:
            options.setdefault(name, value)
    return options


def _text(text: str) -> str:
    return text


def _word(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("has a space or another special character in it: Redis takes none there")
    return text


def _flag(text: str) -> bool:
    flags = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    if text.lower() not in flags:
        raise ValueError("is true or false")
    return flags[text.lower()]


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        """A whole number of a size that Redis and redis-py can take."""
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
            raise ValueError(f"is a whole number from {least}")
        return int(text)

    return parse


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 10 * 365 * 86_400:
        raise ValueError("is a number of seconds above 0")
    return value


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        """One of the words."""
        if text not in words:
            raise ValueError(f"is one of {', '.join(words)}")
        return text

    return parse


def _only(wanted: str, why: str) -> Callable[[str], None]:
    def parse(text: str) -> None:
        """Nothing: what is wanted is the default, and all else cannot be."""
        if text.lower() != wanted:
            raise ValueError(f"must be left out: {why}")

    return parse


def _verify_flags(text: str) -> list[ssl.VerifyFlags]:
    names = [name.strip() for name in text.strip("[]").split(",")]
    if not all(name in ssl.VerifyFlags.__members__ for name in names):
        raise ValueError("is a list of names out of Python's ssl.VerifyFlags")
    return [ssl.VerifyFlags[name] for name in names]


_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")
_POOL_OPTIONS = ("max_connections", "timeout")
_OPTIONS: dict[str, Callable[[str], Any]] = {
    "db": _whole(0),
    "username": _text,
    "password": _text,
    **dict.fromkeys(_SENTINEL_OPTIONS, _text),
    "client_name": _word,
    "socket_timeout": _seconds,
    "socket_connect_timeout": _seconds,
    "socket_keepalive": _flag,
    "socket_read_size": _whole(1),
    "health_check_interval": _whole(0),
    "retry_on_timeout": _flag,
    "max_connections": _whole(1),
    "timeout": _seconds,
    "protocol": _only("2", "RQ does not work with RESP3"),
    "decode_responses": _only("false", "RQ needs bytes"),
    "encoding": _only("utf-8", "all text is UTF-8"),
    "ssl_cert_reqs": _one_of("none", "optional", "required"),
    "ssl_ca_certs": _text,
    "ssl_ca_path": _text,
    "ssl_ca_data": _text,
    "ssl_certfile": _text,
    "ssl_keyfile": _text,
    "ssl_password": _text,
    "ssl_check_hostname": _flag,
    "ssl_ciphers": _text,
    "ssl_min_version": _whole(0),
    "ssl_include_verify_flags": _verify_flags,
    "ssl_exclude_verify_flags": _verify_flags,
}
"""What may follow the `?`, and how it is read."""
