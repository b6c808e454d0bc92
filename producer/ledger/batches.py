"""Batches of a gateway's clients: which there are, and which gateway runs each, for as long as its lease lasts.

A gateway that takes a batch on draws a name for that run. Whoever comes later draws another, and of the one before
nothing is taken any more: neither what it says of the batch, nor a part of a file that it writes (`files`).
"""

from collections.abc import Mapping

from ..contract import Keys
from .files import RunOf, names_of_file
from .step import Step


def member(owner: str, batch_id: str) -> str:
    """How a batch is called among those of all owners."""
    return f"{owner} {batch_id}"


def begin_batch(
    keys: Keys,
    owner: str,
    batch_id: str,
    *,
    record: str,
    ttl_s: float,
    most: int,
    input_id: str,
    input_ttl_s: float,
) -> Step[str]:
    """Make it: 'ok', 'no_file' or 'too_many'.

    most: batches of an owner.  input_ttl_s: its input is kept for so long at least.
    """
    names = [keys.batches(owner), keys.batch(owner, batch_id), keys.open_batches]
    names += names_of_file(keys, owner, input_id)
    args: list[str | int] = [batch_id, member(owner, batch_id), record, round(1000 * ttl_s), most]
    args += [input_id, round(1000 * input_ttl_s)]
    return Step("begin_batch", names, args, bytes.decode)


def lease_batch(keys: Keys, runner: str, lease_s: float) -> Step[tuple[str, str] | None]:
    """Take one on that nobody has: its owner and its id."""
    return Step("lease_batch", [keys.open_batches, keys.batch_runners], [round(1000 * lease_s), runner], _whose)


def mark_batch(
    keys: Keys,
    owner: str,
    batch_id: str,
    runner: str,
    fields: Mapping[str, str | int],
    *,
    lease_s: float,
    was: str = "",
) -> Step[str]:
    """Go on with it: its status, 'lost' or 'gone'.

    lease_s: it has it for so long from now on; 0: it is over.  was: the status that it must have; '' for any.
    """
    names = [keys.open_batches, keys.batch_runners, keys.batch(owner, batch_id)]
    pairs = [each for pair in fields.items() for each in pair]
    args = [member(owner, batch_id), runner, round(1000 * lease_s), was, *pairs]
    return Step("mark_batch", names, args, bytes.decode)


def cancel_batch(keys: Keys, owner: str, batch_id: str, now: int) -> Step[str | None]:
    """The status that it had. One that is validating or in progress is `cancelling` then."""
    return Step("cancel_batch", [keys.batch(owner, batch_id)], [now], _status)


def run_of(owner: str, batch_id: str, runner: str) -> RunOf:
    """For what it writes."""
    return RunOf(member(owner, batch_id), runner)


def _whose(reply: bytes | None) -> tuple[str, str] | None:
    if not reply:
        return None
    owner, _, batch_id = reply.decode().rpartition(" ")
    return owner, batch_id


def _status(reply: bytes | None) -> str | None:
    return reply.decode() if reply else None
