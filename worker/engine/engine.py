"""The engine: a model that takes one prompt at a time through prefill and decode.

Knows torch, the model and the contract's request; knows nothing of Redis, RQ, asyncio or threads, and leaves
cancelling and time-outs to whoever iterates.

    engine = Engine.load(path, resolve_device("cuda:0"))
    prompt_ids = engine.encode(request)
    for step in engine.start(request, prompt_ids, seed=7):
        print(step.text, end="")
"""

import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from producer.contract import (
    DEFAULT_MAX_NEW_TOKENS,
    EngineError,
    GenerationRequest,
    InvalidRequest,
    OutOfMemory,
    PromptTooLong,
    TokenLogprob,
)

from .kv_cache import DynamicKVCache, KVCache
from .model_loader import ModelLoader
from .output import Output
from .sampling import NOT_A_TOKEN, Sampler, token_logprob
from .tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Step:
    """One generated token."""

    token_id: int
    text: str
    """Text that this token released; "" while it is held back."""
    logprob: TokenLogprob | None
    finish_reason: Literal["stop", "length"] | None
    """Set on the last step of a generation."""
    stop: str | None
    """The stop string that ended it, if one did."""


class Engine:
    """A model on its device, its tokenizer, and the cache of the one sequence that is in work."""

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer, device: torch.device) -> None:
        """`model` is on `device` already, in eval mode."""
        self.tokenizer = tokenizer
        self.device = device
        self.context_length: int = model.config.max_position_embeddings
        self.vocab_size: int = model.config.vocab_size
        self.eos_token_ids = _eos_token_ids(model, tokenizer)
        self._model = model
        self._cache: KVCache = DynamicKVCache(model.config)
        self._sequence = 0

    @classmethod
    def load(cls, path: Path, device: torch.device, dtype: str = "auto") -> Self:
        """From a local model folder.  Raises ConfigError for a folder that cannot be used.

        `dtype`: float32, bfloat16, float16, or auto: bfloat16 on a GPU and float32 on the CPU.
        """
        tokenizer = Tokenizer(path)  # first, because it is small: a broken folder shows at once
        return cls(ModelLoader(path, dtype).load(device), tokenizer, device)

    def encode(self, request: GenerationRequest) -> Tensor:
        """The prompt's token ids, (seq_len,) int64 on the CPU.

        Raises InvalidRequest for a prompt that the tokenizer, the vocabulary or the chat template refuses, or
        with max_new_tokens beyond the context, and PromptTooLong for one that fills the context.
        """
        if request.prompt_token_ids is not None:
            self._check_vocabulary(request.prompt_token_ids)
            prompt_ids = torch.tensor(request.prompt_token_ids, dtype=torch.int64)
        else:
            prompt_ids = self._encode_text(request)
            self._check_vocabulary(prompt_ids.tolist())
        if not len(prompt_ids):
            raise InvalidRequest("the prompt has no tokens: send at least one character")
        self._max_new_tokens(request, len(prompt_ids))
        return prompt_ids

    def start(
        self, request: GenerationRequest, prompt_ids: Tensor, *, seed: int, resumed_ids: Sequence[int] = ()
    ) -> "Generation":
        """Begin to answer a prompt; nothing is computed before the first step is asked for.

        `prompt_ids` as from `encode`, (seq_len,) int64.  `resumed_ids`: the output of an earlier attempt, after
        which this one goes on.  The engine holds one sequence: starting a generation ends the one before it.
        Raises as `encode` does, and EngineError for resumed ids that cannot be this job's.
        """
        max_new_tokens = self._max_new_tokens(request, len(prompt_ids))
        output = Output(request, self.tokenizer, max_new_tokens=max_new_tokens, eos_token_ids=self.eos_token_ids)
        sampler = Sampler(
            request,
            seed=seed,
            prompt_length=len(prompt_ids),
            eos_token_ids=self.eos_token_ids,
            device=self.device,
        )
        ids = torch.empty((1, len(prompt_ids) + max_new_tokens), dtype=torch.int64, device=self.device)
        ids[0, : len(prompt_ids)] = prompt_ids
        return Generation(
            self,
            output,
            sampler,
            ids,
            prompt_tokens=len(prompt_ids),
            resumed_ids=resumed_ids,
            logprobs=request.logprobs,
        )

    @torch.inference_mode()
    def prefill(self, ids: Tensor) -> Tensor:
        """Read a whole prompt into the emptied cache.  ids: (1, seq_len) int64 on the engine's device.

        Returns the logits after its last token, (1, vocab) float32.
        """
        self._cache.reset()
        self._sequence += 1
        return self._forward(ids)

    @torch.inference_mode()
    def decode(self, token: Tensor) -> Tensor:
        """Advance one step.  token: (1, 1) int64 on the engine's device.

        Returns the logits after it, (1, vocab) float32.  Source: gpt-fast, generate.py, decode_one_token.
        """
        return self._forward(token)

    def release(self) -> None:
        """Forget the sequence in work and give its memory back to torch's allocator."""
        self._cache.reset()

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        dtype: torch.dtype = self._model.dtype
        return dtype

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return int(self._model.num_parameters())

    @property
    def sequence(self) -> int:
        """Grows with every prefill: tells a generation whether the cache is still its own."""
        return self._sequence

    def _forward(self, ids: Tensor) -> Tensor:
        output = self._model(
            input_ids=ids, past_key_values=self._cache.past_key_values, use_cache=True, logits_to_keep=1
        )
        logits: Tensor = output.logits
        return logits[:, -1].float()

    def _encode_text(self, request: GenerationRequest) -> Tensor:
        if request.messages is not None:
            text, add_special_tokens = self.tokenizer.apply_chat_template(request.messages), False
        else:
            assert request.prompt is not None, "GenerationRequest holds exactly one kind of prompt"
            text, add_special_tokens = request.prompt, request.add_special_tokens
        if len(text) > self.context_length * self.tokenizer.max_chars_per_token:
            raise PromptTooLong(  # known without tokenizing, which takes seconds for a long text
                f"the prompt has {len(text)} characters, which are more tokens than the {self.context_length} of "
                "the model's context: shorten it"
            )
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def _check_vocabulary(self, ids: Sequence[int]) -> None:
        if (highest := max(ids, default=0)) >= self.vocab_size:
            raise InvalidRequest(
                f"token id {highest} is not in the vocabulary of this model, which has {self.vocab_size} ids "
                f"(0 to {self.vocab_size - 1})"
            )

    def _max_new_tokens(self, request: GenerationRequest, prompt_tokens: int) -> int:
        room = self.context_length - prompt_tokens
        if room < 1:
            raise PromptTooLong(
                f"the prompt has {prompt_tokens} tokens, and the context of this model holds "
                f"{self.context_length} with the answer: shorten the prompt to {self.context_length - 1} or less"
            )
        wanted = request.max_new_tokens or min(DEFAULT_MAX_NEW_TOKENS, room)
        if wanted > room:
            raise InvalidRequest(
                f"max_new_tokens {wanted} does not fit: after a prompt of {prompt_tokens} tokens, the context of "
                f"{self.context_length} has room for {room}. Set max_new_tokens to {room} or less"
            )
        if request.min_new_tokens > wanted:
            raise InvalidRequest(
                f"min_new_tokens {request.min_new_tokens} is above max_new_tokens, which is {wanted} unless given"
            )
        return wanted


