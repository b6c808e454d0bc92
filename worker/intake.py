"""From an RQ job to an Order: everything that is checked before an engine sees a job.

A job comes from whoever can write to Redis. Nothing in it is unpickled, imported or called, and its size is
looked at before it is unpacked or parsed. Pure: reads the job, and does nothing.
"""

import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from producer.contract import (
    FUNCTION,
    GenerationRequest,
    InvalidRequest,
    JobExpired,
    UnknownFunction,
    UnknownModel,
    WorkerLost,
)
from producer.contract.keys import check_job_id
from producer.ledger.take import Taken

from .job import Order
from .queue.rq_types import DeserializationError, Job
from .settings import WorkerSettings

MIN_RESULT_TTL_S = 60.0
"""A subscriber needs the time to read the end, also of a job whose result nobody wants to keep: RQ's own record of
it goes at once where the job asks for 0, see `Bookkeeper._bounded_ttl`."""
MAX_RETRY_INTERVAL_S = 365 * 86_400
_MAX_DIGITS = 20
"""Of a time in ms."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


def check_payload_size(taken: Taken, max_bytes: int) -> None:
    """Raises InvalidRequest when the job is above the bound, or its payload is once it is unpacked."""
    data = taken.raw.get(b"data", b"")
    if taken.size_bytes <= max_bytes:
        try:
            unpacker = zlib.decompressobj()
            unpacker.decompress(data, max_bytes)
            if not unpacker.unconsumed_tail:
                return
        except zlib.error:
            return  # not packed, which RQ allows
    raise InvalidRequest(f"the job is larger than {max_bytes} bytes: shorten the prompt")


def check_record(taken: Taken) -> None:
    """Raises JobError for what can be no job: an id of another form, or a record that is gone."""
    check_job_id(taken.job_id)
    if not taken.raw and not taken.size_bytes:
        raise JobExpired(
            "the job's record is gone from Redis: it was evicted for memory (see maxmemory-policy), deleted, "
            "or its ttl ran out before a worker took it: submit it again"
        )


def check_deaths(raw: Mapping[bytes, bytes], max_attempts: int) -> None:
    """Raises WorkerLost when that many workers and engines have died with the job in their hands.

    The ledger's `count_death` counts them. Orderly ends of workers do not count, nor do deaths before an end.
    """
    deaths = raw.get(b"deaths", b"")[:9]
    if deaths.isdigit() and int(deaths) >= max_attempts:
        raise WorkerLost


def read_order(job: Job, taken: Taken, settings: WorkerSettings, queue_names: tuple[str, ...]) -> Order:
    """What the job asks for.  Raises a JobError that says what is wrong with it.

    taken: the job as it stood in Redis, and when on Redis' clock. All deadlines and ages are on that.
    """
    _check_refused_features(job, settings)
    _check_fields(job)
    request = GenerationRequest.parse(_request_field(job), as_worker=True)
    if not any(job.origin == name or job.origin.startswith(f"{name}@") for name in queue_names):
        raise UnknownModel(
            f"this worker serves {settings.model_name} and not the jobs of queue {job.origin[:80]!r}: "
            "enqueue to generate.<model_name> of a model that a worker serves"
        )
    _check_deadline(job, taken)
    return Order(
        job_id=job.id,
        model=settings.model_name,
        request=request,
        timeout_s=_timeout_s(job, settings),
        result_ttl_s=result_ttl_s(job, settings),
        queued_ms=_queued_ms(job, taken),
        can_retry=job.should_retry,
        has_stream=taken.has_stream,
        begins_anew=_begins_anew(job, taken, request),
    )


def result_ttl_s(job: Job, settings: WorkerSettings) -> float:
    """How long events and result stay: as the job asks, within bounds. RQ's -1 (for ever) is the upper bound."""
    asked = job.get_result_ttl(round(settings.result_ttl_s))
    return settings.max_result_ttl_s if asked < 0 else min(max(asked, MIN_RESULT_TTL_S), settings.max_result_ttl_s)


def _timeout_s(job: Job, settings: WorkerSettings) -> float:
    asked = job.timeout or 0
    return float(min(asked, settings.max_job_timeout_s)) if asked > 0 else settings.max_job_timeout_s


