"""Groups of jobs that take turns: what is looked after now and then, and when a job's turn comes."""

from collections.abc import Sequence

from ..contract import Keys, Priority
from ..contract.groups import encode_group
from ..contract.keys import PRIORITIES
from . import rq_names
from .step import Step, nothing

TENDED_AT_ONCE = 100
"""Queues that one step looks after: Redis serves nobody else meanwhile."""
RUNNING_AT_ONCE = 1_000
GROUPS_LOOKED_AT = 100
"""By which a job's place is told. Of more groups, these stand for all."""


def tend(keys: Keys, queues: Sequence[str]) -> Step[list[str]]:
    """Line up groups whose jobs RQ has put into their queues without a word, and forget those that are idle.

    queues: names of queues of groups, TENDED_AT_ONCE at most. Returns those with jobs whose dependencies have
    ended, where RQ was interrupted before it put them into the queue.
    """
    args = [keys.prefix, keys.queue_prefix, rq_names.PREFIX, *queues]
    return Step("tend", [rq_names.QUEUES], args, lambda reply: [name.decode() for name in reply])


def recount(keys: Keys, model: str) -> Step[None]:
    """Strike out jobs that no worker has any more from those that count as running."""
    args = [rq_names.PREFIX, *keys.taken_parts, RUNNING_AT_ONCE]
    return Step("recount", [keys.running(model)], args, nothing)


def ahead(keys: Keys, model: str, priority: Priority, group: str | None, place: int) -> Step[int]:
    """How many jobs of other queues are served before one, as far as that can be told now.

    place: how many jobs of its own queue stand before it.
    """
    names = []
    for each in PRIORITIES[: PRIORITIES.index(priority) + 1]:
        names += [rq_names.queue(keys.queue(model, each)), keys.turns(model, each)]
    own = "" if group is None else encode_group(group)
    return Step("ahead", names, [own, place, GROUPS_LOOKED_AT], int)
