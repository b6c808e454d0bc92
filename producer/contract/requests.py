"""What a producer asks for: GenerationRequest, the one argument of every job.

Field names and meanings are those of transformers' `GenerationConfig`. Numbers are strict (no "32" for 32),
unknown fields are refused, and every size has a bound that is checked before a tokenizer sees the text.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import Field, StrictBool, StrictStr, ValidationError, field_validator, model_validator

from .chat import (
    MAX_PROMPT_CHARS,
    ChatTemplateKwargs,
    Message,
    ToolChoice,
    Tools,
    check_schemas,
    check_tool_choice,
)
from .errors import InvalidRequest
from .refusals import ELSEWHERE, NONE, Names
from .strict import Float, Frozen, Int
from .structured import Grammar, ResponseFormat, TextFormat
from .version import VERSION

MAX_PROMPT_TOKENS = 1_000_000
DEFAULT_MAX_NEW_TOKENS = 256
MAX_SEED = 2**63 - 1
DRAWN_SEEDS = 2**53
"""A seed that a worker draws is below: every reader of JSON can show it, also one whose numbers are doubles."""


class SamplingParams(Frozen):
    """How tokens are chosen and when to stop. The defaults are greedy decoding.

    The order of the logits processors is transformers': logit_bias, repetition_penalty, (presence and frequency
    penalty), bad_words, min_new_tokens, allowed_token_ids or the answer's structure, temperature, top_k, top_p,
    min_p.
    """

    max_new_tokens: Annotated[Int, Field(ge=1)] | None = None
    """None: 256 beyond `output_token_ids`, or less where the context holds less."""
    min_new_tokens: Annotated[Int, Field(ge=0)] = 0
    temperature: Annotated[Float, Field(ge=0, le=100)] = 0.0
    """0 is greedy."""
    top_p: Annotated[Float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[Int, Field(ge=0)] = 0
    """0: off."""
    min_p: Annotated[Float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[Float, Field(ge=0.01, le=100)] = 1.0
    """Over prompt and output, as in transformers. 1: off. Logits are multiplied or divided by it: far beyond these
    bounds they are no numbers any more."""
    presence_penalty: Annotated[Float, Field(ge=-100, le=100)] = 0.0
    """Subtracted once from the logit of every token of the output so far (OpenAI's definition)."""
    frequency_penalty: Annotated[Float, Field(ge=-100, le=100)] = 0.0
    """Subtracted for each occurrence of a token in the output so far (OpenAI's definition)."""
    seed: Annotated[Int, Field(ge=0, le=MAX_SEED)] | None = None
    """None: the first attempt draws one and keeps it in the stream."""
    stop: Annotated[
        tuple[Annotated[StrictStr, Field(min_length=1, max_length=256)], ...], Field(max_length=16)
    ] = ()
    """Strings that end the text. The match and what follows it are left out of the text."""
    ignore_eos: StrictBool = False
    logprobs: Annotated[Int, Field(ge=0, le=20)] | None = None
    """None: none. N: each token's log-probability under the model (before any processor), and the N likeliest."""
    skip_special_tokens: StrictBool = True
    logit_bias: (
        Annotated[
            dict[Annotated[int, Field(ge=0)], Annotated[Float, Field(ge=-100, le=100)]],
            Field(min_length=1, max_length=1_024),
        ]
        | None
    ) = None
    """Added to the logits of these token ids, before anything else is (OpenAI's definition)."""
    bad_words: (
        Annotated[
            tuple[Annotated[StrictStr, Field(min_length=1, max_length=256)], ...],
            Field(min_length=1, max_length=256),
        ]
        | None
    ) = None
    """Words that are not generated: no token that would complete the tokens of one, with a space before it or
    without."""
    allowed_token_ids: (
        Annotated[tuple[Annotated[Int, Field(ge=0)], ...], Field(min_length=1, max_length=MAX_PROMPT_TOKENS)]
        | None
    ) = None
    """No others are generated, the end-of-sequence token included: name it, or the answer ends by its length."""


class GenerationRequest(SamplingParams):
    """One job: exactly one of prompt, messages and prompt_token_ids, and how to go on from it."""

    prompt: Annotated[StrictStr, Field(min_length=1, max_length=MAX_PROMPT_CHARS)] | None = None
    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=10_000)] | None = None
    prompt_token_ids: (
        Annotated[tuple[Annotated[Int, Field(ge=0)], ...], Field(min_length=1, max_length=MAX_PROMPT_TOKENS)]
        | None
    ) = None
    output_token_ids: (
        Annotated[tuple[Annotated[Int, Field(ge=0)], ...], Field(min_length=1, max_length=MAX_PROMPT_TOKENS)]
        | None
    ) = None
    """The beginning of the output, which an earlier job generated: the worker goes on after the last of them. They
    are output in every way: max_new_tokens and min_new_tokens count them, penalties and stop strings see them, and
    stream and result begin with them. So the job's text is that of one undisturbed run."""
    add_special_tokens: StrictBool = True
    """Whether the tokenizer adds its special tokens to `prompt`. A chat template brings its own."""
    prompt_lookup: StrictBool | None = None
    """Whether drafts are taken from the prompt and the output: for speed. The text is the same, up to near-ties of
    two tokens. None: as the worker is set."""
    cache_salt: Annotated[StrictStr, Field(min_length=1, max_length=256)] | None = None
    """Only requests with the same salt share what has been read of a common beginning, which `usage.cached_tokens`
    and the time of the first token tell. None is a salt like any other. The name is vLLM's."""
    tools: Tools | None = None
    """Functions that the model is told of, by its chat template, and may call."""
    tool_choice: ToolChoice | None = None
    """none: the model is not told of the tools. required, or a function: it has to call one, or that one. None: as
    auto, where there are tools: the model decides."""
    chat_template_kwargs: ChatTemplateKwargs | None = None
    """Variables for the chat template, as `enable_thinking`. The name is vLLM's."""
    response_format: ResponseFormat | None = None
    """OpenAI's: the answer is JSON, or JSON of a schema. It ends where nothing more may follow."""
    grammar: Grammar | None = None
    """The answer matches a regular expression, is one of some texts, or follows a grammar."""

    @field_validator("response_format")
    @classmethod
    def _text_is_no_format(cls, given: ResponseFormat | None) -> ResponseFormat | None:
        return None if isinstance(given, TextFormat) else given  # it is the default, which is never sent

    @model_validator(mode="after")
    def _structure_has_one_source(self) -> Self:
        structures = [name for name in ("response_format", "grammar") if getattr(self, name) is not None]
        if len(structures) > 1:
            raise ValueError("response_format and grammar say the same thing in two ways: give one of them")
        if structures and self.calls_tools:
            raise ValueError(f"tools and {structures[0]}: a call would not keep to it: give one of them")
        if held := structures[0] if structures else self._held_by_tools:
            for name in ("ignore_eos", "bad_words", "allowed_token_ids"):
                if getattr(self, name):
                    raise ValueError(f"{name} and {held} may leave no token between them: give one of them")
        return self

    @model_validator(mode="after")
    def _exactly_one_prompt(self) -> Self:
        given = [name for name in ("prompt", "messages", "prompt_token_ids") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of prompt, messages and prompt_token_ids, not {' and '.join(given) or 'none'}"
            )
        return self

    @model_validator(mode="after")
    def _tools_are_of_a_chat(self) -> Self:
        given = [
            name for name in ("tools", "tool_choice", "chat_template_kwargs") if getattr(self, name) is not None
        ]
        if given and self.messages is None:
            raise ValueError(f"{given[0]} goes through the chat template: give messages with it")
        check_tool_choice(self.tools, self.tool_choice)
        if self._held_by_tools:
            check_schemas(self.tools or ())
        return self

    @model_validator(mode="after")
    def _min_below_max(self) -> Self:
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise ValueError("min_new_tokens must not be above max_new_tokens")
        return self

    @model_validator(mode="after")
    def _leaves_something_to_generate(self) -> Self:
        given = len(self.output_token_ids or ())
        if given and self.max_new_tokens is not None and self.max_new_tokens <= given:
            raise ValueError(
                f"max_new_tokens counts output_token_ids, too, of which there are {given}: it must be above that"
            )
        return self

    @property
    def calls_tools(self) -> bool:
        """Whether the model is told of tools, so that there are calls in the text to be found."""
        return self.tools is not None and self.tool_choice != "none"

    @property
    def has_structure(self) -> bool:
        """Whether the whole answer is held to a format or a grammar."""
        return self.response_format is not None or self.grammar is not None

    @property
    def must_call(self) -> bool:
        """Whether the answer is a call of a tool in any case."""
        return self.calls_tools and self.tool_choice not in (None, "auto")

    @property
    def _held_by_tools(self) -> str | None:
        """What of its tools holds the model to something."""
        if self.must_call:
            return "tool_choice"
        is_strict = self.calls_tools and any(tool.function.strict for tool in self.tools or ())
        return "a strict function" if is_strict else None

    @classmethod
    def parse(cls, fields: Any, *, as_worker: bool = False, beside: Iterable[str] = ()) -> Self:
        """Validate what came from a caller or from the wire. Numbers and arrays of numpy and torch are taken, too.

        as_worker: the producer has let the request through, so that a field that is not known here is more likely
        one of a later version than a slip of the pen; the message says so.
        beside: names that the caller could have meant beside the fields.
        Raises InvalidRequest, whose message names each field that is wrong and never quotes a prompt.
        """
        try:
            # Through JSON, because that is what the wire carries: NaN, lone surrogates and objects that
            # JSON cannot hold are refused here, on the producer's side as on the worker's.
            text = json.dumps(fields, ensure_ascii=False, default=_plain)
            request = cls.model_validate_json(text.encode())
            if "NaN" in text or "Infinity" in text:  # within a schema, say: of a field of ours it was said by now
                json.dumps(fields, allow_nan=False, default=_plain)
        except ValidationError as error:
            names = Names((*cls.model_fields, *beside), ELSEWHERE)
            faults = faults_of(error, names, by_worker=as_worker)
            refusal = InvalidRequest(f"invalid request: {faults}")
            refusal.param = _param_of(error)
            raise refusal from None
        except UnicodeEncodeError:
            raise InvalidRequest(
                "invalid request: it holds a lone surrogate, which is no text: decode its text correctly"
            ) from None
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"the request is not JSON: {_culprit(fields)}{error}") from None
        return request

    def digest(self) -> str:
        """The same for the same request, however it was written: what its id stands for."""
        text = json.dumps(self.to_wire(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def to_wire(self) -> dict[str, Any]:
        """The JSON form, without the fields left at their defaults."""
        return self.model_dump(mode="json", exclude_defaults=True)


def _param_of(error: ValidationError) -> str | None:
    """The field that is named first. What is wrong between several begins with the name of one."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else first["msg"].removeprefix("Value error, ").partition(" ")[0]
    return name if first["loc"] or name in GenerationRequest.model_fields else None


def faults_of(error: ValidationError, names: Names = NONE, *, by_worker: bool = False) -> str:
    """What is wrong with which field, for a message: never with its value, which can be a prompt or a password.

    names: for what is said of one that there is not.
    by_worker: what is said then is a worker's word, see `GenerationRequest.parse`.
    """
    faults = []
    errors = error.errors(include_url=False, include_context=False)
    places = {fault["loc"] for fault in errors}
    for fault in errors:
        if any(place != fault["loc"] and place[: len(fault["loc"])] == fault["loc"] for place in places):
            continue  # of a list, what pydantic says once its faulty items are left out
        where = _place(fault["loc"])
        if by_worker and fault["type"] == "extra_forbidden":
            meant = names.advice(where)
            faults.append(
                f"this worker does not know the field {where!r}: it is older than the producer (genqueue "
                f"{VERSION}), or the name is misspelt{f' ({meant})' if meant else ''}"
            )
            continue
        message = _message(fault["type"], fault["msg"], fault["loc"], fault.get("input"), names)
        faults.append(f"{where}: {message}" if where else message)
    more = len(faults) - 5
    return "; ".join(faults[:5]) + (f"; and {more} more" if more > 0 else "")


def _place(where: tuple[int | str, ...]) -> str:
    """Of a fault. A name that follows itself is the kind of a union and, in it, the field of the same name."""
    parts = [part for at, part in enumerate(where) if isinstance(part, int) or (part,) != where[at - 1 : at]]
    return ".".join(map(str, parts))[:80]


def _message(kind: str, message: str, where: tuple[int | str, ...], value: Any, names: Names) -> str:
    """What pydantic says, or what says more."""
    if kind == "extra_forbidden":
        said = "there is no such field" if len(where) > 1 else "there is no such option"
        meant = names.advice(str(where[0])) if len(where) == 1 else ""
        return f"{said}: {meant}" if meant else said
    if kind == "missing":
        return "it is missing"
    if where == ("logprobs",) and isinstance(value, bool):
        return "it takes a number: 0 for each token's log-probability, N for the N likeliest as well"
    if where == ("prompt",) and isinstance(value, list):
        return (
            "it takes one text: give a chat as messages, tokens as prompt_token_ids, many prompts to submit_many"
        )
    if kind in ("too_short", "too_long"):  # of Python's tuples and dictionaries, which are not the caller's
        return re.sub(r"^\w+ should (.*) after validation", r"it should \1", message)
    return message.removeprefix("Value error, ")


def of_python(value: Any) -> Any:
    """A number or a list of Python's, where it is one of numpy's or torch's: they know how to become one."""
    return value.tolist() if callable(getattr(value, "tolist", None)) else value


def _plain(value: Any) -> Any:
    """For JSON, what is no number or list of Python's."""
    if (plain := of_python(value)) is not value:
        return plain
    if isinstance(value, bytes | bytearray):
        raise TypeError("bytes are no text: decode them")
    raise TypeError(f"a {type(value).__name__} is no number, text or list: convert it")


def _culprit(fields: Any) -> str:
    """The first field that is no JSON, for a message; empty where it is none of them alone."""
    if not isinstance(fields, Mapping):
        return ""
    for name, value in fields.items():
        try:
            json.dumps(value, default=_plain, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            return f"{name!s:.80}: "
    return ""
