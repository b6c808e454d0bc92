"""Why a wait ends without what was waited for, in words for whoever waits."""

from .contract import EventId, JobStranded, NoSuchJob, WaitTimeout
from .job_status import JobStatus
from .patience import Patience


def events_gone(job_id: str) -> NoSuchJob:
    """Redis has evicted the stream, or its TTL was shorter."""
    return NoSuchJob(
        f"the events of job {job_id} are gone, its result is still there: ask for that",
        job_id=job_id,
        hint="ask for its result",
    )


def deleted(job_id: str) -> NoSuchJob:
    """It was there when the wait began."""
    return NoSuchJob(f"job {job_id} is not there any more: it was deleted", job_id=job_id)


def after_the_end(job_id: str, cursor: EventId, end: EventId) -> NoSuchJob:
    """The job has ended before the cursor: Redis lost it and it was submitted anew, or that is not its cursor."""
    return NoSuchJob(
        f"job {job_id} has ended with event {end}, and its stream was followed from {cursor}: it was submitted "
        "anew, or the cursor is that of another job. Ask for its result",
        job_id=job_id,
        hint="ask for its result",
    )


def stranded(status: JobStatus) -> JobStranded:
    """Nobody will end it."""
    return JobStranded(f"job {status.job_id}: {status.describe()}", job_id=status.job_id)


def wait_timeout(status: JobStatus, patience: Patience) -> WaitTimeout:
    """What is known of the job when the wait for it is over."""
    job_id, waited = status.job_id, f"was waited for {patience.waited_s:g} s"
    if status.workers or status.has_result or (status.state == "running" and not status.is_with_the_dead):
        advice = "" if status.has_result else ". It goes on: wait again, or cancel it"
        return WaitTimeout(f"job {job_id} {waited}: {status.describe()}{advice}", job_id=job_id)
    hint = start_one(status.model)
    # What is wrong comes first: that nobody is there is what the caller has to know.
    said = f"no live worker serves {status.model}: {hint}. Job {job_id} {waited}: {status.describe_wait()}"
    return WaitTimeout(said, job_id=job_id, hint=hint)


def start_one(model: str) -> str:
    """What to do where nobody serves a model."""
    command = f"`genqueue-worker run --model-name {model}`"
    return f"start one, as {command}, with the same Redis and prefix, or submit to a model that is served"


def unanswered(job_id: str, patience: Patience) -> WaitTimeout:
    """Redis says nothing of the job when the wait for it is over."""
    return WaitTimeout(
        f"job {job_id} was waited for {patience.waited_s:g} s: Redis does not answer, so that nothing is known of "
        "it now. Wait again when Redis is well",
        job_id=job_id,
        hint="wait again when Redis is well",
    )