class Generation(Iterator[Step]):
    """The answer to one prompt, token by token.

    The first step prefills, each further one decodes; after the step with a finish_reason there is no other,
    and no forward pass is wasted on what follows it. Look at cancelling and time-outs between steps, and call
    `close` when you stop early.

    A step raises OutOfMemory or EngineError. Either ends this generation and leaves the engine ready for the next.
    """

    def __init__(
        self,
        engine: Engine,
        output: Output,
        sampler: Sampler,
        ids: Tensor,
        *,
        prompt_tokens: int,
        resumed_ids: Sequence[int],
        logprobs: int | None,
    ) -> None:
        """ids: (1, prompt_tokens + max_new_tokens) int64 on the engine's device; the prompt is filled in."""
        self.prompt_tokens = prompt_tokens
        self.resumed_tokens = len(resumed_ids)
        self.prefill_ms: float | None = None
        """From the start of the first step to its token, known after that step."""
        self._engine = engine
        self._output = output
        self._sampler = sampler
        self._ids = ids
        self._logprobs = logprobs
        self.resumed_text = self._replay(resumed_ids)
        """The text that the resumed ids had released."""
        self._steps = self._run()

    @property
    def finish_reason(self) -> Literal["stop", "length"] | None:
        """Set once the last step was taken, or from the start where the resumed ids had ended the job."""
        return self._output.finish_reason

    @property
    def stop(self) -> str | None:
        """The stop string that ended the job, if one did."""
        return self._output.stop

    def __next__(self) -> Step:
        try:
            with torch.inference_mode():
                return next(self._steps)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold the tensors of the step that failed
            self._engine.release()
            torch.cuda.empty_cache()  # fragments may be what was in the way; without a GPU this does nothing
            raise OutOfMemory(
                f"the device ran out of memory at {self._length} tokens: shorten the prompt or lower "
                "max_new_tokens"
            ) from error

    def flush(self) -> str:
        """The text still held back, for a job that is cut short: half a character, a possible stop string."""
        return self._output.flush()

    def close(self) -> None:
        """Stop here, and give the memory of the cache back. Harmless after the last step."""
        self._steps.close()

    def _run(self) -> Generator[Step, None, None]:
        if self.finish_reason:
            return
        started = time.perf_counter()
        logits = self._engine.prefill(self._ids[:, : self._length])
        sequence = self._engine.sequence
        try:
            token, step = self._next_token(logits)
            self.prefill_ms = (time.perf_counter() - started) * 1000
            yield step
            while not step.finish_reason:
                self._check_cache_is_ours(sequence)
                token, step = self._next_token(self._engine.decode(token))
                yield step
        finally:
            if self._engine.sequence == sequence:
                self._engine.release()

    def _next_token(self, logits: Tensor) -> tuple[Tensor, Step]:
        """Choose a token.  logits: (1, vocab) float32.  Returns it as (1, 1) int64 on the device, and its step."""
        token = self._sampler(logits, self._ids[:, : self._length], self._output.token_count)
        token_id = int(token)  # the one wait for the device in a step
        if token_id == NOT_A_TOKEN:
            raise EngineError(
                f"the logits hold NaN or infinity at token {self._length}: the weights are damaged, or overflow "
                "in this dtype (try bfloat16 or float32)"
            )
        if self._sampler.needs_ids:
            self._ids[0, self._length] = token_id
        logprob = None if self._logprobs is None else token_logprob(logits, token_id, self._logprobs)
        text = self._output.push(token_id)
        return token, Step(token_id, text, logprob, self.finish_reason, self.stop)

    def _replay(self, resumed_ids: Sequence[int]) -> str:
        texts = []
        for token_id in resumed_ids:
            if self.finish_reason or not 0 <= token_id < self._engine.vocab_size:
                raise EngineError(
                    f"the tokens of the earlier attempt cannot be this model's: token {self._output.token_count} "
                    "is beyond the end of the output or of the vocabulary. Was the model changed in between?"
                )
            self._ids[0, self._length] = token_id
            texts.append(self._output.push(token_id))
        return "".join(texts)

    @property
    def _length(self) -> int:
        return self.prompt_tokens + self._output.token_count

    def _check_cache_is_ours(self, sequence: int) -> None:
        if self._engine.sequence != sequence:
            raise EngineError("another generation was started on this engine, which holds one at a time")


def _eos_token_ids(model: PreTrainedModel, tokenizer: Tokenizer) -> frozenset[int]:
    """From the generation config, else the config, else the tokenizer, as transformers' generate does."""
    for eos in (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id):
        if eos is not None:
            return frozenset([eos] if isinstance(eos, int) else eos)
    return frozenset()


def _is_out_of_memory(error: RuntimeError) -> bool:
    # The CPU's allocator has no exception class of its own.
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
