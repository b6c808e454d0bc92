"""Every name that genqueue uses on Redis, one function each.

Glossary, with the prefix `gen` (a setting). The braces are literal: they make a Redis Cluster keep all keys
of a job in one slot.

    gen:{JOB}:events    stream    the truth: every event of the job, in order
    gen:{JOB}:result    string    GenerationResult as JSON, written in the same step as the terminal event
    gen:{JOB}:tokens    channel   a mirror of the stream for plain subscribers, at most once
    gen:{JOB}:cancel    string    a durable request to cancel
    gen:{JOB}:waiters   set       wake streams of the producer processes that wait for the job's end: whoever
                                  writes it adds an entry `ended: JOB` to each
    gen:{wake:ID}       stream    of one producer process: an entry ends its blocked read, because it follows one
                                  job more, or because a job whose end it waits for has ended
    gen:{JOB}:deleted   string    the job was deleted, a day ago at most: a worker that still believes that it has
                                  it leaves it so
    gen:{taken:WORKER}  list      ids of the jobs that a worker has taken and not yet put down; what is left in
                                  the list of a dead worker goes back to its queue
    gen:{taken:WORKER.settling}
                        list      ids of jobs that have ended in the hands of dead workers, and whose end a live
                                  worker is telling RQ of
    gen:takers          set       names of the workers that have a list of the first kind, and WORKER.settling for
                                  those that have one of the second

    gen:{limits:OWNER}  hash      what is left to the owner of an API key of its requests and tokens of a minute
    gen:{limits:OWNER}:open
                        zset      its requests that are open, by the ms on Redis' clock until which they count
    gen:{files:OWNER}   zset      ids of its files, by the ms on Redis' clock until which they are kept
    gen:{files:OWNER}:sizes
                        hash      bytes of each, and of all of them
    gen:{files:OWNER}:FILE, gen:{files:OWNER}:FILE:parts
                        hashes    what a file is called and so on, once it is whole; its bytes, in numbered parts
    gen:{batches:OWNER} zset      ids of its batches, by the ms on Redis' clock until which they are kept
    gen:{batches:OWNER}:BATCH
                        hash      one of them
    gen:batches         zset      `OWNER BATCH` of each that is not over, by the ms on Redis' clock until which the
                                  gateway has it that runs it
    gen:batches:runners hash      by which run of which gateway: what it has drawn for it
    gen:{stored:OWNER}  zset      its stored chat completions, by when they were made

    gen:beats           zset      until when each worker counts as alive, in ms on Redis' clock
    gen:{ring:MODEL}    zset      the model's workers, each with the connection that stands for it; by name
    gen:{deadlines:MODEL}
                        zset      until when each job may wait in its queue, in ms on Redis' clock

    generate.MODEL.high, generate.MODEL, generate.MODEL.low    RQ queues, served in this order; with another
                                                               prefix than gen, PREFIX.generate.MODEL and so on
    generate.MODEL.high@GROUP and so on                        a group's own, see `groups`

    gen:{turns:MODEL.high} and so on
                        zset      the groups whose jobs wait there, in the order of their turns; '' for the jobs
                                  without a group, while others wait, too
    gen:{bell:MODEL}    list      holds something while a group waits: what idle workers look at
    gen:{bell:MODEL.low}, gen:{bell:MODEL.high}
                        list      the same of a group above low, and of a high one: what those look at whose
                                  running job is to make way
    gen:{running:MODEL} zset      `GROUP JOB` of each job that a worker has, by name
    gen:{later:MODEL}   zset      queues of groups that have scheduled jobs, each with the time of its first, in s

A job id can hold letters, digits, `_` and `-` only (RQ's rule), so that no id can reach another job's keys.
"""

import re
from pathlib import Path
from typing import Literal

from .errors import InvalidRequest
from .groups import decode_group, encode_group

Priority = Literal["high", "normal", "low"]

FUNCTION = "worker.jobs.generate"
"""The one function that a worker runs."""

DEFAULT_PREFIX = "gen"

_PREFIX = re.compile(r"[^\s{}\ud800-\udfff]{1,64}")
MAX_JOB_ID_CHARS = 128
_JOB_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_JOB_ID_CHARS}}}")
_MODEL_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
_SETTLING = ".settling"
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
"""In the order in which they are served."""
_PRIORITY_SUFFIX: dict[Priority, str] = {"high": ".high", "normal": "", "low": ".low"}
_ABOVE: dict[Priority | None, str] = {None: "", "low": ".low", "normal": ".high"}
"""Of the bells. None rings above high."""


