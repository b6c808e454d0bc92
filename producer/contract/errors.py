"""The error hierarchy, and the code that stands for each error on the wire.

GenqueueError
├── JobError                    how a job can fail; `error.code` in its GenerationResult
│   ├── InvalidRequest          invalid_request
│   │   └── PromptTooLong       prompt_too_long
│   ├── UnknownModel            unknown_model
│   ├── UnknownFunction         unknown_function
│   ├── OutOfMemory             out_of_memory
│   ├── JobTimeout              timeout
│   ├── JobExpired              expired
│   ├── WorkerLost              worker_lost
│   └── EngineError             engine_error
├── JobCancelled                cancelled: raised by `result()` and `GenerationResult.raise_for_status()`
├── QueueFull                   queue_full          ┐
├── BrokerUnavailable           broker_unavailable  │
├── NoSuchJob                   no_such_job         ├ on the producer's side, never in a result
├── JobConflict                 job_conflict        │
├── JobStranded                 job_stranded        │
└── WaitTimeout                 wait_timeout        ┘

Every error has a `code`, a `hint` and, where it is about one job, its `job_id`. A message says what the caller can
do about it, and defaults to the class's docstring; the hint says that alone. A code that this version does not
know, which a later one may write, is a plain JobError that carries it.
"""

from typing import ClassVar, Literal

ErrorCode = Literal[
    "invalid_request",
    "unknown_model",
    "unknown_function",
    "prompt_too_long",
    "out_of_memory",
    "timeout",
    "expired",
    "worker_lost",
    "engine_error",
]


class GenqueueError(Exception):
    """Something went wrong in genqueue."""

    code: str = "error"
    """Of the class; of the one error where its class knows no code of its own."""
    hint: str = ""
    """What the caller can do about it: of the class, or of the one error where more is known."""
    job_id: str | None = None
    """The job that it is about, where it is about one."""

    def __init__(self, message: str = "", *, job_id: str | None = None, hint: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())
        if job_id is not None:
            self.job_id = job_id
        if hint is not None:
            self.hint = hint


class JobError(GenqueueError):
    """The job failed."""

    hint = "look at the worker's log"

    #: Whether another attempt at the same request could end otherwise. RQ's `Retry` is honoured only then.
    retryable: ClassVar[bool] = False


class InvalidRequest(JobError):
    """The request is not a valid GenerationRequest: correct it and submit it again."""

    code = "invalid_request"
    hint = "correct it and submit it again"
    param: str | None = None
    """The field that it is about, where it is about one and the producer has found it."""


class PromptTooLong(InvalidRequest):
    """The prompt does not fit into the model's context: shorten it."""

    code = "prompt_too_long"
    hint = "shorten the prompt"


class UnknownModel(JobError):
    """No such model here: add it to configs/model_paths.yaml, or submit to a model that a worker serves."""

    code = "unknown_model"
    hint = "add it to configs/model_paths.yaml, or submit to a model that a worker serves"


class UnknownFunction(JobError):
    """This queue runs worker.jobs.generate and nothing else."""

    code = "unknown_function"
    hint = "enqueue worker.jobs.generate, or submit with a Producer"


class OutOfMemory(JobError):
    """The device ran out of memory: shorten the prompt or lower max_new_tokens."""

    code = "out_of_memory"
    hint = "shorten the prompt or lower max_new_tokens"
    retryable = True


class JobTimeout(JobError):
    """The job took longer than its timeout: raise timeout_s or lower max_new_tokens."""

    code = "timeout"
    hint = "raise timeout_s or lower max_new_tokens"
    retryable = True


class JobExpired(JobError):
    """The job waited in the queue for longer than its queue_ttl_s: submit it again when a worker is free."""

    code = "expired"
    hint = "submit it again when a worker is free, or raise queue_ttl_s"


class WorkerLost(JobError):
    """The workers that took the job died: look at their logs before you submit it again."""

    code = "worker_lost"
    hint = "look at the workers' logs before you submit it again"


class EngineError(JobError):
    """The engine failed on this job: the worker's log has the traceback."""

    code = "engine_error"
    hint = "the worker's log has the traceback"
    retryable = True


class JobCancelled(GenqueueError):
    """The job was cancelled."""

    code = "cancelled"
    hint = "submit it again; result(check=False) has the text that it had"


class QueueFull(GenqueueError):
    """The queue holds max_queued jobs already; nothing was enqueued. Submit again later."""

    code = "queue_full"
    hint = "submit again later, or raise max_queued"


class BrokerUnavailable(GenqueueError):
    """Redis cannot be used: check the URL, the password and that the server runs."""

    code = "broker_unavailable"
    hint = "check the URL, the password and that the server runs"


class NoSuchJob(GenqueueError):
    """No job of that id is known: it was never submitted, or its result_ttl_s has passed."""

    code = "no_such_job"
    hint = "check the id, the server and the prefix; results are kept for result_ttl_s"


class JobConflict(GenqueueError):
    """A job of that id exists with another request, model or prefix: choose another job_id."""

    code = "job_conflict"
    hint = "choose another job_id"


class JobStranded(GenqueueError):
    """Nobody will end the job: it is in no queue and with no worker. Cancel it, which ends its stream."""

    code = "job_stranded"
    hint = "cancel it, which ends its stream, and submit it again under another id"


class WaitTimeout(GenqueueError):
    """The job did not end within the time given. It goes on: wait again, or cancel it."""

    code = "wait_timeout"
    hint = "wait again, or cancel it"


_JOB_ERRORS: dict[str, type[JobError]] = {
    cls.code: cls
    for cls in (
        InvalidRequest,
        PromptTooLong,
        UnknownModel,
        UnknownFunction,
        OutOfMemory,
        JobTimeout,
        JobExpired,
        WorkerLost,
        EngineError,
    )
}


def job_error(code: ErrorCode | str, message: str = "", *, job_id: str | None = None) -> JobError:
    """The exception that stands for an error code of the wire: a plain JobError for a code of a later version."""
    error = _JOB_ERRORS.get(code, JobError)(message, job_id=job_id)
    error.code = code
    return error
