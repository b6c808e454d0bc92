"""Output items of a response, and the events in which they come: what was thought, said and called, in its order.

Source: OpenAI's API reference and the schema of Open Responses. The events of reasoning are called as in the
latter, `response.reasoning.delta`: OpenAI, which shows none of it, calls them `response.reasoning_text.delta`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from ..contract.views.draft import Part
from ..contract.views.message_view import call_id

IN_PROGRESS, COMPLETED, INCOMPLETE = "in_progress", "completed", "incomplete"

Events = Iterator[dict[str, Any]]
Logprobs = Sequence[Mapping[str, Any]]


class Output:
    """The items of one job's answer."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._made: list[_Item] = []
        self._is_open = False
        """Whether the last of them may grow."""
        self.items: list[dict[str, Any]] = []
        """Those that have ended."""

    @property
    def is_empty(self) -> bool:
        """Whether no item has begun."""
        return not self._made

    @property
    def says_or_is_empty(self) -> bool:
        """Whether a token with which nothing comes may be of something that is said: none of a tag's is."""
        return self.is_empty or (self._is_open and isinstance(self._made[-1], _Message))

    def begin_message(self) -> Events:
        """Something will be said, though nothing of it is there yet."""
        yield from self._begin(_Message(self._id("msg"), len(self._made)))

    def more(self, part: Part, logprobs: Logprobs = ()) -> Events:
        """A piece of the answer.  logprobs: of its tokens, where it is said."""
        if not (self._is_open and self._made[-1].goes_on_with(part)):
            yield from self.end(COMPLETED)
            yield from self._begin(self._item_of(part))
        yield from self._made[-1].more(part.text, logprobs)

    def more_logprobs(self, logprobs: Logprobs) -> Events:
        """Of tokens behind what is said last, as that of eos; of those behind a call nothing is told."""
        if logprobs and self._is_open and self.says_or_is_empty:
            yield from self._made[-1].more("", logprobs)

    def end(self, status: str) -> Events:
        """Nothing more of the last item."""
        if self._is_open:
            self._is_open = False
            self.items.append(item := self._made[-1].item(status))
            yield from self._made[-1].end()
            yield {"type": "response.output_item.done", "output_index": self._made[-1].index, "item": item}

    def _begin(self, item: "_Item") -> Events:
        self._made.append(item)
        self._is_open = True
        yield {"type": "response.output_item.added", "output_index": item.index, "item": item.item(IN_PROGRESS)}
        yield from item.begin()

    def _item_of(self, part: Part) -> "_Item":
        index = len(self._made)
        match part.kind:
            case "content":
                return _Message(self._id("msg"), index)
            case "reasoning":
                return _Reasoning(self._id("rs"), index)
        return _Call(
            f"fc_{self._job_id}-{part.call}", index, part.call, call_id(self._job_id, part.call), part.text
        )

    def _id(self, prefix: str) -> str:
        """The first of a kind has the job's; what is said between two calls is an item more."""
        before = sum(item.id.startswith(prefix) for item in self._made)
        return f"{prefix}_{self._job_id}{f'-{before}' if before else ''}"


class _Item(Protocol):
    """One of them, as it grows."""

    id: str
    index: int

    def goes_on_with(self, part: Part) -> bool:
        """Whether that is a part of it."""

    def item(self, status: str) -> dict[str, Any]:
        """As it is now."""

    def begin(self) -> Events:
        """Behind `output_item.added`."""

    def more(self, text: str, logprobs: Logprobs) -> Events:
        """It grows."""

    def end(self) -> Events:
        """Before `output_item.done`."""


class _Text:
    """What a message and a reasoning have in common: one part, which grows."""

    of_part: str
    event: str

    def __init__(self, item_id: str, index: int) -> None:
        self.id = item_id
        self.index = index
        self._text = ""
        self._has_begun = False

    def goes_on_with(self, part: Part) -> bool:
        return part.kind == self.of_part

    def part(self) -> dict[str, Any]:
        raise NotImplementedError

    def begin(self) -> Events:
        self._has_begun = True
        yield {"type": "response.content_part.added", **self._place(), "part": self.part()}

    def more(self, text: str, logprobs: Logprobs) -> Events:  # noqa: ARG002 - what is thought has none
        self._text += text
        yield {"type": f"{self.event}.delta", **self._place(), "delta": text}

    def end(self) -> Events:
        yield {"type": f"{self.event}.done", **self._place(), "text": self._text}
        yield {"type": "response.content_part.done", **self._place(), "part": self.part()}

    def _content(self) -> list[dict[str, Any]]:
        return [self.part()] if self._has_begun else []

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index, "content_index": 0}


class _Message(_Text):
    """What is said."""

    of_part, event = "content", "response.output_text"

    def __init__(self, item_id: str, index: int) -> None:
        super().__init__(item_id, index)
        self._logprobs: list[Mapping[str, Any]] = []

    def item(self, status: str) -> dict[str, Any]:
        return {
            "type": "message", "id": self.id, "status": status, "role": "assistant", "content": self._content(),
        }  # fmt: skip

    def part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self._text, "annotations": [], "logprobs": list(self._logprobs)}

    def more(self, text: str, logprobs: Logprobs) -> Events:
        self._logprobs += logprobs
        for event in super().more(text, logprobs):
            yield {**event, "logprobs": list(logprobs)}

    def end(self) -> Events:
        done, part_done = super().end()
        yield {**done, "logprobs": list(self._logprobs)}
        yield part_done


class _Reasoning(_Text):
    """What is thought."""

    of_part, event = "reasoning", "response.reasoning"

    def item(self, status: str) -> dict[str, Any]:
        return {"type": "reasoning", "id": self.id, "status": status, "summary": [], "content": self._content()}

    def part(self) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": self._text}


class _Call:
    """A function that is called."""

    def __init__(self, item_id: str, index: int, number: int, its_call_id: str, name: str) -> None:
        self.id = item_id
        self.index = index
        self._number = number
        self._call_id = its_call_id
        self._name = name
        self._arguments: str | None = None

    def goes_on_with(self, part: Part) -> bool:
        return part.kind == "arguments" and part.call == self._number

    def item(self, status: str) -> dict[str, Any]:
        called = {"call_id": self._call_id, "name": self._name, "arguments": self._arguments or ""}
        return {"type": "function_call", "id": self.id, "status": status, **called}

    def begin(self) -> Events:
        yield from ()

    def more(self, text: str, logprobs: Logprobs) -> Events:  # noqa: ARG002 - as above
        if self._arguments is None:  # this is the name, which the item has from its beginning
            self._arguments = ""
            return
        self._arguments += text
        yield {"type": "response.function_call_arguments.delta", **self._place(), "delta": text}

    def end(self) -> Events:
        done = {"name": self._name, "arguments": self._arguments or ""}
        yield {"type": "response.function_call_arguments.done", **self._place(), **done}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index}
