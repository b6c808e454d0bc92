"""The engine: a model that takes one prompt at a time through prefill and decode.

Knows torch, the model and the contract's request; knows nothing of Redis, RQ, asyncio or threads, and leaves
cancelling and time-outs to whoever iterates.

    engine = Engine.load(path, resolve_device("cuda:0"))
    prompt_ids = engine.encode(request)
    for step in engine.start(request, prompt_ids, seed=7):
        print(step.text, end="")
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from producer.contract import GenerationRequest

from ..engine_options import EngineOptions
from ..progress import ReportProgress, no_progress
from .answers import Answers
from .constrained import Masks
from .forward.choice import SMALL_MODEL_PARAMETERS, choose_path, prepare
from .forward.small_modules import dtype_of, parameters_of
from .forward.static_path import StaticPath
from .generation import Generation
from .loading.device import set_up_device
from .loading.host_memory import mapped_bytes
from .loading.memory import plan_memory
from .loading.model_config import eos_token_ids, read_config, text_config
from .loading.model_loader import ModelLoader
from .loading.small_weights import described
from .reuse.prefix_cache import PrefixCache
from .reuse.prompt_lookup import LONG_DRAFT, SHORT_DRAFT, SpeculationCost
from .text.tokenizer import Tokenizer

DEFAULT_OPTIONS = EngineOptions()
DEFAULT_CHUNKS = {("cuda", False): 2048, ("cpu", False): 256, ("cuda", True): 256, ("cpu", True): 64}
"""Tokens, by device, and by whether the engine is deterministic: a known beginning ends with a chunk, then."""


class Engine:
    """A model on its device, its tokenizer, and the cache of the one sequence that is in work."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        device: torch.device,
        options: EngineOptions = DEFAULT_OPTIONS,
        *,
        ranges: bool | None = None,
        lookahead: int | None = None,
    ) -> None:
        """`model` is on `device` already, in eval mode.

        `ranges`, `lookahead`: as on a GPU or as on a CPU, where the device is not to decide it.
        Raises ConfigError when there is no memory for a context, or the static path cannot be had.
        """
        self.tokenizer = tokenizer
        self.device = device
        set_up_device(device)
        self.options = options
        self.memory = plan_memory(
            model.config, dtype_of(model), device, options.context_length, taken_bytes=mapped_bytes(model)
        )
        self.vocab_size: int = text_config(model.config).vocab_size
        self.lookahead = (1 if device.type == "cuda" else 0) if lookahead is None else lookahead
        """Steps that are launched before the token of the one before them is read."""
        self.prefill_chunk = options.prefill_chunk or DEFAULT_CHUNKS[device.type, options.deterministic]
        self.speculation_cost = SpeculationCost()
        self.path, self.why = choose_path(
            model,
            device,
            options,
            self.memory.context_length,
            ranges=device.type == "cuda" if ranges is None else ranges,
        )
        self._prefixes = (
            PrefixCache(
                self.path.cache, options.prefix_cache_bytes, options.parked_cache_bytes, chunk=self.prefill_chunk
            )
            if isinstance(self.path, StaticPath)
            else None
        )
        self.answers = Answers(
            tokenizer,
            eos_token_ids(model, tokenizer.eos_token_id),
            context_length=self.memory.context_length,
            vocab_size=self.vocab_size,
            device=device,
        )
        """What requests want of their answers."""
        self._model = model
        takes_long = device.type == "cpu" and self.parameters >= SMALL_MODEL_PARAMETERS
        self._masks = Masks(self.vocab_size, device, beside=takes_long)
        self._sequence = 0

    @classmethod
    def load(
        cls,
        path: Path,
        device: torch.device,
        dtype: str = "auto",
        options: EngineOptions = DEFAULT_OPTIONS,
        progress: ReportProgress = no_progress,
    ) -> Self:
        """From a local model folder.  Raises ConfigError for a folder that cannot be used.

        `dtype`: float32, bfloat16, float16, or auto, as `loading.device.default_dtype` has it.
        """
        read_config(path)  # and the tokenizer, first: they are small, and a broken folder shows at once
        tokenizer = Tokenizer(path)
        loader = ModelLoader(path, dtype, weights=options.weights, group=options.weights_group)
        return cls(loader.load(device, progress), tokenizer, device, options)

    def warm_up(self, progress: ReportProgress = no_progress) -> None:
        """Do once what the first job would have to wait for: compile, capture, let libraries set themselves up."""
        self.answers.warm_up()
        shortfalls = [self.why, prepare(self.path, self.options, self.parameters, progress)]
        if isinstance(self.path, StaticPath) and self.path.has_kernels and self.path.compiled:
            shortfalls.append(self.answers.draw_by_kernels())
        self.why = "; ".join(filter(None, shortfalls))
        self.abandon(self._sequence)
        for rows in (self.prefill_chunk, SHORT_DRAFT + 1, LONG_DRAFT + 1, 1):
            if rows < self.context_length:
                self.path.truncate(0)
                self.path.read(torch.zeros((1, rows), dtype=torch.int64, device=self.device))
        self.path.decode(torch.zeros((1, 1), dtype=torch.int64, device=self.device))
        self.abandon(self._sequence)
        if self._prefixes is not None:
            self._prefixes.warm_up()

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        return self.memory.context_length

    def encode(self, request: GenerationRequest) -> Tensor:
        """The prompt's token ids, (seq_len,) int64 on the CPU.  Raises as `Answers.encode` does."""
        return self.answers.encode(request)

    def start(
        self, request: GenerationRequest, prompt_ids: Tensor, *, seed: int, resumed_ids: Sequence[int] = ()
    ) -> Generation:
        """Begin to answer a prompt; the model runs when the first step is asked for, and not before.

        `prompt_ids` as from `encode`, (seq_len,) int64.  `resumed_ids`: the output of an earlier attempt, after
        which this one goes on; it begins with the request's `output_token_ids`. Without one, they are the output
        so far.  The engine holds one sequence: starting a generation ends the one before it.
        Raises as `encode` does, InvalidRequest for `output_token_ids` that have ended the output already, and
        EngineError for resumed ids that cannot be this job's.
        """
        constraint = self.answers.constraint(request, prompt_ids)
        return Generation(
            self,
            request,
            output=self.answers.output(request, prompt_ids, constraint),
            sampler=self.answers.sampler(request, prompt_ids, constraint, seed=seed, may_wait=not self.lookahead),
            constrained=self._masks.of(constraint),
            prompt_ids=prompt_ids.tolist(),
            resumed_ids=resumed_ids,
        )

    def begin(self, ids: Sequence[int], prompt_tokens: int, salt: str | None = None) -> int:
        """Make the cache ready for a new sequence.  Returns how many of its first tokens it holds already.

        prompt_tokens: those of the prompt; behind it are tokens of an earlier attempt.
        salt: only sequences with the same one share their beginnings.
        """
        self._sequence += 1
        if self._prefixes is None:
            self.path.truncate(0)
            return 0
        return self._prefixes.begin(
            torch.tensor(ids), salt, in_chunks=prompt_tokens if self.options.deterministic else 0
        )

    def piece_end(self, done: int, prompt_tokens: int, length: int) -> int:
        """Where the next piece of a sequence of `length` tokens ends, of which `done` are in the cache.

        A chunk, or more for a model that must not be read in chunks. prompt_tokens: those of the prompt; behind it
        are tokens of an earlier attempt.
        """
        if not self.options.deterministic:
            return self.path.piece_end(done, prompt_tokens, length, self.prefill_chunk)
        if done < prompt_tokens:
            return self.path.piece_end(done, prompt_tokens, prompt_tokens, self.prefill_chunk)
        return done + 1  # a product of several rows rounds otherwise than the steps that have read these

    def prefill(self, ids: Tensor, *, rows: int = 1) -> Tensor:
        """Read tokens of the prompt into the cache.  ids: (1, seq_len) int64 on the engine's device.

        Returns the logits after the last `rows` of them, (rows, vocab) float32.
        """
        logits = self.path.read(ids, rows=rows)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # else a whole prompt is launched before anybody can stop it
        return logits

    def decode(self, token: Tensor) -> Tensor:
        """Advance one step.  token: (1, 1) int64 on the engine's device.  Returns logits, (1, vocab) float32."""
        return self.path.decode(token)

    def read(self, ids: Tensor) -> Tensor:
        """Advance by several tokens that are known.  ids: (1, n) int64 on the engine's device.

        Returns the logits after the last of them, (1, vocab) float32.
        """
        for piece in ids.split(1 if self.options.deterministic else self.prefill_chunk, dim=1):
            logits = self.path.read(piece)
        return logits

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The ids that end any answer."""
        return self.answers.eos_token_ids

    @property
    def prompt_lookup(self) -> bool:
        """Whether drafts are taken for requests that do not say."""
        return self.options.prompt_lookup

    @property
    def takes_drafts(self) -> bool:
        """Whether `read_draft` can be used: the cache must be able to forget what was refused."""
        return self.path.rolls_back and not self.options.deterministic

    @property
    def reads_several(self) -> bool:
        """Whether `read` can be used."""
        return self.path.rolls_back or self.options.deterministic

    def read_draft(self, ids: Tensor) -> Tensor:
        """Read a token and the draft after it.  ids: (1, n) int64 on the engine's device.

        Returns the logits after each of them, (n, vocab) float32. `keep` what was accepted, then.
        """
        return self.path.read(ids, rows=ids.shape[1])

    def keep(self, length: int) -> None:
        """Of the tokens in the cache, keep the first `length`."""
        self.path.truncate(length)

    def end(self, sequence: int, ids: Sequence[int]) -> None:
        """A sequence is over.  ids: its tokens; those that the cache holds may serve another prompt.

        Harmless for a sequence that another one has replaced.
        """
        if sequence != self._sequence:
            return
        # The last token has been chosen and not read; behind it may stand a step that was launched too early.
        self.path.truncate(min(self.path.length, len(ids) - 1) if self._prefixes else 0)
        if self._prefixes is not None:
            self._prefixes.note(torch.tensor(ids[: self.path.length], dtype=torch.int64))

    def park(self, sequence: int, run: int) -> None:
        """A run is to go on from a sequence that is over: what was read of it is kept, where there is room.

        Harmless for a sequence that another one has replaced.
        """
        if sequence == self._sequence and self._prefixes is not None:
            self._prefixes.park_for(run)

    def keep_parked(self, runs: Collection[int]) -> None:
        """Of what was parked, only these are to go on yet."""
        if self._prefixes is not None:
            self._prefixes.keep_for(runs)

    def abandon(self, sequence: int) -> None:
        """A sequence has failed: nothing of it is to be trusted."""
        if sequence == self._sequence:
            self.path.truncate(0)
            if self._prefixes is not None:
                self._prefixes.forget()

    @property
    def dtype(self) -> torch.dtype:
        """Of rows, keys and values, and of weights that are not small."""
        return dtype_of(self._model)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return parameters_of(self._model)

    @property
    def small_weights(self) -> str:
        """Forms and bytes of the weights, for people; empty where they are not small."""
        return described(self._model)

    @property
    def sequence(self) -> int:
        """Grows with every prefill: tells a generation whether the cache is still its own."""
        return self._sequence
