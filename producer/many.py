"""`as_completed` and `gather`: many jobs waited for at once, over one blocked connection for each producer.

Two thin shells over `race`, as the two clients are over `operations`: one for a thread, one for an event loop.
"""

import contextlib
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterable, Sequence
from typing import Any, Literal, overload

from .contract import GenerationResult, GenqueueError, InvalidRequest, WaitTimeout
from .handles import AsyncJobHandle, JobHandle
from .nothing import NoHandles, NoResults
from .patience import Patience
from .progress_bar import Bar, progress_bar
from .race import Member, Race
from .racing import ends, ends_async, race_of, race_of_async

Outcome = GenerationResult | GenqueueError


@overload
def as_completed(
    handles: Iterable[JobHandle], *, timeout_s: float | None = None
) -> Generator[JobHandle, None, None]: ...


@overload
def as_completed(
    handles: Iterable[AsyncJobHandle], *, timeout_s: float | None = None
) -> AsyncGenerator[AsyncJobHandle, None]: ...


def as_completed(
    handles: Iterable[Any], *, timeout_s: float | None = None
) -> Generator[JobHandle, None, None] | AsyncGenerator[AsyncJobHandle, None]:
    """The handles in the order in which their jobs end, well or badly; `result()` of each then returns at once.

        for job in as_completed(producer.submit_many(prompts, model="tiny")):
            print(job.result().text)

    It is an async iterator where the handles are those of an AsyncProducer. They may be of several producers. A
    handle that is given twice comes once. One whose job nobody will ever end comes, too: its `result()` raises
    JobStranded or NoSuchJob.

    timeout_s  bound of the whole; inf: none. None: as long as there is a job that it makes sense to wait for, each
               by the rules of `Producer.result`

    Raises InvalidRequest at the call for what is no handle. Raises while it is iterated: WaitTimeout, and the jobs
    go on; BrokerUnavailable.
    """
    given = _handles(handles)
    Patience(timeout_s, 0)  # raises here what is no time, and not with the first handle
    if not given:
        return NoHandles()
    distinct = list({id(handle): handle for handle in given}.values())
    if isinstance(distinct[0], AsyncJobHandle):
        return _as_completed_async(distinct, timeout_s)
    return _as_completed(distinct, timeout_s)


@overload
def gather(
    handles: Iterable[JobHandle],
    *,
    progress: bool = False,
    return_exceptions: Literal[False] = False,
    timeout_s: float | None = None,
) -> list[GenerationResult]: ...


@overload
def gather(
    handles: Iterable[JobHandle],
    *,
    progress: bool = False,
    return_exceptions: bool,
    timeout_s: float | None = None,
) -> list[GenerationResult | GenqueueError]: ...


@overload
def gather(
    handles: Iterable[AsyncJobHandle],
    *,
    progress: bool = False,
    return_exceptions: Literal[False] = False,
    timeout_s: float | None = None,
) -> Coroutine[Any, Any, list[GenerationResult]]: ...


@overload
def gather(
    handles: Iterable[AsyncJobHandle],
    *,
    progress: bool = False,
    return_exceptions: bool,
    timeout_s: float | None = None,
) -> Coroutine[Any, Any, list[GenerationResult | GenqueueError]]: ...


def gather(
    handles: Iterable[Any],
    *,
    progress: bool = False,
    return_exceptions: bool = False,
    timeout_s: float | None = None,
) -> Any:
    """All results, in the order of the handles, as `asyncio.gather` has it. To be awaited for an AsyncProducer's.

        results = gather(producer.submit_many(prompts, model="tiny"), progress=True)

    progress           show a bar on stderr, where that is a terminal
    return_exceptions  put what `result` would raise for a job into the list, in place of its result. Else the
                       first error is raised as it comes: the other jobs go on, and can be gathered again
    timeout_s          bound of the whole, as in `as_completed`

    Raises InvalidRequest at the call for what is no handle; WaitTimeout and BrokerUnavailable as `as_completed`.
    Without a timeout_s, and with return_exceptions, a WaitTimeout stands in the list as well.
    """
    given = _handles(handles)
    Patience(timeout_s, 0)
    if not given:
        return NoResults()
    gathered = _Gathered(given, raises=not return_exceptions, forgives=return_exceptions and timeout_s is None)
    if isinstance(given[0], AsyncJobHandle):
        return _gather_async(gathered, given, timeout_s, progress)
    return _gather(gathered, given, timeout_s, progress)


