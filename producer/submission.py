"""What a submission puts on Redis: validated options and requests, as jobs in RQ's own format.

Pure: builds hashes with RQ's `Job.create(...).to_dict()`, and sends nothing.
"""

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Self, cast

import redis
from pydantic import AfterValidator, Field, StrictInt, StrictStr, ValidationError

from .broker.options import Seconds, WholeSeconds
from .contract import FUNCTION, GenerationRequest, InvalidRequest, Message, Priority, PromptTooLong
from .contract.compatibility import fields_beyond_base
from .contract.groups import check_group
from .contract.keys import Keys, check_job_id
from .contract.refusals import ELSEWHERE, Names
from .contract.requests import faults_of, of_python
from .contract.strict import Frozen
from .ledger.submit import NewJob
from .schemas import check_schema
from .settings import ProducerSettings

Request = GenerationRequest | Mapping[str, Any] | str
"""A request of submit_many: its fields, or a prompt alone."""

MAX_REQUEST_BYTES = 16 * 2**20
"""Of the request as JSON. More than the longest prompt of any context of today."""
MAX_BATCH = 10_000
"""Jobs of one submit_many: one script runs for all of them, and Redis serves nobody else meanwhile."""
HASH_TTL_NET_S = 3_600
"""RQ's own TTL deletes a job silently. It is a net only, this much behind every deadline that the worker keeps."""


def _a_group(group: str) -> str:
    try:
        return check_group(group)
    except InvalidRequest as error:
        raise ValueError(str(error)) from None


_NO_CONNECTION = cast("redis.Redis", object())
"""Nothing is sent from here, but RQ's job wants a connection to hold."""


class SubmitOptions(Frozen):
    """How a job is queued and kept. What is None comes from the settings."""

    priority: Priority = "normal"
    group: Annotated[StrictStr, AfterValidator(_a_group)] | None = None
    """For whom the job is. The groups of a priority take turns."""
    queue_ttl_s: Annotated[Seconds, Field(strict=True)] | None = None
    timeout_s: Annotated[WholeSeconds, Field(strict=True)] | None = None
    result_ttl_s: Annotated[WholeSeconds, Field(strict=True)] | None = None
    max_queued: Annotated[StrictInt, Field(ge=0)] | None = None
    """Cap on the jobs that wait for the model, over its three queues: those of the group, or those without one.
    None: no cap, or that of the settings for a group."""

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Self:
        """Raises InvalidRequest, whose message names each option that is wrong."""
        try:
            return cls.model_validate({name: of_python(value) for name, value in options.items()})
        except ValidationError as error:
            raise InvalidRequest(
                f"invalid options: {faults_of(error, Names(tuple(cls.model_fields), ELSEWHERE))}"
            ) from None


OF_THE_CALL = frozenset({*SubmitOptions.model_fields, "job_id", "job_ids", "model"})
"""Names of arguments that are no fields of a request."""


@dataclass(frozen=True)
class Submission:
    """A job of a batch, and whose id it has."""

    new_job: NewJob
    id_is_ours: bool
    """The id was drawn here: nobody else can have submitted it before."""

    @property
    def job_id(self) -> str:
        """Of the job."""
        return self.new_job.job_id


@dataclass(frozen=True)
class Batch:
    """Jobs for one model that are enqueued together, or not at all."""

    model: str
    priority: Priority
    group: str | None
    max_queued: int | None
    queue_ttl_s: float
    submissions: Sequence[Submission]
    beyond_base: frozenset[frozenset[str]] = frozenset()
    """Fields, request by request, that not every worker knows, and `group`: `check_understood` is asked about
    them.  Empty for requests of the base, about which nobody is asked."""

    @property
    def own_ids(self) -> list[str]:
        """Those that were drawn here: whoever has such a job has it from here."""
        return [submission.job_id for submission in self.submissions if submission.id_is_ours]

    def given_ids(self, created: Sequence[bool]) -> list[str]:
        """Those of the others that are new, as `Operations.submit` says."""
        pairs = zip(self.submissions, created, strict=True)
        return [each.job_id for each, is_new in pairs if is_new and not each.id_is_ours]


def prepare(
    requests: Iterable[GenerationRequest],
    *,
    model: str,
    options: SubmitOptions,
    settings: ProducerSettings,
    job_ids: Sequence[str] | None = None,
) -> Batch:
    """Build the jobs of a batch.  Raises InvalidRequest before anything is sent."""
    requests = list(requests)
    if len(requests) > MAX_BATCH:
        raise InvalidRequest(
            f"{len(requests)} jobs are too many for one call: submit at most {MAX_BATCH} at a time"
        )
    ids = _check_ids(job_ids, len(requests))
    submissions = []
    for row, (request, job_id) in enumerate(zip(requests, ids, strict=True)):
        with naming(row if len(requests) > 1 else None):
            check_schema(request)
            submissions.append(_prepare_one(request, job_id, model, options, settings))
    queue_ttl_s = options.queue_ttl_s or settings.queue_ttl_s
    of_the_job = frozenset({"group"} if options.group is not None else ())
    wanted = (of_the_job | fields_beyond_base(request.to_wire()) for request in requests)
    beyond_base = frozenset(fields for fields in wanted if fields)
    max_queued = options.max_queued
    if max_queued is None and options.group is not None:
        max_queued = settings.group_max_queued
    return Batch(model, options.priority, options.group, max_queued, queue_ttl_s, submissions, beyond_base)


