"""The reference: transformers' model and its growing cache, for any model that transformers can load."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .kv_cache import DynamicKVCache


class DynamicPath:
    """See `path.ForwardPath`."""

    name = "dynamic"
    compiled = captured = False

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cache = DynamicKVCache(model.config)
        self.rolls_back = self._cache.rolls_back

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self._cache.length

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens."""
        self._cache.truncate(length)

    @torch.inference_mode()
    def read(self, ids: Tensor, *, rows: int = 1) -> Tensor:
        """ids: (1, seq_len) int64.  Logits of the last `rows`, (rows, vocab) float32."""
        output = self._model(
            input_ids=ids,
            past_key_values=self._cache.past_key_values,
            use_cache=True,
            logits_to_keep=max(rows, 1),  # 0 would keep all
        )
        logits: Tensor = output.logits
        return logits[0].float()

    def decode(self, token: Tensor) -> Tensor:
        """token: (1, 1) int64.  Logits, (1, vocab) float32."""
        return self.read(token)
