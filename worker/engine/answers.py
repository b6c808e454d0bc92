"""What a request wants of its answer: the ids of its prompt, its text, its choice of tokens, and its structure.

Knows tokenizer, sampler and constraints, and no model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from producer.contract import GenerationRequest, Markup

from .errors import NotSupported
from .sampling.sampler import Sampler
from .text.constraint import Constraint, Constraints
from .text.output import Output
from .text.prompts import Prompts
from .text.tokenizer import Tokenizer


class Answers:
    """Those of one model.  context_length: tokens of prompt and answer together."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        eos_token_ids: frozenset[int],
        *,
        context_length: int,
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self._tokenizer = tokenizer
        self.eos_token_ids = eos_token_ids
        """The ids that end any answer."""
        self._vocab_size = vocab_size
        self._device = device
        self._by_kernels = False
        self._prompts = Prompts(tokenizer, context_length, vocab_size)
        self._constraints = Constraints(tokenizer, vocab_size)

    def warm_up(self) -> None:
        """Begin what the first answer that is held to a structure would have to wait for; return at once."""
        self._constraints.take_over()

    def encode(self, request: GenerationRequest) -> Tensor:
        """The prompt's token ids, (seq_len,) int64 on the CPU.

        Raises InvalidRequest for a prompt that the tokenizer, the vocabulary or the chat template refuses, or
        with max_new_tokens beyond the context, or whose answer is asked for in a form that cannot be had; and
        PromptTooLong for one that fills the context.
        """
        prompt_ids = self._prompts.encode(request)
        self._constraints.prepare(request, self.markup(request, prompt_ids))
        return prompt_ids

    def markup(self, request: GenerationRequest, prompt_ids: Tensor) -> Markup | None:
        """How the parts of the answer are marked in its text.  prompt_ids: as from `encode`."""
        return self._tokenizer.markup(request, prompt_ids.tolist())

    def constraint(self, request: GenerationRequest, prompt_ids: Tensor) -> Constraint | None:
        """What the answer is held to, from its beginning.  Raises as `encode` does."""
        return self._constraints.of(request, self._ends_of(request), self.markup(request, prompt_ids))

    def output(self, request: GenerationRequest, prompt_ids: Tensor, constraint: Constraint | None) -> Output:
        """The answer's text, without a token yet.  Raises as `encode` does."""
        max_new_tokens = self._prompts.max_new_tokens(request, len(prompt_ids))
        return self._output(request, max_new_tokens, constraint)

    def sampler(
        self,
        request: GenerationRequest,
        prompt_ids: Tensor,
        constraint: Constraint | None,
        *,
        seed: int,
        may_wait: bool,
    ) -> Sampler:
        """How the answer's tokens are chosen.  may_wait: whether choosing may wait for the device."""
        return Sampler(
            request,
            seed=seed,
            prompt_length=len(prompt_ids),
            # Where there is a constraint, it lets the answer end when it may.
            eos_token_ids=self._ends_of(request) if constraint is None else frozenset(),
            bad_words_ids=self._prompts.bad_words_ids(request),
            device=self._device,
            may_wait=may_wait,
            by_kernels=self._by_kernels,
        )

    def draw_by_kernels(self) -> str:
        """Have tokens drawn by our kernels, on a GPU.  Returns why not, where they are not exact there."""
        from .sampling.gpu import draw  # noqa: PLC0415 - Triton is where there is a GPU

        try:
            draw.check(self._device, self._vocab_size)
        except NotSupported as error:
            return str(error)
        self._by_kernels = True
        return ""

    def held_back(self, request: GenerationRequest, output_ids: Sequence[int]) -> str:
        """The text that a job with this output has not shown yet, for one that ends without another step."""
        output = self._output(request, len(output_ids) + 1, None)
        for token_id in output_ids:
            output.push(token_id)
        return output.flush()

    def _output(self, request: GenerationRequest, max_new_tokens: int, constraint: Constraint | None) -> Output:
        return Output(
            request,
            self._tokenizer,
            max_new_tokens=max_new_tokens,
            eos_token_ids=self._ends_of(request),
            constraint=constraint,
        )

    def _ends_of(self, request: GenerationRequest) -> frozenset[int]:
        """The ids that end an answer: the model's own, and in a chat what its template ends a turn with."""
        end_of_turn = self._tokenizer.end_of_turn_id
        if request.messages is None or end_of_turn is None or end_of_turn >= self._vocab_size:
            return self.eos_token_ids
        return self.eos_token_ids | {end_of_turn}
