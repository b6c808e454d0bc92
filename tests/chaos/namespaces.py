"""Hosts of a test's own on one machine: Linux network namespaces, joined by links that can be cut.

A star: the broker's host in the middle, one link to each of the others. Needs root and ip(8). Nothing outside the
namespaces is touched, and they are deleted at the end, however it comes.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNET = 0x40000000
"""From sched.h; `os.setns` came with Python 3.12."""


class Unavailable(Exception):
    """No namespaces can be made here."""


def why_unavailable() -> str | None:
    """The reason why there can be none, where one is known beforehand."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need ip(8): install iproute2"
    return None


class Star:
    """Three hosts: `hub` and one for each name."""

    def __init__(self, *names: str) -> None:
        self._stem = f"gq{os.getpid()}"
        self.names = names

    def __enter__(self) -> "Star":
        try:
            self._ip("netns", "add", self._host("hub"))
            self._ip("-n", self._host("hub"), "link", "set", "lo", "up")
            for number, name in enumerate(self.names):
                self._join(name, number)
        except subprocess.CalledProcessError as error:
            self.close()
            raise Unavailable(error.stderr.strip()) from error
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the hosts, and with them their links."""
        for name in ("hub", *self.names):
            with contextlib.suppress(subprocess.CalledProcessError):
                self._ip("netns", "delete", self._host(name))

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread, and all threads and processes that it starts, on that host."""
        with (
            Path("/proc/thread-self/ns/net").open() as home,
            Path(f"/run/netns/{self._host(name)}").open() as there,
        ):
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def hub_address(self, name: str) -> str:
        """Address of the hub, as that host sees it."""
        return f"10.231.{self.names.index(name)}.1"

    def cut(self, name: str) -> None:
        """Take the link to that host down. No connection is told of it."""
        self._ip("-n", self._host("hub"), "link", "set", f"to-{name}", "down")

    def mend(self, name: str) -> None:
        """Bring the link back."""
        self._ip("-n", self._host("hub"), "link", "set", f"to-{name}", "up")

    def _host(self, name: str) -> str:
        return f"{self._stem}-{name}"

    def _join(self, name: str, number: int) -> None:
        hub, host = self._host("hub"), self._host(name)
        self._ip("netns", "add", host)
        self._ip(
            *("-n", hub, "link", "add", f"to-{name}", "type", "veth"), *("peer", "name", "to-hub", "netns", host)
        )
        for where, link, last in ((hub, f"to-{name}", 1), (host, "to-hub", 2)):
            self._ip("-n", where, "address", "add", f"10.231.{number}.{last}/24", "dev", link)
            self._ip("-n", where, "link", "set", link, "up")
        self._ip("-n", host, "link", "set", "lo", "up")

    @staticmethod
    def _ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns failed")
