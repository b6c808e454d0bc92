"""From logits to the next token. Knows the sampling fields of a request, and nothing of models or text.

Every choice is an argmax: greedy over the processed logits, sampled over the processed logits plus Gumbel noise
(the Gumbel-max trick), which draws from their softmax. The noise is a pure function of (seed, position, token
id), so that a job that is resumed in another process, on another device, draws what it would have drawn.
Where it may not wait, nothing here waits for the device.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from producer.contract import EngineError, InvalidRequest, JobError, SamplingParams, TokenLogprob

from .candidates import Candidates, Floats, Ids
from .noise import GumbelNoise
from .processors import apply, build_cutoffs, build_processors, is_alike_everywhere, is_greedy, looks_at_ids

NOT_A_TOKEN = -1
"""Stands for a token where the logits hold NaN or infinity."""


class Sampler:
    """Chooses the tokens of one job."""

    def __init__(
        self,
        params: SamplingParams,
        *,
        seed: int,
        prompt_length: int,
        eos_token_ids: frozenset[int],
        device: torch.device,
        bad_words_ids: Sequence[Sequence[int]] = (),
        may_wait: bool = True,
        by_kernels: bool = False,
    ) -> None:
        """`bad_words_ids`: of the request's `bad_words`, as the tokenizer has them.

        `may_wait`: numbers may be looked at, as costs nothing on a CPU; on a GPU a step could not run ahead.
        `by_kernels`: choose by ours, which are for a GPU."""
        self._processors = build_processors(
            params,
            prompt_length=prompt_length,
            eos_token_ids=eos_token_ids,
            device=device,
            bad_words_ids=bad_words_ids,
        )
        self._may_wait = may_wait
        self._cutoffs = build_cutoffs(params)
        self._candidates = Candidates(params) if self._cutoffs and may_wait else None
        self._noise = None if is_greedy(params) else GumbelNoise(seed, device)
        self._draw_on_device: Callable[[Tensor, int], Tensor] | None = None
        if by_kernels:
            from .gpu.draw import Draw  # noqa: PLC0415 - Triton is where there is a GPU

            self._draw_on_device = Draw(params, seed, device)
        self._not_a_token = torch.full((1, 1), NOT_A_TOKEN, device=device)
        self.needs_ids = any(map(looks_at_ids, self._processors))
        """Whether `ids` are looked at; otherwise only their number is, and the caller need not keep them."""
        self.takes_rows = not may_wait and all(map(is_alike_everywhere, self._processors))
        """Whether the tokens at several positions can be chosen at once, with one wait for all."""

    def choose(self, logits: Tensor, ids: Tensor, position: int, bias: Tensor | None = None) -> Tensor:
        """The next token, (1, 1) int64 on the device of the logits, or NOT_A_TOKEN, also where none is left.

        logits: (1, vocab) float32.  ids: (1, seq_len) int64, the prompt and the output so far.
        position: how many tokens the output has so far.
        bias: (1, vocab) float32 on the device of the logits, -inf for tokens that may not come; None: none.
        With `takes_rows`, also (rows, vocab) of consecutive positions from there on; returns (rows, 1), then.
        """
        scores = apply(self._processors, ids, logits)
        if bias is not None:
            scores = scores + bias
        if self._draw_on_device is not None:
            return self._draw_on_device(scores, position)
        if self._candidates is not None:
            return self._draw(*self._candidates(scores), position, logits.shape[-1])
        scores = apply(self._cutoffs, ids, scores)
        if self._noise is not None:
            noise = [self._noise(position + row, logits.shape[-1]) for row in range(len(logits))]
            scores = scores + torch.stack(noise)
        # NaN wins every max: one look at the winner finds a NaN anywhere.
        best, token = scores.max(dim=-1, keepdim=True)
        if self._may_wait:  # to look costs a tenth of what an operation on tensors does
            return token if math.isfinite(best.item()) else self._not_a_token
        return torch.where(best.isfinite(), token, self._not_a_token)

    def _draw(self, scores: Floats, tokens: Ids, position: int, vocab_size: int) -> Tensor:
        assert self._noise is not None, "a greedy choice has no candidates"
        scores = scores + self._noise.of(tokens, position, vocab_size)
        best = scores.argmax()  # NaN wins here, too
        return torch.from_numpy(tokens[best : best + 1, None]) if np.isfinite(scores[best]) else self._not_a_token


def why_no_token(logits: Tensor, place: int) -> JobError:
    """Why NOT_A_TOKEN was chosen, at that place of prompt and output.  logits: (1, vocab), those of the choice."""
    if logits.isfinite().all():
        return InvalidRequest(
            f"no token is left for place {place} of prompt and answer: each that the request allows there is "
            "excluded by something else that it asks for"
        )
    return EngineError(
        f"the logits hold NaN or infinity at token {place}: the weights are damaged, or overflow in this dtype "
        "(try bfloat16 or float32)"
    )


def token_logprob(logits: Tensor, token_id: int, top: int) -> TokenLogprob:
    """Log-probability of the chosen token and of the `top` likeliest, from raw logits, (1, vocab) float32."""
    logprobs = logits[0].log_softmax(dim=-1)
    best = logprobs.topk(min(top, len(logprobs)))
    return TokenLogprob(
        logprob=float(logprobs[token_id]),
        top=tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)),
    )
