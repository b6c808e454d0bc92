"""What may follow the output so far, by a grammar: for each token those that may come, and those that must.

Knows ids, and a grammar as `grammars` makes it; knows no logits and no model. What may follow is a function of the
ids alone, so that a job that is resumed replays its ids through here, and goes on as if nothing had happened.

Where the grammar leaves one text, its tokens are forced: they need no model. They are those into which the
tokenizer cuts that text. As many as are certain are found at once and kept until they have come, because a text
that is cut anew after each token may fall into other ones.
"""

import re
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from producer.contract import GenerationRequest, InvalidRequest, Markup

from .grammar_tokens import grammar_tokens
from .grammars import grammar_of
from .tokenizer import Tokenizer
from .tool_grammars import tool_grammar

T = TypeVar("T")

Words = NDArray[np.uint32]
"""One bit for each token id, lowest first: set where the token may come."""

KEPT_GRAMMARS = 16
"""Compiled. Of a batch with one schema, every job but the first finds it here."""
_STACK_BYTES = 128 * 2**20
"""What compiles a grammar calls itself for each level of it, which takes up to 9 kB. `MAX_GRAMMAR_CHARS` need half
of this; a thread has 8 MiB, and an overflow ends the process."""
_LIMITS = LLParserLimits(verbose_errors=False)
"""Its own, of size and of work for a token, and errors that do not quote the grammar."""


class Constraint:
    """Of one job."""

    def __init__(
        self,
        matcher: LLMatcher,
        tokens: LLTokenizer,
        *,
        ends: frozenset[int],
        min_new_tokens: int,
        vocab_size: int,
    ) -> None:
        """`matcher` at its beginning, for these `tokens`.  `ends`: ids that end the answer.

        `vocab_size`: of the model, whose logits may be more or fewer than the tokenizer has tokens.
        """
        self._matcher = matcher
        self._eos_token_id = tokens.eos_token
        self._ends = sorted(token_id for token_id in ends if token_id < vocab_size)
        self._min_new_tokens = min_new_tokens
        self._vocab_size = vocab_size
        self.words = (tokens.vocab_size + 31) // 32
        """Size of what `fill` fills."""
        self._count = 0
        self._forced: deque[int] = deque()
        self.ends_at: int | None = None
        """How many tokens the answer had when nothing more could follow."""
        self._look()

    @property
    def is_over(self) -> bool:
        """Whether nothing more may follow."""
        return self.ends_at is not None

    def push(self, token_id: int) -> bool:
        """Take the next token. False where it may not come.  Raises as `fill`."""
        self._count += 1
        if token_id in self._ends:
            may_end = self._matcher.is_accepting() and not self._forced
            self.ends_at = self._count
            return may_end
        if self.is_over or not self._may_come(token_id):
            self._check()
            return False
        self._matcher.consume_token(token_id)
        self._check()
        if self._forced and self._forced.popleft() != token_id:  # the text is the same, and it is cut otherwise
            self._forced.clear()
        self._look()
        return True

    def allows(self, token_id: int) -> bool:
        """Whether that token may come next."""
        if self._forced:
            return token_id == self._forced[0]
        return token_id not in self._ends and self._may_come(token_id)

    def take_forced(self, room: int) -> list[int]:
        """The tokens that come in any case, at most `room`: they are taken as by `push`."""
        taken: list[int] = []
        while self._forced and len(taken) < room:
            taken.append(self._forced[0])
            may_come = self.push(taken[-1])
            assert may_come, "what is forced has been looked at"
        return taken

    def fill(self, words: Words) -> None:
        """Say which tokens may come next.  words: (self.words,), contiguous.

        The end-of-sequence tokens are among them where the answer may end, and has `min_new_tokens`.
        Raises InvalidRequest where the grammar takes too much work at this place.
        """
        if self._forced:
            words.fill(0)
            _set(words, self._forced[0])
            return
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        self._check()
        may_end = _is_set(words, self._eos_token_id)
        for token_id in (self._eos_token_id, *self._ends):  # a grammar in Lark may name them, wherever it likes
            _unset(words, token_id)
        if may_end and (self._count >= self._min_new_tokens or not words.any()):
            for token_id in self._ends:
                _set(words, token_id)

    def _may_come(self, token_id: int) -> bool:
        return token_id != self._eos_token_id and self._matcher.validate_tokens([token_id]) == 1

    def _look(self) -> None:
        """Note what is certain now."""
        if self._forced:
            return
        if self._matcher.is_stopped():
            self.ends_at = self._count
            return
        forced = self._matcher.compute_ff_tokens()
        for token_id in forced[: self._matcher.validate_tokens(forced)]:
            if token_id >= self._vocab_size or token_id in self._ends:
                break
            self._forced.append(token_id)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InvalidRequest(
                f"the grammar takes too much work behind token {self._count}: {_what_is_wrong(self._matcher)}. "
                "Make it simpler"
            )