class _Gathered:
    """What becomes of the handles of one `gather`.

    raises    the first error is raised
    forgives  what was given up stands in the list, too
    """

    def __init__(self, handles: Sequence[Any], *, raises: bool, forgives: bool) -> None:
        self._handles = handles
        self._raises = raises
        self._forgives = forgives
        self._outcomes: dict[int, Outcome] = {}

    def put(self, member: Member[Any], bar: Bar) -> None:
        """Take how one has ended.  Raises its error, if that is wanted."""
        assert member.outcome is not None
        outcome = _error_of(member.outcome) or member.outcome
        self._outcomes |= {id(handle): outcome for handle in member.handles}
        bar.ended(len(member.handles), has_failed=isinstance(outcome, GenqueueError))
        if self._raises and isinstance(outcome, GenqueueError):
            raise outcome

    def give_up(self, race: Race[Any], error: WaitTimeout) -> None:
        """Take that those which are left are waited for no more.  Raises it, unless it is to stand in the list."""
        if not self._forgives:
            raise error
        for member in race.pending.values():
            self._outcomes |= {id(handle): member.gave_up or error for handle in member.handles}

    @property
    def outcomes(self) -> list[Outcome]:
        """In the order of the handles."""
        return [self._outcomes[id(handle)] for handle in self._handles]


def _error_of(outcome: Outcome) -> GenqueueError | None:
    if isinstance(outcome, GenqueueError):
        return outcome
    try:
        outcome.raise_for_status()
    except GenqueueError as error:
        return error
    return None


def _handles(handles: Iterable[Any]) -> list[Any]:
    """All of one kind.  Raises InvalidRequest."""
    try:
        given = list(handles)
    except TypeError:
        raise InvalidRequest(
            f"give a list of handles, as `submit_many` returns one, and no {type(handles).__name__}"
        ) from None
    for place, handle in enumerate(given):
        if not isinstance(handle, JobHandle | AsyncJobHandle):
            raise InvalidRequest(
                f"handles[{place}] is no handle, but a {type(handle).__name__}: give the handles themselves, as "
                "`submit` and `submit_many` return them"
            )
    if len({isinstance(handle, AsyncJobHandle) for handle in given}) > 1:
        raise InvalidRequest("some handles are a Producer's and some an AsyncProducer's: wait for each kind apart")
    return given


def _as_completed(handles: list[JobHandle], timeout_s: float | None) -> Generator[JobHandle, None, None]:
    race, arrivals = race_of(handles, timeout_s)
    handles.clear()  # each is let go of once it was given back
    with contextlib.closing(ends(race, arrivals)) as members:
        for member in members:
            _keep(member)
            yield from member.handles


async def _as_completed_async(
    handles: list[AsyncJobHandle], timeout_s: float | None
) -> AsyncGenerator[AsyncJobHandle, None]:
    race, arrivals = await race_of_async(handles, timeout_s)
    handles.clear()
    async with contextlib.aclosing(ends_async(race, arrivals)) as members:
        async for member in members:
            _keep(member)
            for handle in member.handles:
                yield handle


def _gather(
    gathered: _Gathered, handles: list[JobHandle], timeout_s: float | None, progress: bool
) -> list[Outcome]:
    race, arrivals = race_of(handles, timeout_s)
    with progress_bar(len(handles), wanted=progress) as bar:
        try:
            with contextlib.closing(ends(race, arrivals)) as members:
                for member in members:
                    gathered.put(member, bar)
        except WaitTimeout as error:
            gathered.give_up(race, error)
    return gathered.outcomes


async def _gather_async(
    gathered: _Gathered, handles: list[AsyncJobHandle], timeout_s: float | None, progress: bool
) -> list[Outcome]:
    race, arrivals = await race_of_async(handles, timeout_s)
    with progress_bar(len(handles), wanted=progress) as bar:
        try:
            async with contextlib.aclosing(ends_async(race, arrivals)) as members:
                async for member in members:
                    gathered.put(member, bar)
        except WaitTimeout as error:
            gathered.give_up(race, error)
    return gathered.outcomes


def _keep(member: Member[Any]) -> None:
    """Its handles give the result without asking for it again."""
    if isinstance(member.outcome, GenerationResult):
        for handle in member.handles:
            handle._ended.append(member.outcome)  # noqa: SLF001