class Keys:
    """The keys and queues of one prefix, which two deployments on one server differ in.

    It holds no braces, so that the job id alone decides the slot, and no part `generate` between dots, so that no
    queue of one prefix has the name of another's.
    """

    def __init__(self, prefix: str = DEFAULT_PREFIX) -> None:
        if not _PREFIX.fullmatch(prefix) or "generate" in prefix.split("."):
            raise ValueError(
                f"prefix {prefix[:80]!r} is not valid: use 1 to 64 characters without braces and white space, "
                "and no part `generate` between dots"
            )
        self.prefix = prefix
        self.queue_prefix = "generate." if prefix == DEFAULT_PREFIX else f"{prefix}.generate."

    def events(self, job_id: str) -> str:
        """Stream: every event of the job, in order."""
        return f"{self.prefix}:{{{job_id}}}:events"

    def result(self, job_id: str) -> str:
        """String: the GenerationResult as JSON."""
        return f"{self.prefix}:{{{job_id}}}:result"

    def tokens(self, job_id: str) -> str:
        """Pub/Sub channel: the mirror of the stream."""
        return f"{self.prefix}:{{{job_id}}}:tokens"

    def cancel(self, job_id: str) -> str:
        """String: present once somebody asked for the job to be cancelled."""
        return f"{self.prefix}:{{{job_id}}}:cancel"

    def deleted(self, job_id: str) -> str:
        """String: for a day after a job was deleted, so that nobody brings it back."""
        return f"{self.prefix}:{{{job_id}}}:deleted"

    def waiters(self, job_id: str) -> str:
        """Set: the wake streams of those who wait for the job's end."""
        return f"{self.prefix}:{{{job_id}}}:waiters"

    def wake(self, follower_id: str) -> str:
        """Stream: ends the blocked read of one producer process. The colon keeps it apart from any job."""
        return f"{self.prefix}:{{wake:{follower_id}}}"

    def taken(self, worker: str) -> str:
        """List: the jobs that a worker has taken and not yet put down."""
        return worker.join(self.taken_parts)

    @property
    def taken_parts(self) -> tuple[str, str]:
        """What stands before and behind a worker's name in the key of its list."""
        return f"{self.prefix}:{{taken:", "}"

    def settling(self, worker: str) -> str:
        """List: the jobs of the dead whose end a worker is telling RQ of."""
        return self.taken(self.settler(worker))

    def settler(self, worker: str) -> str:
        """The worker's second name among the takers: that of its list of ends to settle."""
        return f"{worker}{_SETTLING}"

    @property
    def beats(self) -> str:
        """Sorted set: until when each worker counts as alive, in ms on Redis' clock."""
        return f"{self.prefix}:beats"

    def ring(self, model: str) -> str:
        """Sorted set, by name: the model's workers, each with the connection that stands for it."""
        return f"{self.prefix}:{{ring:{model}}}"

    def deadlines(self, model: str) -> str:
        """Sorted set: until when each job may wait in its queue, in ms on Redis' clock."""
        return f"{self.prefix}:{{deadlines:{model}}}"

    @property
    def takers(self) -> str:
        """Set: the workers that have a list of taken jobs, by the names under which they have one."""
        return f"{self.prefix}:takers"

    def limits(self, owner: str) -> str:
        """Hash: what is left to the owner of an API key of its limits."""
        return f"{self.prefix}:{{limits:{owner}}}"

    def open_requests(self, owner: str) -> str:
        """Sorted set: the owner's requests that are open, by the ms on Redis' clock until which they count."""
        return f"{self.limits(owner)}:open"

    def files(self, owner: str) -> str:
        """Sorted set: an owner's files, by the ms on Redis' clock until which they are kept."""
        return f"{self.prefix}:{{files:{owner}}}"

    def file_sizes(self, owner: str) -> str:
        """Hash: bytes of each of an owner's files, and of all of them."""
        return f"{self.files(owner)}:sizes"

    def file(self, owner: str, file_id: str) -> str:
        """Hash: what is known of a file that is whole."""
        return f"{self.files(owner)}:{file_id}"

    def file_parts(self, owner: str, file_id: str) -> str:
        """Hash: a file's bytes, in parts that are numbered from 0."""
        return f"{self.file(owner, file_id)}:parts"

    def batches(self, owner: str) -> str:
        """Sorted set: an owner's batches, by the ms on Redis' clock until which they are kept."""
        return f"{self.prefix}:{{batches:{owner}}}"

    def batch(self, owner: str, batch_id: str) -> str:
        """Hash: one of them."""
        return f"{self.batches(owner)}:{batch_id}"

    @property
    def open_batches(self) -> str:
        """Sorted set: `OWNER BATCH` of those that are not over, by when whoever runs it has it no more."""
        return f"{self.prefix}:batches"

    @property
    def batch_runners(self) -> str:
        """Hash: who runs each of them."""
        return f"{self.open_batches}:runners"

    def stored(self, owner: str) -> str:
        """Sorted set: an owner's stored chat completions, by when they were made."""
        return f"{self.prefix}:{{stored:{owner}}}"

    def turns(self, model: str, priority: Priority = "normal") -> str:
        """Sorted set: the groups whose jobs wait for the model, in the order of their turns."""
        return f"{self.prefix}:{{turns:{model}{_PRIORITY_SUFFIX[priority]}}}"

    def bell(self, model: str, above: Priority | None = None) -> str:
        """List: holds something while a group's jobs wait for the model; of a priority above that one alone."""
        return f"{self.prefix}:{{bell:{model}{_ABOVE[above]}}}"

    def running(self, model: str) -> str:
        """Sorted set, by name: `GROUP JOB` of each job that a worker has."""
        return f"{self.prefix}:{{running:{model}}}"

    def later(self, model: str) -> str:
        """Sorted set: the queues of groups that have scheduled jobs, each with the time of its first, in s."""
        return f"{self.prefix}:{{later:{model}}}"

    def queue(self, model: str, priority: Priority = "normal", group: str | None = None) -> str:
        """Name of the RQ queue for a model, or for a group's jobs for it.

        Raises InvalidRequest for a name that cannot be one.
        """
        line = f"{self.queue_prefix}{check_model_name(model)}{_PRIORITY_SUFFIX[priority]}"
        return line if group is None else f"{line}@{encode_group(group)}"

    def queues(self, model: str, group: str | None = None) -> tuple[str, str, str]:
        """The three RQ queues of a model, or of a group's jobs for it, in the order in which they are served."""
        return tuple(self.queue(model, priority, group) for priority in PRIORITIES)  # type: ignore[return-value]

    def model_of_queue(self, queue_name: str) -> str | None:
        """The model whose jobs stand in that queue; None for one that is none of this prefix, or of no model."""
        parts = self._parts_of(queue_name)
        return parts[0] if parts else None

    def priority_of_queue(self, queue_name: str) -> Priority | None:
        """Of the jobs in that queue; None as in `model_of_queue`."""
        parts = self._parts_of(queue_name)
        return parts[1] if parts else None

    def group_of_queue(self, queue_name: str) -> str | None:
        """The group whose jobs stand in that queue; None for the jobs without one, too."""
        parts = self._parts_of(queue_name)
        return parts[2] if parts else None

    def _parts_of(self, queue_name: str) -> tuple[str, Priority, str | None] | None:
        if not queue_name.startswith(self.queue_prefix):
            return None
        line, at, encoded = queue_name.removeprefix(self.queue_prefix).partition("@")
        priority: Priority = "high" if line.endswith(".high") else "low" if line.endswith(".low") else "normal"
        model = line.removesuffix(_PRIORITY_SUFFIX[priority])
        group = decode_group(encoded) if at else None
        if not _is_model_name(model) or (at and group is None):
            return None
        return model, priority, group


