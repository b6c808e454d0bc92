"""What a scripted worker is asked, and what it has been told to answer. Pure: knows no Redis."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ..contract import FinishReason, GenerationRequest, InvalidRequest, JobError, job_error
from .token_ids import decode, encode

CHUNK_CHARS = 4
"""Characters of a `tokens` event, where an answer is one text."""


@dataclass(frozen=True)
class Asked:
    """A job that a worker was given."""

    job_id: str
    model: str
    request: GenerationRequest
    group: str | None = None
    """For whom it is."""

    @property
    def prompt(self) -> str:
        """The text that is to be answered: the prompt, a chat's last message, or the text of prompt_token_ids."""
        if self.request.messages:
            return self.request.messages[-1].content
        return self.request.prompt or decode(self.request.prompt_token_ids or ())

    @property
    def prompt_tokens(self) -> int:
        """Of the whole prompt: its characters, or its ids."""
        if self.request.messages:
            return sum(len(message.content) for message in self.request.messages)
        return len(self.request.prompt_token_ids or self.request.prompt or "")


Text = str | Iterable[str]
"""An answer: one text, or the text of each `tokens` event."""
AnswerFunction = Callable[[Asked], Text]
"""It may raise a JobError, as OutOfMemory, of which the job then fails."""


@dataclass(frozen=True)
class Answer:
    """What comes of a job: chunks of text, one event each, and how it ends."""

    chunks: tuple[str, ...]
    finish_reason: FinishReason = "stop"
    stop: str | None = None
    """The stop string that ends it."""
    failure: JobError | None = None

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.chunks)

    def after(self, characters: int) -> "Answer":
        """What is left of it behind so many characters."""
        return self._with_chunks(_without_first(self.chunks, characters))

    def behind(self, given: str) -> "Answer":
        """Of a job that goes on with another: what that one had generated comes first, in an event of its own."""
        return self._with_chunks((given, *self.after(len(given)).chunks)) if given else self

    def limited_by(self, request: GenerationRequest) -> "Answer":
        """As the request lets it be: up to a stop string, and no longer than max_new_tokens, where it is given."""
        text, limited = self.text, self
        found = [(text.index(stop), stop) for stop in request.stop if stop in text]
        if found:
            end, stop = min(found)
            limited = Answer(_first(self.chunks, end), "stop", stop)
        most = request.max_new_tokens
        if most is not None and len(limited.text) > most:
            limited = Answer(_first(self.chunks, most), "length")
        return limited

    def _with_chunks(self, chunks: Iterable[str]) -> "Answer":
        return Answer(tuple(chunks), self.finish_reason, self.stop, self.failure)


class Answers:
    """What there is to say, by prompt: what was said of a prompt last counts."""

    def __init__(self) -> None:
        self._known: dict[str, Answer] = {}
        self._function: AnswerFunction | None = None
        self.chunk_chars = CHUNK_CHARS

    def say(self, prompt: str, text: Text) -> None:
        """Answer the prompt with the text."""
        self._known[prompt] = Answer(self._chunks(text))

    def fail(self, prompt: str, code: str, message: str, text: Text) -> None:
        """Fail the prompt's jobs, after that text."""
        self._known[prompt] = Answer(self._chunks(text), "error", failure=job_error(code, message))

    def answer_with(self, function: AnswerFunction | Mapping[str, Text]) -> None:
        """Have a function answer all other prompts, or answer those of a mapping."""
        if isinstance(function, Mapping):
            for prompt, text in function.items():
                self.say(prompt, text)
        else:
            self._function = function

    def answer(self, asked: Asked) -> Answer:
        """To that job.  Raises what the function raises, but for a JobError, which is the job's failure."""
        if asked.prompt in self._known:
            answer = self._known[asked.prompt]
        elif self._function is not None:
            try:
                answer = Answer(self._chunks(self._function(asked)))
            except JobError as error:
                answer = Answer((), "error", failure=error)
        else:
            answer = Answer(self._chunks(f"scripted answer to: {asked.prompt}"))
        return answer.limited_by(asked.request).behind(decode(asked.request.output_token_ids or ()))

    def _chunks(self, text: Text) -> tuple[str, ...]:
        size = self.chunk_chars
        whole = isinstance(text, str)
        chunks = tuple(text[at : at + size] for at in range(0, len(text), size)) if whole else tuple(text)  # type: ignore[index,arg-type]
        for chunk in chunks:
            _check_text(chunk)
        return tuple(filter(None, chunks))


def _check_text(chunk: object) -> None:
    if not isinstance(chunk, str):
        raise TypeError(f"an answer is a text, or the texts of its events, and not {type(chunk).__name__}")
    if any(0xD800 <= token_id < 0xE000 for token_id in encode(chunk)):
        raise InvalidRequest("an answer holds a lone surrogate, which is no text: decode it correctly")


def _first(chunks: Iterable[str], characters: int) -> tuple[str, ...]:
    kept = []
    for chunk in chunks:
        kept.append(chunk[: max(0, characters)])
        characters -= len(chunk)
    return tuple(filter(None, kept))


def _without_first(chunks: Iterable[str], characters: int) -> tuple[str, ...]:
    left = []
    for chunk in chunks:
        left.append(chunk[max(0, characters) :])
        characters -= len(chunk)
    return tuple(filter(None, left))