class Constraints:
    """Of one model: compiles grammars for its tokenizer."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._taken_over: Future[LLTokenizer] | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

    def take_over(self) -> None:
        """Begin to read the tokenizer as grammars need it, which takes a second or two: return at once.

        Without it, the first request that is held to something waits for that.
        """
        if self._taken_over is None:
            read = partial(grammar_tokens, self._tokenizer, self._vocab_size)
            self._taken_over = _on_a_thread("take over the tokenizer", read)

    def prepare(self, request: GenerationRequest, markup: Markup | None = None) -> None:
        """Compile what the request asks for, within a second or two.  Raises InvalidRequest.

        markup: of its answer.
        """
        if (grammar := self._grammar(request, markup)) is not None:
            self._matcher(grammar)

    def of(
        self, request: GenerationRequest, ends: frozenset[int], markup: Markup | None = None
    ) -> Constraint | None:
        """For a new answer; None where it may be any text.  Raises InvalidRequest."""
        if (grammar := self._grammar(request, markup)) is None:
            return None
        return Constraint(
            self._matcher(grammar).deep_copy(),
            self._tokens(),
            ends=ends,
            min_new_tokens=request.min_new_tokens,
            vocab_size=self._vocab_size,
        )

    def _grammar(self, request: GenerationRequest, markup: Markup | None) -> str | None:
        if markup is None or markup.tool_calls is None:
            return grammar_of(request)
        spelling = self._tokenizer.chat_template.call_spelling
        return tool_grammar(request, spelling, markup, self._tokenizer.added_token_id)

    def _matcher(self, grammar: str) -> LLMatcher:
        if grammar not in self._compiled:
            compiled = _on_a_thread("compile a grammar", partial(self._compile, grammar), stack_bytes=_STACK_BYTES)
            self._compiled[grammar] = compiled.result()
        self._compiled.move_to_end(grammar)
        while len(self._compiled) > KEPT_GRAMMARS:
            self._compiled.popitem(last=False)
        return self._compiled[grammar]

    def _compile(self, grammar: str) -> LLMatcher:
        matcher = LLMatcher(self._tokens(), grammar, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise InvalidRequest(f"the answer's structure is refused: {_what_is_wrong(matcher)}")
        probe = matcher.deep_copy()
        words: Any = np.frombuffer(probe.compute_bitmask(), np.uint32).copy()
        if probe.is_error():
            raise InvalidRequest("the answer's structure is refused: no text fits it")
        _unset(words, self._tokens().eos_token)
        if not words.any():
            raise InvalidRequest("the answer's structure is refused: it allows no text but an empty one")
        return matcher

    def _tokens(self) -> LLTokenizer:
        self.take_over()
        assert self._taken_over is not None
        if error := self._taken_over.exception():
            raise error.with_traceback(None)  # it is raised for one request after the other
        return self._taken_over.result()


def _on_a_thread(name: str, action: Callable[[], T], *, stack_bytes: int = 0) -> Future[T]:
    """Of its own, which keeps no process from ending.  stack_bytes: 0 for as many as usual."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(action())
        except Exception as error:  # noqa: BLE001 - it is raised again where it was asked for
            outcome.set_exception(error)
        except BaseException as error:  # noqa: BLE001 - a panic of Rust's is no Exception
            failed = InvalidRequest(f"the answer's structure is refused: llguidance failed: {error}")
            outcome.set_exception(failed)

    before = threading.stack_size(stack_bytes)
    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    finally:
        threading.stack_size(before)
    return outcome


_IN_OUR_WORDS = (
    (re.compile(r"oneOf constraints are not supported.*"), "oneOf, of schemas that do not exclude each other"),
    (re.compile(r"(Resource '\S*').*"), r"$ref: \1 is not in the schema, and nothing is fetched"),
    (re.compile(r"Pointer '(\S*)' does not exist"), r"$ref: '\1' is not in the schema"),
    (re.compile(r"Unimplemented keys:"), "keywords that are not supported:"),
)
"""What llguidance says of an option that is none here, or without the keyword."""


def _what_is_wrong(matcher: LLMatcher) -> str:
    said = " ".join(str(matcher.get_error()).split())
    for pattern, ours in _IN_OUR_WORDS:
        said = pattern.sub(ours, said)
    return said[:300]


def _set(words: Words, token_id: int) -> None:
    words[token_id >> 5] |= np.uint32(1 << (token_id & 31))


def _unset(words: Words, token_id: int) -> None:
    words[token_id >> 5] &= np.uint32(~(1 << (token_id & 31)) & 0xFFFFFFFF)


def _is_set(words: Words, token_id: int) -> bool:
    return bool(words[token_id >> 5] >> np.uint32(token_id & 31) & np.uint32(1))