def priorities_above(priority: Priority | None) -> tuple[Priority, ...]:
    """Those that go before it, in their order; all where it is None."""
    return PRIORITIES if priority is None else PRIORITIES[: PRIORITIES.index(priority)]


def worker_of_taker(taker: str) -> str:
    """The worker behind a name among the takers."""
    return taker.removesuffix(_SETTLING)


def check_job_id(job_id: str) -> str:
    """Return the job id.  Raises InvalidRequest when it is not one."""
    if not isinstance(job_id, str) or not _JOB_ID.fullmatch(job_id):
        raise InvalidRequest(
            f"job id {str(job_id)[:40]!r} is not valid: use 1 to 128 letters, digits, underscores and dashes"
        )
    return job_id


def check_model_name(model: str) -> str:
    """Return the model name.  Raises InvalidRequest when it is not one.

    A name that ends in `.high` or `.low` would be another model's priority queue.
    """
    if not isinstance(model, str) or not _is_model_name(model):
        if "/" in str(model):
            rule = (
                "an id or a folder is none; give the name that a worker serves it by (configs/model_paths.yaml)"
                f"{_id_hint(str(model))}"
            )
        else:
            rule = (
                "use up to 64 letters, digits, '_', '-' and '.', no '.' in front and no .high or .low at its end"
            )
        raise InvalidRequest(f"model name {str(model)[:40]!r} is not valid: {rule}")
    return model


def model_name_of_folder(folder: Path) -> str:
    """The name of a model that has a folder and no other name: the folder's.

    That of a folder in the cache of the Hugging Face Hub (`models--ORG--NAME/snapshots/COMMIT`) is its model's.
    Raises InvalidRequest for a folder whose name cannot be one.
    """
    folder = folder.absolute()
    if folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--"):
        name = folder.parents[1].name.rpartition("--")[2]
    else:
        name = folder.name if folder.name != ".." else folder.resolve().name
    try:
        return check_model_name(name)
    except InvalidRequest as error:
        raise InvalidRequest(f"the folder's name is the model's, and {error}: or give --model-name") from None


def _id_hint(model: str) -> str:
    """For an id of the Hugging Face Hub, which is taken for a name now and then."""
    return f", which may be {model.partition('/')[2]}" if re.fullmatch(r"[\w.-]+/[\w.-]+", model) else ""


def _is_model_name(model: str) -> bool:
    return _MODEL_NAME.fullmatch(model) is not None and not model.endswith((".high", ".low"))
