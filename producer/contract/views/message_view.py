"""An answer's text in, its deltas out: OpenAI's, those of a streamed chat completion."""

import hashlib
import string
from collections.abc import Iterator, Sequence
from itertools import groupby

from ..markup import Delta, FunctionCall, FunctionCallDelta, Markup, Parts, ToolCall, ToolCallDelta
from .draft import Draft, Part
from .source import Source, Steps
from .syntaxes import READERS, read_content, read_reasoning

_LETTERS = string.digits + string.ascii_letters
_ID_LENGTH = 9
"""Of letters and digits: Mistral's templates take ids of no other form."""


class MessageView:
    """Finds what is said, thought and called in the text of one job.

    What it finds is a function of the text alone, and not of the pieces in which it comes: read again, from the
    first piece on, a stream gives the same message with the same ids, over any number of attempts.
    """

    def __init__(self, job_id: str, markup: Markup | None) -> None:
        """markup: of the job's first `started` event. None: all is content."""
        self._job_id = job_id
        self._source = Source()
        self._draft = Draft()
        self._reading = self._read(markup or Markup())
        self._said: list[str] = []
        self._thought: list[str] = []
        self._calls: list[tuple[str, list[str]]] = []

    def push(self, text: str) -> Delta | None:
        """Take the next piece; return what it adds to the message, None where that is nothing yet."""
        return self.delta(self.push_parts(text))

    def close(self) -> Delta | None:
        """Nothing follows: return what had been held back, as what it could have become."""
        return self.delta(self.close_parts())

    def push_parts(self, text: str) -> list[Part]:
        """As `push`, for who wants to know what came before what: the pieces, in their order in the text."""
        self._source.feed(text)
        return self._advance()

    def close_parts(self) -> list[Part]:
        """As `close`, in pieces."""
        self._source.close()
        return self._advance()

    def delta(self, parts: Sequence[Part]) -> Delta | None:
        """Those pieces as one delta."""
        return self._delta(parts) if parts else None

    @property
    def parts(self) -> Parts:
        """All of it, so far. Of the last call, arguments may be missing."""
        calls = (
            ToolCall(id=call_id(self._job_id, index), function=FunctionCall(name=name, arguments="".join(pieces)))
            for index, (name, pieces) in enumerate(self._calls)
        )
        return Parts("".join(self._said), "".join(self._thought) or None, tuple(calls))

    def _read(self, markup: Markup) -> Steps[None]:
        if markup.reasoning == "think":
            yield from read_reasoning(self._source, self._draft, is_open=markup.reasoning_open)
        yield from READERS.get(markup.tool_calls or "", read_content)(self._source, self._draft)
        self._draft.end()

    def _advance(self) -> list[Part]:
        next(self._reading, None)
        new = list(self._draft.take_new())
        for part in new:
            self._note(part)
        return new

    def _note(self, part: Part) -> None:
        match part:
            case Part("content", text):
                self._said.append(text)
            case Part("reasoning", text):
                self._thought.append(text)
            case Part("name", name):
                self._calls.append((name, []))
            case Part("arguments", text, index):
                self._calls[index][1].append(text)

    def _delta(self, new: Sequence[Part]) -> Delta:
        def text(kind: str) -> str | None:
            return "".join(part.text for part in new if part.kind == kind) or None

        of_calls = [part for part in new if part.kind in {"name", "arguments"}]
        calls = [self._call_delta(index, parts) for index, parts in groupby(of_calls, key=lambda part: part.call)]
        return Delta(content=text("content"), reasoning=text("reasoning"), tool_calls=tuple(calls) or None)

    def _call_delta(self, index: int, parts: Iterator[Part]) -> ToolCallDelta:
        first, *rest = parts
        begins = first.kind == "name"
        arguments = "".join(part.text for part in (rest if begins else [first, *rest]))
        return ToolCallDelta(
            index=index,
            id=call_id(self._job_id, index) if begins else None,
            type="function" if begins else None,
            function=FunctionCallDelta(name=first.text if begins else None, arguments=arguments),
        )


def parts_of(job_id: str, markup: Markup | None, text: str) -> Parts:
    """Those of a whole text."""
    view = MessageView(job_id, markup)
    view.push(text)
    view.close()
    return view.parts


def call_id(job_id: str, index: int) -> str:
    """Of the call in that place of that job's answer: the same for every reader."""
    number = int.from_bytes(hashlib.sha256(f"{job_id}:{index}".encode()).digest())
    letters = []
    for _ in range(_ID_LENGTH):
        number, place = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[place])
    return "".join(letters)
