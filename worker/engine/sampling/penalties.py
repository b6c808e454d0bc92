"""Penalties for what has been seen: transformers' for repetition, OpenAI's for presence and frequency.

What has been seen is kept from token to token, and not gathered again out of all ids so far. On a CPU in numpy: of
a small model's logits, an operation there takes a quarter of the time that it takes on tensors.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor

from producer.contract import SamplingParams

from .candidates import Floats, Ids


class PenaltiesLogitsProcessor(LogitsProcessor):
    """Of one job, whose ids only ever grow.

    logit[t] is multiplied by the repetition penalty if it is negative, and else divided by it, for each t of
    prompt and output; then logit[t] -= frequency * count[t] + presence * (count[t] > 0), over the output alone.
    Sources: transformers, RepetitionPenaltyLogitsProcessor; OpenAI API reference, "Frequency and presence
    penalties".
    """

    def __init__(self, params: SamplingParams, prompt_length: int) -> None:
        self._prompt_length = prompt_length
        self._repetition = float(params.repetition_penalty)
        self._presence, self._frequency = float(params.presence_penalty), float(params.frequency_penalty)
        self._seen: _SeenOnHost | _SeenOnDevice | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids: (1, seq_len) int64, prompt and output.  scores: (1, vocab) float32; a new one is returned."""
        if self._seen is None:
            kind = _SeenOnDevice if scores.is_cuda else _SeenOnHost
            self._seen = kind(scores, self._prompt_length)
        if isinstance(self._seen, _SeenOnDevice):
            self._seen.note(input_ids)
            return self._on_device(self._seen, scores)
        self._seen.note(input_ids.numpy()[0])
        return torch.from_numpy(self._on_host(self._seen, scores.numpy()))

    def _on_host(self, seen: "_SeenOnHost", scores: Floats) -> Floats:
        scores = scores.copy()
        row = scores[0]
        with np.errstate(all="ignore"):  # what is no number is found later
            if self._repetition != 1:
                repetition, some = np.float32(self._repetition), row[seen.ids]
                row[seen.ids] = np.where(some < 0, some * repetition, some / repetition)
            if self._frequency:
                row[seen.output_ids] -= np.float32(self._frequency) * seen.counts[seen.output_ids]
            if self._presence:
                row[seen.output_ids] -= np.float32(self._presence)
        return scores

    def _on_device(self, seen: "_SeenOnDevice", scores: Tensor) -> Tensor:
        if self._repetition != 1:
            penalized = torch.where(scores < 0, scores * self._repetition, scores / self._repetition)
            scores = torch.where(seen.anywhere, penalized, scores)
        if self._frequency:
            scores = torch.sub(scores, seen.counts, alpha=self._frequency)
        if self._presence:
            scores = torch.sub(scores, seen.in_output, alpha=self._presence)
        return scores


class _SeenOnHost:
    """Each id once."""

    def __init__(self, scores: Tensor, prompt_length: int) -> None:
        vocab_size = scores.shape[-1]
        self.counts: Floats = np.zeros(vocab_size, np.float32)
        """Of each id in the output."""
        self._prompt_length, self._known = prompt_length, 0
        self._is_seen: NDArray[np.bool_] = np.zeros(vocab_size, np.bool_)
        self._all: Ids = np.empty(vocab_size, np.int64)
        self._output: Ids = np.empty(vocab_size, np.int64)
        self._all_length = self._output_length = 0

    @property
    def ids(self) -> Ids:
        """(n,): those of prompt and output."""
        return self._all[: self._all_length]

    @property
    def output_ids(self) -> Ids:
        """(n,): those of the output."""
        return self._output[: self._output_length]

    def note(self, ids: Ids) -> None:
        """Take what is new.  ids: (seq_len,), all of them so far."""
        if self._known == 0:
            prompt = np.unique(ids[: self._prompt_length])
            self._is_seen[prompt] = True
            self._all_length = len(prompt)
            self._all[: self._all_length] = prompt
            self._known = self._prompt_length
        for token_id in ids[self._known :].tolist():
            if not self._is_seen[token_id]:
                self._is_seen[token_id] = True
                self._all[self._all_length] = token_id
                self._all_length += 1
            if not self.counts[token_id]:
                self._output[self._output_length] = token_id
                self._output_length += 1
            self.counts[token_id] += 1
        self._known = len(ids)


class _SeenOnDevice:
    """One number for each id of the vocabulary: (1, vocab)."""

    def __init__(self, scores: Tensor, prompt_length: int) -> None:
        self.anywhere = torch.zeros_like(scores, dtype=torch.bool)
        self.in_output = torch.zeros_like(scores)
        """1 for those of the output."""
        self.counts = torch.zeros_like(scores)
        self._prompt_length, self._known = prompt_length, 0
        self._ones = torch.ones((1, 1), device=scores.device)

    def note(self, ids: Tensor) -> None:
        """Take what is new.  ids: (1, seq_len) int64, all of them so far."""
        output = ids[:, max(self._known, self._prompt_length) :]
        self.anywhere.scatter_(1, ids[:, self._known :], True)
        self.in_output.scatter_(1, output, 1.0)
        self.counts.scatter_add_(1, output, self._ones.expand(1, output.shape[1]))
        self._known = ids.shape[1]
