"""What came of a storm: what the checker finds in Redis, in the subscribers' logs and in the counts of deaths."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis

from .checker import TERMINAL, Evidence, Expected, Violation, check, check_subscriber, read
from .deaths import Casualties, Counted, check_deaths, read_counted, stem
from .fleet import Fleet
from .report import Report
from .watchers import Seen
from .workload import Workload


def judge(
    client: redis.Redis,
    requests: Mapping[str, Mapping[str, Any]],
    seen: Mapping[str, Mapping[str, Sequence[Seen]]],
    *,
    fleet: Fleet,
    workload: Workload,
    directory: Path,
) -> Report:
    """All but the recoveries.

    requests, seen: by job; by subscriber and job.  directory: the server's, which keeps what was counted.
    """
    evidence = {each.job_id: each for each in read(client, requests)}
    report = Report(jobs=len(requests), violations=check(client, _expected(requests, evidence, workload)))
    for name, by_job in seen.items():
        for job_id, each in evidence.items():
            report.violations += check_subscriber(name, each, [one.entry for one in by_job.get(job_id, ())])
    report.engine_kills = sum(death.of_engine for death in fleet.deaths)
    report.worker_kills = len(fleet.deaths) - report.engine_kills
    report.faults.update(f"died {death.point}" for death in fleet.deaths)
    report.resumes = sum(
        entry.type == "started" and entry.attempt > 1 for each in evidence.values() for entry in each.entries
    )
    report.parked = sum(
        bool(each.result and each.result["timings"].get("parked_ms")) for each in evidence.values()
    )
    casualties, counted = _casualties(fleet, evidence), read_counted(directory)
    report.deaths_over_jobs = len(casualties.ran)
    report.deaths_taken_back = sum(each.is_taken_back for each in counted)
    report.deaths_counted = len(counted) - report.deaths_taken_back
    report.violations += check_deaths(counted, casualties)
    return report


def counted_by_outage(counted: Sequence[Counted], fleet: Fleet) -> list[Violation]:
    """Deaths that were counted while nobody died and nobody hung. A worker killed just before may come late."""
    killed = {death.worker for death in fleet.deaths}
    return [
        Violation(each.job_id, "deaths", f"the death of {each.lost_by or 'an engine'} was counted for an outage")
        for each in counted
        if stem(each.lost_by) not in killed
    ]


def _expected(
    requests: Mapping[str, Mapping[str, Any]], evidence: Mapping[str, Evidence], workload: Workload
) -> Iterator[Expected]:
    for job_id, request in requests.items():
        started = next((entry for entry in evidence[job_id].entries if entry.type == "started"), None)
        seed = request.get("seed", started.data["seed"] if started else 0)
        yield Expected(job_id, *workload.reference(dict(request), seed))


def _casualties(fleet: Fleet, evidence: Mapping[str, Evidence]) -> Casualties:
    casualties = Casualties(hung=fleet.hung)
    for death in fleet.deaths:
        if death.of_engine:
            casualties.engines.update(death.held)
            continue
        casualties.killed.add(death.worker)
        if death.ran and death.job_id and not _has_ended_in(evidence[death.job_id], death.attempt):
            casualties.ran[death.worker] = death.job_id
    return casualties


def _has_ended_in(evidence: Evidence, attempt: int) -> bool:
    """Whether it was that attempt that ended the job: Redis may have heard of it after the writer's death."""
    return any(entry.type in TERMINAL and entry.attempt == attempt for entry in evidence.entries)
