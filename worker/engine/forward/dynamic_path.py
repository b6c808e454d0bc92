"""The reference: transformers' model and its growing cache, for any model that transformers can load.

What `generate` does for a model is done here as well: positions are handed over, and where the rotary embedding
changes with the length of the sequence, the pieces in which a prompt is read are cut where it does.
"""

import inspect
from typing import Any, cast

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ...errors import ConfigError
from ..errors import NotSupported
from ..faults import is_device_fault, is_out_of_memory
from .kv_cache import DynamicKVCache
from .matrices import form_of
from .small_modules import SmallLinear, dtype_of, small_modules

_REREADING = {"Phi3ForCausalLM", "PhimoeForCausalLM", "Phi4MultimodalForCausalLM"}
"""Classes whose `prepare_inputs_for_generation` drops the cache when a sequence outgrows the original length."""


class DynamicPath:
    """See `path.ForwardPath`."""

    name = "dynamic"
    compiled = captured = False

    def __init__(self, model: PreTrainedModel, capacity: int) -> None:
        """For sequences of up to `capacity` tokens.

        Raises NotSupported for a model that cannot go on from what it has read in transformers' cache.
        """
        takes = inspect.signature(type(model).forward).parameters
        self._cache_name = next((name for name in ("past_key_values", "cache_params") if name in takes), None)
        if self._cache_name is None or not cast("Any", model)._supports_default_dynamic_cache():  # noqa: SLF001
            name = type(model).__name__
            raise NotSupported(f"{name} keeps what it has read in a form of its own, not in transformers' cache")
        self._takes = takes.keys()
        self._model = model
        self._cache = DynamicKVCache(model.config)
        self._turning_point = turning_point(model.config, capacity)
        self._rereads = self._turning_point is not None and type(model).__name__ in _REREADING
        self._ids: list[Tensor] = []
        """What has been read, where it may have to be read again."""
        self._has_gone_on = False
        """Whether the model has read a token behind others."""
        self.rolls_back = self._cache.rolls_back and self._turning_point is None

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self._cache.length

    def use_kernels(self) -> None:
        """Have small matrices be multiplied by our operator on a CPU; all else is transformers'.

        Raises NotSupported where it is not exact here, and whatever a compiler raises.
        """
        linears = [module for module in small_modules(self._model).values() if isinstance(module, SmallLinear)]
        if not linears or linears[0].values.device.type != "cpu":
            return
        from .cpu import products  # noqa: PLC0415 - takes what torch.compile is made of

        if (dtype := dtype_of(self._model)) not in products.DTYPES:
            return
        for matrix in {form_of(module.matrix): module.matrix for module in linears}.values():
            products.check(dtype, matrix)
        linear = products.Linear()
        for module in linears:
            module.linear = linear

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens."""
        self._cache.truncate(length)
        if length == 0:
            self._ids.clear()
            _forget_in_modules(self._model)

    def piece_end(self, done: int, prompt_tokens: int, length: int, chunk: int) -> int:
        """Where the piece after the first `done` tokens of a sequence ends; see `path.ForwardPath`."""
        if self._cache.has_states or self._rereads:
            return length
        if self._turning_point is None:
            return min(done + chunk, length)
        # `generate` reads the prompt at once and the rest one by one, each piece with the rotation of its end.
        return min(
            end for end in (prompt_tokens, self._turning_point, length) if end > done and end >= prompt_tokens
        )

    @torch.inference_mode()
    def read(self, ids: Tensor, *, rows: int = 1) -> Tensor:
        """ids: (1, seq_len) int64.  Logits of the last `rows`, (rows, vocab) float32."""
        if self._rereads:
            ids = self._from_the_beginning(ids)
        start, rows = self.length, max(rows, 1)
        arguments: dict[str, Any] = {str(self._cache_name): self._cache.past_key_values, "use_cache": True}
        if "position_ids" in self._takes:
            arguments["position_ids"] = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
        if "logits_to_keep" in self._takes:
            arguments["logits_to_keep"] = rows  # 0 would keep all
        logits = self._logits(ids, rows, arguments)
        self._cache.length += ids.shape[1]
        return logits

    def decode(self, token: Tensor) -> Tensor:
        """token: (1, 1) int64.  Logits, (1, vocab) float32."""
        return self.read(token)

    def _logits(self, ids: Tensor, rows: int, arguments: dict[str, Any]) -> Tensor:
        """Raises ConfigError where transformers' code fails on this model, as it would for any prompt."""
        try:
            logits = self._forward(ids, rows, arguments)
        except Exception as error:
            if self._has_gone_on or is_out_of_memory(error) or is_device_fault(error):
                raise
            said = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"this model cannot be served: {type(self._model).__name__} fails in transformers "
                f"{transformers.__version__} ({type(error).__name__}: {said:.300}). Correct its config.json, or "
                "use another model or another version of transformers"
            ) from error
        self._has_gone_on = self._has_gone_on or self.length > 0
        return logits

    def _forward(self, ids: Tensor, rows: int, arguments: dict[str, Any]) -> Tensor:
        logits: Tensor = self._model(input_ids=ids, **arguments).logits[0, -rows:].float()
        if len(logits) < rows:  # CPM-Ant wants all tokens each time
            raise ValueError("it has no logits for tokens behind others")
        return logits

    def _from_the_beginning(self, ids: Tensor) -> Tensor:
        """All tokens and not the new ones alone, where the rotation of those in the cache is no longer right."""
        assert self._turning_point is not None, "only what changes is read again"
        if self.length > self._turning_point:
            return ids
        self._ids.append(ids)
        if self.length == 0 or self.length + ids.shape[1] <= self._turning_point:
            return ids
        self._cache.truncate(0)
        return torch.cat(self._ids, 1)


def turning_point(config: PreTrainedConfig, capacity: int) -> int | None:
    """The length beyond which a sequence is rotated otherwise; None where `capacity` does not reach it."""
    config = config.get_text_config(decoder=True)
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(nested for nested in rope.values() if isinstance(nested, dict))]  # one for each kind of layer
    lengths = [
        kind["original_max_position_embeddings"] for kind in kinds if kind.get("rope_type") == "longrope"
    ]  # "dynamic" turns at max_position_embeddings, which no context exceeds
    return min((length for length in lengths if length < capacity), default=None)


def _forget_in_modules(model: PreTrainedModel) -> None:
    """RecurrentGemma keeps its states in its modules, and a prompt of one token would go on from them."""
    for module in model.modules():
        for name in ("conv1d_state", "recurrent_states"):
            if name in vars(module):
                setattr(module, name, None)
