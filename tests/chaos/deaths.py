"""Which deaths the workers have counted, and whether each was one.

A job's count goes with its end. So it is read where nothing is lost: the server's append-only file holds every
write in its order. What had died, the storm knows. How a death was noticed stands in the workers' logs.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from .checker import Violation

NO_REWRITE = ("--auto-aof-rewrite-percentage", "0")
"""Options of a server whose append-only file is to be read: a rewrite would keep the state alone."""
_JOB = b"rq:job:"
_WAITS = re.compile(r"job \S+ waits for \S+$", re.MULTILINE)
_IS_DEAD = re.compile(r"worker (\S+) is dead \((\w+)\); job (\S+) is back")


@dataclass(frozen=True)
class Counted:
    """A death that was counted for a job."""

    job_id: str
    lost_by: str = ""
    """The worker that was found dead; empty where its engine has died."""
    is_taken_back: bool = False
    """The worker has come back."""


@dataclass
class Casualties:
    """What the storm did to whom. Workers by the stems of their names, which are used once."""

    ran: dict[str, str] = field(default_factory=dict)
    """The job that ran in each worker that was killed."""
    killed: set[str] = field(default_factory=set)
    hung: set[str] = field(default_factory=set)
    """Workers that were stopped for a while: the others may well take them for dead."""
    engines: Counter[str] = field(default_factory=Counter)
    """How often an engine was killed while its worker held the job."""


def read_counted(directory: Path) -> list[Counted]:
    """The deaths in a server's append-only file, in their order."""
    counted: list[Counted] = []
    for command in _commands(directory):
        match command:
            case [b"HINCRBY", key, b"deaths", b"1"] | [b"HSET", key, b"deaths", b"1"]:
                counted.append(Counted(_job_id(key)))
            case [b"HSET", key, b"lost_by", worker] if counted and counted[-1].job_id == _job_id(key):
                counted[-1] = replace(counted[-1], lost_by=worker.decode())
            case [b"HINCRBY", key, b"deaths", b"-1"]:
                place = max(i for i, each in enumerate(counted) if each.job_id == _job_id(key))
                counted[place] = replace(counted[place], is_taken_back=True)
    return counted


def signs(logs: Iterable[Path]) -> dict[tuple[str, str], str]:
    """By a dead worker's stem and a job that was put back: how the death was noticed."""
    found = (match for log in logs for match in _IS_DEAD.finditer(log.read_text(errors="replace")))
    return {(stem(match[1]), match[3]): match[2] for match in found}


def preemptions(logs: Iterable[Path]) -> int:
    """How often a job was parked, as the logs tell."""
    return sum(len(_WAITS.findall(log.read_text(errors="replace"))) for log in logs)


def stem(worker: str) -> str:
    """Of a worker's name, without what makes it unique for each start."""
    return worker.rpartition("-")[0]


def check_deaths(counted: Sequence[Counted], casualties: Casualties) -> list[Violation]:
    """Whether every death that was counted was one, once, and every death over a job that ran was counted.

    A worker that lived, was taken for dead and took that back has changed nothing.
    """
    standing = [each for each in counted if not each.is_taken_back]
    workers = Counter((stem(each.lost_by), each.job_id) for each in standing if each.lost_by)
    engines = Counter(each.job_id for each in standing if not each.lost_by)
    return [
        *(Violation(job_id, "deaths", detail) for job_id, detail in _wrong(workers, casualties)),
        *(
            Violation(job_id, "deaths", f"{times} deaths of engines were counted, {killed} were killed over it")
            for job_id, times in engines.items()
            if times > (killed := casualties.engines[job_id])
        ),
        *(
            Violation(job_id, "deaths", f"{worker} died over it, and that was not counted")
            for worker, job_id in casualties.ran.items()
            if not workers[worker, job_id]
        ),
    ]


def _wrong(workers: Mapping[tuple[str, str], int], casualties: Casualties) -> Iterator[tuple[str, str]]:
    for (worker, job_id), times in workers.items():
        if times > 1 and worker not in casualties.hung:
            yield job_id, f"the death of {worker} was counted {times} times"
        if worker not in casualties.killed | casualties.hung:
            yield job_id, f"{worker} lived, and its death was counted"


def _job_id(key: bytes) -> str:
    return key.removeprefix(_JOB).decode()


def _commands(directory: Path) -> Iterator[list[bytes]]:
    """The writes in their order, up to one that is not whole yet, or that a kill has cut short."""
    [path] = (directory / "appendonlydir").glob("*.incr.aof")
    with path.open("rb") as lines:
        while head := lines.readline():
            if not head.startswith(b"*"):
                continue  # a comment
            parts = [part for _ in range(int(head[1:])) if (part := _part(lines)) is not None]
            if len(parts) < int(head[1:]):
                return
            yield parts


def _part(lines: BinaryIO) -> bytes | None:
    head = lines.readline()
    if not head.endswith(b"\n"):
        return None
    part = lines.read(int(head[1:]) + 2)
    return part[:-2] if part.endswith(b"\r\n") else None
