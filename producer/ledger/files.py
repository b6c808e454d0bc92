"""Files of a gateway's clients: their bytes in numbered parts, bounded for each file and for each owner.

A part that is sent again takes the place of itself. A file is there once its last part says what it is; of one
that is cut in the middle nothing is left after a while.
"""

from dataclasses import dataclass
from typing import Any, Literal

from ..contract import Keys
from .step import Step

Written = Literal["ok", "file_too_large", "no_room", "too_many", "gone", "lost"]


@dataclass(frozen=True, slots=True)
class Room:
    """What a file may take, and all of its owner's; 0 is no limit."""

    file_bytes: int = 0
    owner_bytes: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True)
class RunOf:
    """By whom a batch is run.  batch: `OWNER BATCH`."""

    batch: str
    runner: str


def write_file(
    keys: Keys,
    owner: str,
    file_id: str,
    number: int,
    data: bytes,
    *,
    ttl_s: float,
    room: Room,
    record: str = "",
    run: RunOf | None = None,
) -> Step[Written]:
    """A part of a file.  record: of the whole file, with its last part.  run: of the batch that writes it."""
    names = [*names_of_file(keys, owner, file_id), *([keys.batch_runners] if run else [])]
    bounds = [room.file_bytes, room.owner_bytes, room.files]
    of_run = [run.batch, run.runner] if run else []
    return Step("write_file", names, [file_id, number, data, round(1000 * ttl_s), *bounds, record, *of_run], _word)


def delete_file(keys: Keys, owner: str, file_id: str) -> Step[bool]:
    """Whether it was there."""
    return Step("delete_file", names_of_file(keys, owner, file_id), [file_id], bool)


def names_of_file(keys: Keys, owner: str, file_id: str) -> list[str]:
    """The keys of a file, and of its owner's files."""
    whose = [keys.files(owner), keys.file_sizes(owner)]
    return [*whose, keys.file(owner, file_id), keys.file_parts(owner, file_id)]


def _word(reply: bytes) -> Any:
    return reply.decode()
