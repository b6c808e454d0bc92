"""A step of a job's life: one script with its arguments, for sync and async clients."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Generic, Protocol, TypeVar

import redis

T = TypeVar("T")

GUARDS = "guards"
TURNS = "turns"
KNOW_OF_GROUPS = frozenset({
    "submit", "take", "put_down", "settled", "put_back", "sweep", "cancel", "delete", "schedule",
    "tend", "recount",
})  # fmt: skip
"""Scripts that come with `turns`, too."""
FILES = "files"
KNOW_OF_FILES = frozenset({"write_file", "delete_file", "begin_batch"})
"""Scripts that come with `files`, too."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script as it is sent: the guards, and its own text."""

    text: str
    sha: str


@lru_cache
def script(name: str) -> Script:
    """The script in `lua/NAME.lua`, with the guards before it, and what it has to know of groups or files."""
    folder = files(__package__) / "lua"
    more = [TURNS] if name in KNOW_OF_GROUPS else [FILES] if name in KNOW_OF_FILES else []
    parts = [GUARDS, *more, name]
    text = "".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in parts)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class AsyncScripts(Protocol):
    """What of a `redis.asyncio.Redis` a script needs."""

    def evalsha(self, sha: str, numkeys: int, *keys_and_args: Any) -> Any:
        """Run a script that the server knows."""

    def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Any:
        """Run a script."""


@dataclass(frozen=True, slots=True)
class Step(Generic[T]):
    """A script with its arguments, and what its reply means."""

    name: str
    keys: Sequence[str]
    args: Sequence[Any]
    read: Callable[[Any], T]

    def send(self, client: Any) -> Any:
        """Put the script into a pipeline, or send it by its text: one round trip whatever the server remembers.

        Returns the raw reply, or an awaitable of it, for `read`.
        """
        return client.eval(script(self.name).text, len(self.keys), *self.keys, *self.args)

    def run(self, client: redis.Redis) -> T:
        """Do it.  Raises errors of Redis."""
        try:
            reply = client.evalsha(script(self.name).sha, len(self.keys), *self.keys, *self.args)
        except redis.exceptions.NoScriptError:
            reply = self.send(client)
        return self.read(reply)

    async def run_async(self, client: AsyncScripts) -> T:
        """As `run`."""
        try:
            reply = await client.evalsha(script(self.name).sha, len(self.keys), *self.keys, *self.args)
        except redis.exceptions.NoScriptError:
            reply = await self.send(client)
        return self.read(reply)


def nothing(_reply: Any) -> None:
    """Of a step that answers nothing."""
