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
├── JobCancelled                cancelled: raised by `GenerationResult.raise_for_status()`
├── QueueFull                   queue_full          ┐
├── BrokerUnavailable           broker_unavailable  ├ on the producer's side, never in a result
├── NoSuchJob                   no_such_job         │
├── JobConflict                 job_conflict        │
└── WaitTimeout                 wait_timeout        ┘

A message says what the caller can do about it. It defaults to the class's docstring. A code that this version does
not know, which a later one may write, is a plain JobError that carries it.
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

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class JobError(GenqueueError):
    """The job failed."""

    #: Whether another attempt at the same request could end otherwise. RQ's `Retry` is honoured only then.
    retryable: ClassVar[bool] = False


class InvalidRequest(JobError):
    """The request is not a valid GenerationRequest: correct it and submit it again."""

    code = "invalid_request"


class PromptTooLong(InvalidRequest):
    """The prompt does not fit into the model's context: shorten it."""

    code = "prompt_too_long"


class UnknownModel(JobError):
    """No such model here: add it to configs/model_paths.yaml, or submit to a model that a worker serves."""

    code = "unknown_model"


class UnknownFunction(JobError):
    """This queue runs worker.jobs.generate and nothing else."""

    code = "unknown_function"


class OutOfMemory(JobError):
    """The device ran out of memory: shorten the prompt or lower max_new_tokens."""

    code = "out_of_memory"
    retryable = True


class JobTimeout(JobError):
    """The job took longer than its timeout: raise timeout_s or lower max_new_tokens."""

    code = "timeout"
    retryable = True


class JobExpired(JobError):
    """The job waited in the queue for longer than its queue_ttl_s: submit it again when a worker is free."""

    code = "expired"


class WorkerLost(JobError):
    """The workers that took the job died: look at their logs before you submit it again."""

    code = "worker_lost"


class EngineError(JobError):
    """The engine failed on this job: the worker's log has the traceback."""

    code = "engine_error"
    retryable = True


class JobCancelled(GenqueueError):
    """The job was cancelled."""

    code = "cancelled"


class QueueFull(GenqueueError):
    """The queue holds max_queued jobs already; nothing was enqueued. Submit again later."""

    code = "queue_full"


class BrokerUnavailable(GenqueueError):
    """Redis cannot be used: check the URL, the password and that the server runs."""

    code = "broker_unavailable"


class NoSuchJob(GenqueueError):
    """No job of that id is known: it was never submitted, or its result_ttl_s has passed."""

    code = "no_such_job"


class JobConflict(GenqueueError):
    """A job of that id exists with another request, model or prefix: choose another job_id."""

    code = "job_conflict"


class WaitTimeout(GenqueueError):
    """The job did not end within the time given. It goes on: wait again, or cancel it."""

    code = "wait_timeout"


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


def job_error(code: ErrorCode | str, message: str = "") -> JobError:
    """The exception that stands for an error code of the wire: a plain JobError for a code of a later version."""
    error = _JOB_ERRORS.get(code, JobError)(message)
    error.code = code
    return error
