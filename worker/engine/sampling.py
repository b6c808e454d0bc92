"""From logits to the next token. Knows the sampling fields of a request, and nothing of models or text.

Every choice is an argmax: greedy over the processed logits, sampled over the processed logits plus Gumbel noise
(the Gumbel-max trick), which draws from their softmax. The noise is a pure function of (seed, position, token
id), so that a job that is resumed in another process, on another device, draws what it would have drawn.
Nothing here waits for the device or uses torch's random generators.
"""

import math
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

from producer.contract import SamplingParams, TokenLogprob

GREEDY_BELOW_TEMPERATURE = 1e-5
"""Dividing by less overflows float32, and the outcome is greedy anyway. Source: vLLM, _SAMPLING_EPS."""

NOT_A_TOKEN = -1
"""Stands for a token where the logits hold NaN or infinity."""

_NUMBERS_AT_ONCE = 2**14
_GOLDEN_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


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
    ) -> None:
        self._processors = build_processors(
            params, prompt_length=prompt_length, eos_token_ids=eos_token_ids, device=device
        )
        self._cutoffs = build_cutoffs(params)
        self._noise = None if is_greedy(params) else GumbelNoise(seed, device)
        # To sort twenty candidates, and not the whole vocabulary. A GPU would have to wait for their number.
        self._drops_the_rest = params.top_k > 0 and not is_greedy(params) and device.type == "cpu"
        self.needs_ids = len(self._processors) > 0
        """Whether `ids` is looked at; the caller need not keep it otherwise."""

    def choose(self, logits: Tensor, ids: Tensor, position: int) -> Tensor:
        """The next token, (1, 1) int64 on the device of the logits, or NOT_A_TOKEN.

        logits: (1, vocab) float32.  ids: (1, seq_len) int64, the prompt and the output so far.
        position: how many tokens the output has so far.
        """
        scores = apply(self._processors, ids, logits)
        candidates = None
        if self._drops_the_rest:
            candidates = (scores[0] != -math.inf).nonzero()[:, 0]
            if not len(candidates):  # what it stands for is found below: no logit is a number
                candidates = torch.zeros(1, dtype=torch.int64)
            scores = scores[:, candidates]
        scores = apply(self._cutoffs, ids, scores)
        if self._noise is not None:
            scores = scores + self._noise(position, logits.shape[-1], candidates)
        best, index = scores.max(dim=-1, keepdim=True)
        token = index if candidates is None else candidates[index]
        # NaN wins every max: one look at the winner finds a NaN anywhere, with no wait for the device.
        return torch.where(best.isfinite(), token, NOT_A_TOKEN)


def apply(processors: Sequence[LogitsProcessor], ids: Tensor, scores: Tensor) -> Tensor:
    """One after the other.  ids: (1, seq_len) int64.  scores: (1, vocab) float32.

    transformers' LogitsProcessorList looks up each one's signature at every token, which takes 40 µs.
    """
    for processor in processors:
        scores = processor(ids, scores)
    return scores


def token_logprob(logits: Tensor, token_id: int, top: int) -> TokenLogprob:
    """Log-probability of the chosen token and of the `top` likeliest, from raw logits, (1, vocab) float32."""
    logprobs = logits[0].log_softmax(dim=-1)
    best = logprobs.topk(min(top, len(logprobs)))
    return TokenLogprob(
        logprob=float(logprobs[token_id]),
        top=tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)),
    )


def is_greedy(params: SamplingParams) -> bool:
    """Whether the likeliest token is taken, without noise."""
    return params.temperature < GREEDY_BELOW_TEMPERATURE


def build_processors(
    params: SamplingParams, *, prompt_length: int, eos_token_ids: frozenset[int], device: torch.device
) -> list[LogitsProcessor]:
    """The logits processors that the request asks for, in transformers' order; none for a field at its default.

    Up to top_k: `build_cutoffs` gives those that come after.
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
    if not is_greedy(params):
        if params.temperature != 1:
            chain.append(TemperatureLogitsWarper(float(params.temperature)))
        if params.top_k:
            chain.append(TopKLogitsWarper(params.top_k))
    return chain


def build_cutoffs(params: SamplingParams) -> list[LogitsProcessor]:
    """The processors after top_k, which do not look at ids: top_p and min_p, in transformers' order."""
    chain: list[LogitsProcessor] = []
    if is_greedy(params):
        return chain
    if params.top_p < 1:
        chain.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        chain.append(MinPLogitsWarper(params.min_p))
    return chain


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


class GumbelNoise:
    """Standard Gumbel noise as a pure function of (seed, position, token id), the same on every device.

    Two dozen small operations: for a small vocabulary, they are done for many positions at once, and kept.

    Two streams of SplitMix64, nested: the noise of token t at position p comes from output t of the stream that
    is seeded with output p of the stream that is seeded with the job's seed. Integer arithmetic wraps alike
    everywhere, and the logarithms are taken in float64, far below the last bit of the float32 that they become.
    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; splitmix64.c by
    S. Vigna. The Gumbel-max trick: Maddison, Tarlow, Minka, "A* sampling", NeurIPS 2014.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = torch.tensor(seed, dtype=torch.int64, device=device)
        self._first = 0
        self._kept = torch.empty((0, 0), device=device)

    def __call__(self, position: int, vocab_size: int, tokens: Tensor | None = None) -> Tensor:
        """Of every token, (vocab_size,) float32; or of some, (n,) float32.  tokens: (n,) int64."""
        if tokens is None:
            return self._row(position, vocab_size)
        if vocab_size <= _NUMBERS_AT_ONCE:
            return self._row(position, vocab_size)[tokens]
        return self._noise(torch.tensor([position], device=tokens.device), tokens)[0]

    def _row(self, position: int, vocab_size: int) -> Tensor:
        row = position - self._first
        if not 0 <= row < len(self._kept) or self._kept.shape[1] != vocab_size:
            end, device = position + max(1, _NUMBERS_AT_ONCE // vocab_size), self._seed.device
            self._first, row = position, 0
            self._kept = self._noise(
                torch.arange(position, end, device=device), torch.arange(vocab_size, device=device)
            )
        return self._kept[row]

    def _noise(self, positions: Tensor, tokens: Tensor) -> Tensor:
        """(positions, tokens) float32, of (n,) and (m,) int64."""
        bits = split_mix_64(split_mix_64(self._seed, positions[:, None]), tokens)
        return -(-to_open_unit_interval(bits).log()).log().float()


def split_mix_64(seed: Tensor, index: Tensor) -> Tensor:
    """Output `index` (from 0) of the SplitMix64 stream with that seed; both int64, broadcast together."""
    z = seed + (index + 1) * _GOLDEN_GAMMA
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def to_open_unit_interval(bits: Tensor) -> Tensor:
    """From random int64 to float64 in (0, 1): 52 bits and a half, so that 0 and 1 are out and nothing rounds."""
    return (_shift_right(bits, 12).double() + 0.5) * math.ldexp(1.0, -52)


def _shift_right(bits: Tensor, by: int) -> Tensor:
    # int64's own shift copies the sign bit, and torch computes little with uint64.
    return (bits >> by) & ((1 << (64 - by)) - 1)
