"""The answer to one prompt: prefill, then the decode loop, token by token.

Knows the engine by what it does with rows of tokens, and neither models nor caches.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor

from producer.contract import EngineError, GenerationRequest

from .chooser import Chooser
from .constrained import Constrained
from .faults import is_out_of_memory, out_of_memory
from .model_runner import ModelRunner
from .reuse.prompt_lookup import PromptLookup
from .sampling.sampler import Sampler
from .step import Step
from .text.output import Output
from .text.replaying import begin_with, replay
from .token_ring import TokenRing
from .token_sequence import TokenSequence

T = TypeVar("T")


class Generation(Iterator[Step]):
    """The answer to one prompt, token by token.

    The first step prefills, each further one decodes; after the step with a finish_reason there is no other. Look
    at cancelling and time-outs between steps and between the chunks of `prefill`; call `close` to stop early.

    A step raises OutOfMemory or EngineError. Either ends this generation and leaves the engine ready for the next.
    """

    def __init__(
        self,
        engine: ModelRunner,
        request: GenerationRequest,
        *,
        output: Output,
        sampler: Sampler,
        constrained: Constrained,
        prompt_ids: list[int],
        resumed_ids: Sequence[int],
    ) -> None:
        """Made by `Engine.start`.  `output` and `sampler` are this request's, at their beginnings.

        `constrained`: what may come next, where that is not for the model alone to say.
        `resumed_ids`, or else the request's `output_token_ids`, are replayed at once, without the model.
        """
        self.prompt_tokens = len(prompt_ids)
        self.cached_tokens = 0
        """Tokens of the prompt that the cache held already, known once prefill has begun."""
        self.prefill_ms: float | None = None
        """From the start of prefill to its token, or to where it was stopped."""
        self._engine = engine
        self._output = output
        self._constrained = constrained
        self._logprobs = request.logprobs
        self._cache_salt = request.cache_salt
        given_ids = () if resumed_ids else request.output_token_ids or ()
        self.given_text = begin_with(output, given_ids)
        """Text of the request's `output_token_ids`, as far as it is certain; empty where an attempt had gone on
        from them already."""
        replay(output, resumed_ids, engine.vocab_size)
        self._tokens = TokenSequence(prompt_ids, [*given_ids, *resumed_ids], output.max_new_tokens, engine.device)
        self._many_at_once = engine.reads_several and self._logprobs is None
        """Whether several tokens may be known before the model reads the first of them."""
        drafts = engine.prompt_lookup if request.prompt_lookup is None else request.prompt_lookup
        if drafts and engine.takes_drafts and self._logprobs is None:
            self._tokens.lookup = PromptLookup(self._tokens.ids, engine.speculation_cost)
        self._first: list[int] = []
        """Tokens of the answer that are known before the first is chosen."""
        self._has_begun = False
        self._sequence = -1
        self._started_at: float | None = None
        self._chooser = Chooser(
            sampler, constrained, self._tokens, TokenRing(engine.device), runs_ahead=engine.lookahead > 0
        )
        self._chunks = self._read_prompt()
        self._steps = self._decode()

    @property
    def finish_reason(self) -> Literal["stop", "length"] | None:
        """Set once the last step was taken, or from the start where the resumed ids had ended the job."""
        return self._output.finish_reason

    @property
    def stop(self) -> str | None:
        """The stop string that ended the job, if one did."""
        return self._output.stop

    def prefill(self) -> Iterator[int]:
        """Read the prompt in chunks; after each but the last, yields how many tokens have been read.

        Whoever does not care for the time in between leaves this out: the first step does it.
        """
        while (tokens := self._advance(self._chunks)) is not None:
            yield tokens

    def __next__(self) -> Step:
        for _ in self.prefill():
            pass
        step = self._advance(self._steps)
        if step is None:
            self.close()
            raise StopIteration
        return step

    def flush(self) -> str:
        """The text still held back, for a job that is cut short: half a character, a possible stop string."""
        return self._output.flush()

    def close(self) -> None:
        """Stop here; what the cache holds may serve the next prompt. Harmless after the last step."""
        self._note_prefill()
        self._chunks.close()
        self._steps.close()
        self._engine.end(self._sequence, self._tokens.ids)

    def park(self, run: int) -> None:
        """Once closed: that run goes on from here later, and what the cache holds is kept for it."""
        self._engine.park(self._sequence, run)

    # -- prefill

    def _read_prompt(self) -> Generator[int, None, None]:
        if self.finish_reason:
            return
        self._started_at = time.perf_counter()
        tokens = self._tokens
        done = self._engine.begin(tokens.ids, self.prompt_tokens, self._cache_salt)
        self._sequence = self._engine.sequence
        self.cached_tokens = min(done, self.prompt_tokens)
        self._first = self._take_forced()  # they are read along with the prompt
        length = len(tokens)
        tokens.place_on_device()
        while (end := self._engine.piece_end(done, self.prompt_tokens, length)) < length:
            self._engine.prefill(tokens.on_device[:, done:end], rows=0)
            done = end
            yield done
            self._check_cache_is_ours()
        if not self._chooser.is_settled:
            self._constrained.begin()
            self._chooser.choose(self._engine.prefill(tokens.on_device[:, done:length]))
        self._has_begun = True

    def _note_prefill(self) -> None:
        if self.prefill_ms is None and self._started_at is not None:
            self.prefill_ms = (time.perf_counter() - self._started_at) * 1000

    # -- decode

    def _decode(self) -> Generator[Step, None, None]:
        if not self._has_begun:  # there is nothing to generate, or prefill has failed
            return
        token_ids = [*self._first, *([self._chooser.read()] if self._chooser else [])]
        self._note_prefill()
        while True:
            for count, token_id in enumerate(token_ids, 1):
                step = self._step(token_id, has_next=count < len(token_ids))
                yield step
                if step.finish_reason:
                    return
            self._check_cache_is_ours()
            token_ids = self._next_tokens()

    def _next_tokens(self) -> list[int]:
        """One token, or several where a draft was right."""
        if forced := self._take_forced():
            return forced
        started_at, unread = time.perf_counter(), self._tokens.unread
        if (lookup := self._tokens.lookup) is None:
            return [self._decode_one()]
        if not self._chooser and unread == 1 and (draft := self._draft()):
            token_ids = self._check(draft)
            lookup.note_check(len(draft), len(token_ids) - 1, time.perf_counter() - started_at)
        else:
            token_ids = [self._decode_one()]
            if unread == 1:
                lookup.note_step(time.perf_counter() - started_at)
        return token_ids

    def _take_forced(self) -> list[int]:
        """The tokens that come next whatever the model would say. They are read with the next step."""
        forced = self._constrained.take_forced(self._tokens.room) if self._many_at_once else []
        self._tokens.append_forced(forced)
        return forced

    def _decode_one(self) -> int:
        if not self._chooser:
            self._chooser.choose(self._read_unread())
        while self._may_run_ahead():
            self._chooser.choose(self._engine.decode(self._chooser.last))
        return self._chooser.read()

    def _read_unread(self) -> Tensor:
        """The logits after the last token, (1, vocab) float32."""
        self._constrained.begin()
        if self._tokens.unread == 1:
            return self._engine.decode(self._chooser.last)
        return self._engine.read(self._tokens.unread_ids())

    def _draft(self) -> list[int]:
        """Tokens that may come next; none where there is no draft, or not even its first one may come."""
        draft = self._tokens.draft()
        return draft if draft and self._constrained.allows(draft[0]) else []

    def _may_run_ahead(self) -> bool:
        """Whether to launch the step after the one that is waited for. It is wasted if that one is the last."""
        return (
            len(self._chooser) <= self._engine.lookahead
            and self._engine.lookahead > 0
            and self._logprobs is None  # they need the logits, which the next step overwrites
            and not self._constrained  # what may come depends on the token
            and self._tokens.room > len(self._chooser)
            # A draft needs to know the token before it.
            and not self._draft()
        )

    def _check(self, draft: list[int]) -> list[int]:
        """Read a draft in one pass.  Returns what the model chose: the draft as far as it agrees, and one more."""
        rows = torch.tensor([[self._tokens.ids[-1], *draft]], device=self._engine.device)
        chosen = self._chooser.check(self._engine.read_draft(rows), draft)
        self._engine.keep(len(self._tokens) - 1)
        return chosen

    def _step(self, token_id: int, *, has_next: bool) -> Step:
        logprob = None if self._logprobs is None else self._chooser.logprob(token_id, self._logprobs)
        text = self._output.push(token_id)
        return Step(token_id, text, logprob, self.finish_reason, self.stop, has_next)

    # -- trouble

    def _advance(self, iterator: Iterator[T]) -> T | None:
        """What comes next, or None at the end. An error ends the generation and leaves the engine ready."""
        try:
            with torch.inference_mode():
                return next(iterator, None)
        except BaseException as error:
            self._chooser.clear()
            self._engine.abandon(self._sequence)
            if isinstance(error, Exception) and is_out_of_memory(error):
                raise out_of_memory(error, len(self._tokens)) from error
            raise

    def _check_cache_is_ours(self) -> None:
        if self._engine.sequence != self._sequence:
            raise EngineError("another generation was started on this engine, which holds one at a time")
