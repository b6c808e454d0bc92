"""What both producers have in common, and does no I/O: settings, operations, and batches out of arguments."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Never

from .continuing import ContinueOptions, going_on
from .contract import Keys
from .copies import copies, count_of, ids_of_copies
from .ledger.past import Past
from .operations import Operations
from .settings import ProducerSettings
from .submission import Batch, Request, SubmitOptions, parse_request, parse_requests, prepare
from .submitted import OnInterrupt, Submitted
from .waits import Waits


class BaseProducer:
    """What both producers have: settings, keys, operations, and the check that they can still be used."""

    def __init__(
        self,
        redis_url: str | None,
        settings: ProducerSettings | None,
        prefix: str | None,
        on_interrupt: OnInterrupt,
    ) -> None:
        self._submitted = Submitted(on_interrupt)
        overrides = {"redis_url": redis_url, "prefix": prefix}
        if settings is None:
            settings = ProducerSettings.load(**overrides)
        else:
            given = {name: value for name, value in overrides.items() if value is not None}
            settings = ProducerSettings.load(**{**settings.model_dump(), **given})
        self.settings = settings
        self._keys = Keys(settings.prefix)
        self._operations = Operations(self._keys, settings)
        self._waits = Waits(self._operations)
        self._pid = os.getpid()
        self._closed = False

    def __reduce__(self) -> Never:
        raise TypeError(
            f"a {type(self).__name__} can be neither pickled nor copied, nor can the handles of its jobs: send "
            "their job_id, and make a producer there"
        )

    def _check_usable(self) -> None:
        name = type(self).__name__
        if self._closed:
            raise RuntimeError(f"this {name} is closed: make a new one")
        if self._pid != os.getpid():
            raise RuntimeError(f"this {name} belongs to the process that forked this one: make a new one here")

    def _must_close(self) -> bool:
        """Whether this is the first close, and in the process that the connections belong to."""
        must = not self._closed and self._pid == os.getpid()
        self._closed = self._closed or must
        return must

    def _must_cancel(self) -> bool:
        """Whether to cancel what was submitted, now that Ctrl-C was pressed."""
        return self._submitted.is_kept and not self._closed and self._pid == os.getpid()

    def _prepare_one(
        self, fields: Mapping[str, Any], *, model: str, n: int | None, job_id: str | None, **options: Any
    ) -> Batch:
        n = count_of(n)
        return prepare(
            copies(parse_request(fields, {}), n),
            model=model,
            options=SubmitOptions.parse(options),
            settings=self.settings,
            job_ids=ids_of_copies(job_id, n),
        )

    def _prepare_continued(self, past: Past, max_new_tokens: int | None, options: ContinueOptions) -> Batch:
        queueing = {name: value for name, value in options.items() if value is not None}
        job_id = queueing.pop("new_job_id", None)
        return prepare(
            [going_on(past, max_new_tokens)],
            model=past.model,
            options=SubmitOptions.parse(queueing),
            settings=self.settings,
            job_ids=None if job_id is None else [str(job_id)],
        )

    def _prepare_many(
        self,
        requests: Iterable[Request],
        sampling: Mapping[str, Any],
        *,
        model: str,
        job_ids: Sequence[str] | None,
        **options: Any,
    ) -> Batch:
        return prepare(
            parse_requests(requests, sampling),
            model=model,
            options=SubmitOptions.parse(options),
            settings=self.settings,
            job_ids=job_ids,
        )
