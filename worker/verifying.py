"""Runs a job again, token by token, and says where the two runs part.

Knows an engine that is loaded, and what is left of the job. Knows nothing of Redis.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING

from producer.contract import (
    EngineFacts,
    GenerationRequest,
    InvalidRequest,
    Started,
    StartedData,
    StreamedEvent,
    Tokens,
    UnknownEvent,
)
from producer.ledger.past import Past

if TYPE_CHECKING:
    from .engine import Engine

LIKELIEST = 20
"""So many are listed with their log-probabilities, at most."""


@dataclass(frozen=True, slots=True)
class Token:
    """One of two that differ."""

    id: int
    text: str
    logprob: float | None
    """As the model here has it, before any processor; None where it is not among the likeliest."""


@dataclass(frozen=True, slots=True)
class Parting:
    """Where the run here parts from the job's."""

    index: int
    """In the output, from 0, as the `index` of the stream's events."""
    there: Token
    """Of the job."""
    here: Token | None
    """None: the output ended here, before that token."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of running the job again."""

    job_id: str
    tokens: int
    """Of the job. All but those that it was given were to be compared."""
    given: int
    """Its `output_token_ids`, which it did not generate."""
    parting: Parting | None
    """None: they are equal."""
    differs: tuple[str, ...]
    """What is not the same here as where the job ran, as far as its stream says."""

    @property
    def is_equal(self) -> bool:
        """Whether each token is the same."""
        return self.parting is None


@dataclass(frozen=True, slots=True)
class Ran:
    """An attempt at the job."""

    data: StartedData
    first_index: int
    """Of the first token that is its own."""


def compare(engine: "Engine", past: Past, model: str, here: EngineFacts, attempts: Sequence[Ran]) -> Verdict:
    """Run the job again.  model, here: what is run, and on what; attempts: of the job, from `attempts_of`.

    A job that was cut is compared over its length.
    Raises InvalidRequest for one without tokens of its own, or without a seed, and as `Engine.start` for a request
    that cannot run here.
    """
    ids = past.result.token_ids
    given = len(past.request.output_token_ids or ())
    check_can_be_compared(past)
    request, seed = _again(past)
    prompt_ids = engine.encode(request)
    with closing(engine.start(request, prompt_ids, seed=seed)) as generation:
        ours = chain((step.token_id for step in generation), repeat(None))
        pairs = enumerate(zip(ids[given:], ours, strict=False), given)
        found = next(((index, our) for index, (their, our) in pairs if their != our), None)
    parting = None if found is None else _parting(engine, request, seed, ids, index=found[0], here=found[1])
    made_by = _that_made(attempts, parting.index if parting else len(ids) - 1)
    differs = [*_of_runs(past, model, len(prompt_ids)), *_of_engines(made_by, here)]
    return Verdict(past.job_id, len(ids), given, parting, tuple(differs))


def check_can_be_compared(past: Past) -> None:
    """Raises InvalidRequest for a job that has generated nothing."""
    if len(past.result.token_ids) <= len(past.request.output_token_ids or ()):
        raise InvalidRequest(
            f"job {past.job_id} has no tokens of its own: there is nothing to compare", job_id=past.job_id
        )


def attempts_of(events: Iterator[StreamedEvent | UnknownEvent]) -> list[Ran]:
    """The attempts that a job's stream tells of."""
    found, tokens = [], 0
    for streamed in events:
        if isinstance(streamed, UnknownEvent):
            continue
        if isinstance(streamed.event, Started):
            found.append(Ran(streamed.event.data, tokens))
        elif isinstance(streamed.event, Tokens):
            tokens += len(streamed.event.data.ids)
    return found


def _again(past: Past) -> tuple[GenerationRequest, int]:
    """What is run, and with which seed: the job's request, and no further than the job came."""
    request, ids = past.request, past.result.token_ids
    seed = past.result.seed if past.result.seed is not None else request.seed
    if seed is None:
        if request.temperature > 0:
            raise InvalidRequest(
                f"job {past.job_id} was sampled, and its result holds no seed", job_id=past.job_id
            )
        seed = 0
    changed = {
        "max_new_tokens": max(len(ids), request.min_new_tokens),
        "logprobs": None,
    }
    return request.model_copy(update=changed), seed


def _parting(
    engine: "Engine", request: GenerationRequest, seed: int, ids: Sequence[int], *, index: int, here: int | None
) -> Parting:
    """With log-probabilities, for which the model reads what both have in common once more."""
    listed = request.model_copy(update={"logprobs": LIKELIEST})
    again = engine.start(listed, engine.encode(listed), seed=seed, resumed_ids=ids[:index])
    with closing(again):
        step = None if again.finish_reason else next(again, None)
    known: dict[int, float] = {}
    if step is not None and step.logprob is not None:
        known = {**dict(step.logprob.top), step.token_id: step.logprob.logprob}

    def token(token_id: int) -> Token:
        """With its text, or its name where it shows nothing."""
        text = engine.tokenizer.decode([token_id]) or engine.tokenizer.content(token_id)
        return Token(token_id, text, known.get(token_id))

    return Parting(index, token(ids[index]), None if here is None else token(here))


def _that_made(attempts: Sequence[Ran], index: int) -> EngineFacts | None:
    """What that token of the job was made on; None where nobody says."""
    return next((ran.data.runs_on for ran in reversed(attempts) if ran.first_index <= index), None)


def _of_runs(past: Past, model: str, prompt_tokens: int) -> Iterator[str]:
    if model != past.model:
        yield f"model: {past.model} there, {model} here"
    if (there := past.result.usage.prompt_tokens) != prompt_tokens:
        yield f"prompt: {there} tokens there, {prompt_tokens} here, by another tokenizer or chat template"


def _of_engines(there: EngineFacts | None, here: EngineFacts) -> Iterator[str]:
    if there is None:
        yield "unknown: nothing says what it was generated on"
        return
    for name in EngineFacts.model_fields:
        one, other = getattr(there, name), getattr(here, name)
        if one is not None and one != other:
            yield f"{name}: {one} there, {other} here"
