"""What goes on in the queues, as `overview` finds it. Values, and nothing that acts."""

from .contract import Priority
from .contract.strict import Frozen
from .job_status import JobState, Progress, WorkerInfo


class WaitingJobs(Frozen):
    """Those of one priority."""

    priority: Priority
    count: int
    oldest_s: float | None = None
    """How long the first of them has waited; None where its record does not say."""


class WaitingJob(Frozen):
    """One of them."""

    job_id: str
    priority: Priority
    group: str | None = None
    waited_s: float | None = None


class WaitingGroup(Frozen):
    """Those of one group, over all priorities."""

    group: str
    count: int


class RunningJob(Frozen):
    """A job that a worker has."""

    job_id: str
    worker: str | None = None
    running_s: float | None = None
    progress: Progress | None = None
    priority: Priority | None = None
    group: str | None = None
    """For whom it is."""


class EndedJob(Frozen):
    """A job that has ended."""

    job_id: str
    state: JobState | str
    ended_s: float | None = None
    """How long ago."""
    progress: Progress | None = None
    group: str | None = None


class ModelOverview(Frozen):
    """The queues of one model."""

    model: str
    workers: tuple[WorkerInfo, ...] = ()
    waiting: tuple[WaitingJobs, ...] = ()
    """By priority, those alone that have any."""
    groups: tuple[WaitingGroup, ...] = ()
    """Groups with the most jobs that wait, the first ten."""
    groups_waiting: int = 0
    """How many groups have jobs that wait."""
    waiting_jobs: tuple[WaitingJob, ...] = ()
    """The next ones, as many as were asked for, about in the order in which they are served."""
    running: tuple[RunningJob, ...] = ()
    finished: int = 0
    """Whose records are kept still, as of the two below."""
    failed: int = 0
    cancelled: int = 0
    ended: tuple[EndedJob, ...] = ()
    """The newest, the last one first."""
    empty_in_s: float | None = None
    """Until all that waits and runs has ended, estimated; None where nothing does, or nobody can tell."""

    @property
    def queued(self) -> int:
        """How many wait."""
        return sum(each.count for each in self.waiting)


class Overview(Frozen):
    """What goes on."""

    suspended: bool
    """Through RQ: no worker takes a job."""
    models: tuple[ModelOverview, ...]