def _request_field(job: Job) -> Any:
    try:
        function, instance, args, kwargs = job.func_name, job.instance, job.args, job.kwargs
    except DeserializationError:
        raise InvalidRequest(
            'the job is not JSON: enqueue with Queue(..., serializer="json"); pickled jobs are never read'
        ) from None
    if function != FUNCTION or instance is not None:
        raise UnknownFunction(
            f"{str(function)[:80]!r} is not run here: this queue runs {FUNCTION} and nothing else"
        )
    if args or not isinstance(kwargs, dict) or set(kwargs) != {"request"}:
        raise InvalidRequest(f"{FUNCTION} takes one keyword argument and no other: request={{...}}")
    return kwargs["request"]


def _check_refused_features(job: Job, settings: WorkerSettings) -> None:
    """RQ features that would run code or call addresses of the job's choosing, or run it more than once."""
    callbacks = (job._success_callback_name, job._failure_callback_name, job._stopped_callback_name)  # noqa: SLF001
    for name in callbacks:
        if name and name not in settings.allowed_callbacks:
            raise InvalidRequest(
                f"callback {name[:80]!r} is refused: leave it out, or list it in the worker's allowed_callbacks"
            )
    for webhook in job.webhooks:
        if not any(_is_below(webhook.url, allowed) for allowed in settings.allowed_webhooks):
            raise InvalidRequest(
                "the webhook is refused: leave it out, or list the beginning of its URL in the worker's "
                "allowed_webhooks"
            )
    if job.repeats_left:
        raise InvalidRequest("repeat is refused: a job id stands for one generation. Submit a job for each")


def _check_fields(job: Job) -> None:
    """What RQ reads without a look at it, and would stumble over later."""
    if not isinstance(job.meta, dict) or job._unreadable_meta is not None:  # noqa: SLF001
        raise InvalidRequest("the job's meta is not a JSON object: it has to be one, as progress is kept in it")
    intervals = [0] if job.retry_intervals is None else job.retry_intervals
    if not isinstance(intervals, list) or not intervals or not all(map(_is_interval, intervals)):
        raise InvalidRequest("the job's retry_intervals are not seconds: use Retry(max=..., interval=[10, 60])")


def _is_interval(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_RETRY_INTERVAL_S


def _check_deadline(job: Job, taken: Taken) -> None:
    """The deadline is for the wait for a worker. A job that was taken in time has had its wait.

    That it stands in a queue again (its worker died, say) is no fault of its user, who may have read a part of its
    text already. The ledger's `take_due` follows the same rule.
    """
    expires_at_ms = _number(taken.raw.get(b"expires_at_ms"))
    if b"expires_at_ms" not in taken.raw:  # of a producer of an earlier version, by its own clock
        expires_at = job.meta.get("expires_at")
        expires_at_ms = expires_at * 1000 if isinstance(expires_at, int | float) else None
    if job.started_at is None and expires_at_ms is not None and taken.now_ms > expires_at_ms:
        raise JobExpired


def _begins_anew(job: Job, taken: Taken, request: GenerationRequest) -> bool:
    """Whether the job's id had an earlier life, with another request: plain RQ enqueues over what is there.

    The hash says what the stream is of. A job of an earlier version does not: it goes on, if it was begun.
    """
    known = taken.raw.get(b"request_digest")
    return job.started_at is None if known is None else known.decode(errors="replace") != request.digest()


def _queued_ms(job: Job, taken: Taken) -> float | None:
    """How long the job stood in its queue. By its producer's clock where plain RQ has enqueued it."""
    queued_at_ms = _number(taken.raw.get(b"queued_at_ms"))
    if queued_at_ms is None:
        queued_at_ms = job.enqueued_at.timestamp() * 1000 if job.enqueued_at else None
    return None if queued_at_ms is None else max(0.0, taken.now_ms - queued_at_ms)


def _number(raw: bytes | None) -> float | None:
    return float(raw) if raw is not None and len(raw) <= _MAX_DIGITS and raw.isdigit() else None


def _is_below(url: str, allowed: str) -> bool:
    """Whether a URL is the allowed one or below it: same scheme, user, host and port, and a path within its."""
    try:
        asked, given = urlsplit(url), urlsplit(allowed)
        same_place = _place_of(asked) == _place_of(given)
    except ValueError:
        return False
    within = asked.path == given.path or asked.path.startswith(given.path.rstrip("/") + "/")
    return same_place and within and ".." not in unquote(asked.path).split("/")


def _place_of(url: SplitResult) -> tuple[str | int | None, ...]:
    return url.scheme, url.username, url.password, url.hostname, url.port or _DEFAULT_PORTS.get(url.scheme)