@contextmanager
def naming(row: int | None) -> Iterator[None]:
    """Within, an InvalidRequest names the row of submit_many that it is about."""
    try:
        yield
    except InvalidRequest as error:
        if row is None:
            raise
        raise type(error)(f"requests[{row}]: {error}") from None


def parse_requests(requests: Iterable[Request], sampling: Mapping[str, Any]) -> Iterator[GenerationRequest]:
    """Those of submit_many.  Raises InvalidRequest, which names the row."""
    if isinstance(requests, (str, bytes, Mapping, GenerationRequest)):
        raise InvalidRequest(
            f"requests is one {type(requests).__name__}: give a list of requests, or submit the one with submit()"
        )
    unknown = {name: sampling[name] for name in sampling.keys() - GenerationRequest.model_fields.keys()}
    if unknown:
        parse_request("of every row", unknown)  # which says what is wrong with them, and blames no row
    for row, request in enumerate(requests):
        with naming(row):
            if isinstance(request, Mapping) and (strays := OF_THE_CALL & request.keys()):
                name = min(strays)
                how = "job_ids, a list" if name == "job_id" else f"{name}, for all rows"
                raise InvalidRequest(f"{name}: it is no field of a request: give {how}, to submit_many itself")
            yield parse_request(request, sampling)


def parse_request(request: Request, sampling: Mapping[str, Any]) -> GenerationRequest:
    """A request from its fields, or from a prompt alone; `sampling` holds what the request does not say itself.

    Raises InvalidRequest.
    """
    if isinstance(request, GenerationRequest):
        fields: Mapping[str, Any] = request.model_dump(mode="json", exclude_unset=True)  # a default may be given
    elif isinstance(request, str):
        fields = {"prompt": request}
    elif isinstance(request, Mapping):
        fields = request
    else:
        raise InvalidRequest(
            f"a request is a prompt, a mapping or a GenerationRequest, not {type(request).__name__}"
        )
    return GenerationRequest.parse({**_plain(sampling), **_plain(fields)}, beside=OF_THE_CALL)


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is None, which means not given; with messages as mappings, and one string as a list."""
    given = {name: value for name, value in fields.items() if value is not None}
    if isinstance(messages := given.get("messages"), (list, tuple)):
        given["messages"] = [turn.model_dump() if isinstance(turn, Message) else turn for turn in messages]
    for name in ("stop", "bad_words"):
        if isinstance(word := given.get(name), str):
            given[name] = [word]
    return given


def _check_ids(job_ids: Sequence[str] | None, count: int) -> list[str | None]:
    if job_ids is None:
        return [None] * count
    given = [] if isinstance(job_ids, str) or not isinstance(job_ids, Iterable) else list(job_ids)
    if len(given) != count:
        raise InvalidRequest(f"job_ids must be a list of {count} ids, one for each request")
    ids: list[str | None] = [check_job_id(job_id) for job_id in given]
    if len(set(ids)) != count:
        twice = next(job_id for job_id in ids if ids.count(job_id) > 1)
        raise InvalidRequest(
            f"job_ids must all differ, and {twice!r:.80} is there twice: an id stands for one job"
        )
    return ids


def _prepare_one(
    request: GenerationRequest, job_id: str | None, model: str, options: SubmitOptions, settings: ProducerSettings
) -> Submission:
    from rq.job import Job, JobStatus as RqJobStatus  # noqa: PLC0415 - whoever does not submit does without
    from rq.serializers import JSONSerializer  # noqa: PLC0415
    from rq.utils import now  # noqa: PLC0415

    queue_ttl_s = options.queue_ttl_s or settings.queue_ttl_s
    result_ttl_s = options.result_ttl_s or settings.result_ttl_s
    hash_ttl_s = int(queue_ttl_s) + result_ttl_s + HASH_TTL_NET_S
    wire = request.to_wire()
    job = Job.create(
        FUNCTION,
        kwargs={"request": wire},
        connection=_NO_CONNECTION,
        serializer=JSONSerializer,
        id=job_id or str(uuid.uuid4()),
        origin=Keys(settings.prefix).queue(model, options.priority, options.group),
        status=RqJobStatus.QUEUED,
        # RQ's default description quotes the arguments, and RQ logs it.
        description=f"generate {model}",
        timeout=options.timeout_s or settings.timeout_s,
        result_ttl=result_ttl_s,
        failure_ttl=result_ttl_s,
        ttl=hash_ttl_s,
        # For workers of earlier versions, on this host's clock. Those of today go by the deadline that Redis sets.
        meta={"expires_at": time.time() + queue_ttl_s},
    )
    job.enqueued_at = now()
    if (size := len(job.data)) > MAX_REQUEST_BYTES:
        raise PromptTooLong(
            f"the request takes {size} bytes and {MAX_REQUEST_BYTES} are allowed: shorten the prompt"
        )
    return Submission(NewJob(job.id, request.digest(), hash_ttl_s, job.to_dict()), job_id is None)
