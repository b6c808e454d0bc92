"""Logits processors: transformers' own where it has them, in its order, and ours where it has none or waits.

Knows logits and the sampling fields of a request.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    LogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from producer.contract import SamplingParams

from .penalties import PenaltiesLogitsProcessor

GREEDY_BELOW_TEMPERATURE = 1e-5
"""Dividing by less overflows float32, and the outcome is greedy anyway. Source: vLLM, _SAMPLING_EPS."""


def apply(processors: Sequence[LogitsProcessor], ids: Tensor, scores: Tensor) -> Tensor:
    """One after the other.  ids: (1, seq_len) int64.  scores: (1, vocab) float32.

    transformers' LogitsProcessorList looks up each one's signature at every token, which takes 40 µs.
    """
    for processor in processors:
        scores = processor(ids, scores)
    return scores


def is_greedy(params: SamplingParams) -> bool:
    """Whether the likeliest token is taken, without noise."""
    return params.temperature < GREEDY_BELOW_TEMPERATURE


def build_processors(
    params: SamplingParams,
    *,
    prompt_length: int,
    eos_token_ids: frozenset[int],
    device: torch.device,
    bad_words_ids: Sequence[Sequence[int]] = (),
) -> list[LogitsProcessor]:
    """The logits processors that the request asks for, in transformers' order; none for a field at its default.

    bad_words_ids: of `params.bad_words`, as the tokenizer has them.
    Up to the temperature: `build_cutoffs` gives those that come after.
    Source: transformers, generation/utils.py, _get_logits_processor.
    """
    chain: list[LogitsProcessor] = []
    if params.logit_bias:
        chain.append(LogitBiasLogitsProcessor(params.logit_bias, device))
    if params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty:
        chain.append(PenaltiesLogitsProcessor(params, prompt_length))
    if bad_words_ids:
        chain.append(BadWordsLogitsProcessor(bad_words_ids, device))
    if params.min_new_tokens and eos_token_ids and not params.ignore_eos:
        eos = torch.tensor(sorted(eos_token_ids), device=device)
        chain.append(MinNewTokensLengthLogitsProcessor(prompt_length, params.min_new_tokens, eos))
    if params.allowed_token_ids:
        chain.append(AllowedTokensLogitsProcessor(params.allowed_token_ids, device))
    if not is_greedy(params) and params.temperature != 1:
        chain.append(TemperatureLogitsWarper(float(params.temperature)))
    return chain


def build_cutoffs(params: SamplingParams) -> list[LogitsProcessor]:
    """The processors that take tokens out of the draw, in transformers' order: top_k, top_p and min_p."""
    chain: list[LogitsProcessor] = []
    if is_greedy(params):
        return chain
    if params.top_k:
        chain.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        chain.append(TopPLogitsProcessor(params.top_p))
    if params.min_p:
        chain.append(MinPLogitsWarper(params.min_p))
    return chain


def looks_at_ids(processor: LogitsProcessor) -> bool:
    """Whether it depends on the ids so far, and not only on how many they are."""
    return isinstance(processor, PenaltiesLogitsProcessor | BadWordsLogitsProcessor)


def is_alike_everywhere(processor: LogitsProcessor) -> bool:
    """Whether it does the same at every position, whatever the ids."""
    return isinstance(processor, TemperatureLogitsWarper | LogitBiasLogitsProcessor | AllowedTokensLogitsProcessor)


class TopPLogitsProcessor(TopPLogitsWarper):
    """Of tokens with one score, those with the higher ids stay; transformers leaves that to an unstable sort.

    Probabilities are summed as integers: torch's sum of floats is another one at each time on a GPU.
    """

    _ONE = 2.0**40

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        """scores: (rows, vocab) float32."""
        ascending, tokens = scores.sort(stable=True)
        parts = (ascending.softmax(dim=-1) * self._ONE).long()
        goes = parts.cumsum(dim=-1) <= int((1 - self.top_p) * self._ONE)
        goes[..., -self.min_tokens_to_keep :] = False
        return scores.masked_fill(goes.scatter(1, tokens, goes), self.filter_value)


class LogitBiasLogitsProcessor(LogitsProcessor):
    """Something added to the logits of some tokens. transformers' own makes it one for all tokens, at each place.

    Source: OpenAI API reference, `logit_bias`.
    """

    def __init__(self, logit_bias: Mapping[int, float], device: torch.device) -> None:
        self._ids = torch.tensor(list(logit_bias), device=device)
        self._bias = torch.tensor([list(logit_bias.values())], device=device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        """scores: (rows, vocab) float32."""
        return scores.index_add(1, self._ids, self._bias.expand(len(scores), -1))


class AllowedTokensLogitsProcessor(LogitsProcessor):
    """Some tokens, and no others. transformers calls a function on the host for each token."""

    def __init__(self, allowed_token_ids: Sequence[int], device: torch.device) -> None:
        self._ids = torch.tensor(allowed_token_ids, device=device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        """scores: (rows, vocab) float32."""
        return torch.full_like(scores, -math.inf).index_copy(1, self._ids, scores[:, self._ids])


class BadWordsLogitsProcessor(LogitsProcessor):
    """No token that would complete one of some sequences, which may begin in the prompt.

    transformers' own sends each sequence to the device for every token.  Source: NoBadWordsLogitsProcessor.
    """

    def __init__(self, bad_words_ids: Sequence[Sequence[int]], device: torch.device) -> None:
        # Aligned to their ends, where -1 stands for any token.
        turned = [torch.tensor(ids[:-1][::-1], dtype=torch.int64) for ids in bad_words_ids]
        self._before = pad_sequence(turned, batch_first=True, padding_value=-1).flip(1).to(device)
        self._last = torch.tensor([[ids[-1] for ids in bad_words_ids]], device=device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids: (1, seq_len) int64, prompt and output.  scores: (1, vocab) float32."""
        longest = self._before.shape[1]
        tail = input_ids[:, max(input_ids.shape[1] - longest, 0) :]
        if tail.shape[1] < longest:
            tail = torch.nn.functional.pad(tail, (longest - tail.shape[1], 0), value=-2)
        found = ((self._before == tail) | (self._before == -1)).all(dim=1)
        bounds = torch.where(found, -math.inf, math.inf)[None]
        return scores.scatter_reduce(1, self._last, bounds, "amin")
