"""Logits processors: transformers' own where it has them, in its order, and ours for two penalties.

Knows logits and the sampling fields of a request.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from producer.contract import SamplingParams

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
    params: SamplingParams, *, prompt_length: int, eos_token_ids: frozenset[int], device: torch.device
) -> list[LogitsProcessor]:
    """The logits processors that the request asks for, in transformers' order; none for a field at its default.

    Up to the temperature: `build_cutoffs` gives those that come after.
    Source: transformers, generation/utils.py, _get_logits_processor.
    """
    chain: list[LogitsProcessor] = []
    if params.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(float(params.repetition_penalty)))
    if params.presence_penalty or params.frequency_penalty:
        chain.append(
            OutputPenaltyLogitsProcessor(prompt_length, params.presence_penalty, params.frequency_penalty)
        )
    if params.min_new_tokens and eos_token_ids and not params.ignore_eos:
        eos = torch.tensor(sorted(eos_token_ids), device=device)
        chain.append(MinNewTokensLengthLogitsProcessor(prompt_length, params.min_new_tokens, eos))
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
        chain.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        chain.append(MinPLogitsWarper(params.min_p))
    return chain


def looks_at_ids(processor: LogitsProcessor) -> bool:
    """Whether it depends on the ids so far, and not only on how many they are."""
    return isinstance(processor, RepetitionPenaltyLogitsProcessor | OutputPenaltyLogitsProcessor)


def is_alike_everywhere(processor: LogitsProcessor) -> bool:
    """Whether it does the same at every position, whatever the ids."""
    return isinstance(processor, TemperatureLogitsWarper)


class OutputPenaltyLogitsProcessor(LogitsProcessor):
    """Presence and frequency penalty, which transformers does not have.

    logit[t] -= frequency * count[t] + presence * (count[t] > 0), over the output without the prompt.
    Source: OpenAI API reference, "Frequency and presence penalties".
    """

    def __init__(self, prompt_length: int, presence_penalty: float, frequency_penalty: float) -> None:
        self.prompt_length = prompt_length
        self.presence_penalty = presence_penalty
        self.frequency_penalty = frequency_penalty

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids: (1, seq_len) int64, prompt and output.  scores: (1, vocab) float32, returned changed."""
        output = input_ids[:, self.prompt_length :]
        count = torch.zeros_like(scores).scatter_add_(1, output, torch.ones_like(output, dtype=scores.dtype))
        return scores - self.frequency_penalty * count - self.presence_penalty * (count > 0)
