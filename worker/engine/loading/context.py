"""How long a sequence a model is made for, by its configuration."""

from dataclasses import dataclass

from transformers import PreTrainedConfig

from .model_config import text_config

_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
    "context_length",
    "model_max_length",
)
"""What configurations call it; the first that is there counts.  Source: vLLM, _get_and_verify_max_len."""
WITHOUT_BOUND = 2048
"""Tokens, for a model that names no bound (Mamba, BLOOM, RecurrentGemma): a recurrent state or ALiBi has none, and
was trained on about so many. As in vLLM. The setting may ask for more."""
MOST = 2**20
"""Tokens that can be asked for where the model has no bound."""


@dataclass(frozen=True, slots=True)
class ModelContext:
    """Tokens of prompt and answer together."""

    usual: int
    """Unless the setting says otherwise, and where there is memory."""
    most: int
    """That the setting may ask for."""


def model_context(config: PreTrainedConfig) -> ModelContext:
    """Of the part that generates text.  Raises ConfigError where that cannot be told."""
    text = text_config(config)
    named = (getattr(text, name, None) for name in _NAMES)
    length = next((value for value in named if isinstance(value, int) and value > 0), None)
    if length is None:
        return ModelContext(WITHOUT_BOUND, MOST)
    length = _stretched(length, getattr(text, "rope_parameters", None) or {})
    return ModelContext(length, length)


def _stretched(length: int, rope: dict[str, object]) -> int:
    """With a rotary embedding that reaches further than it was trained for.  Source: vLLM, as above.

    yarn: the original length times the factor, whether or not max_position_embeddings has been raised to that.
    linear: that times the factor.
    longrope, llama3, and what differs by layer (Gemma 3): max_position_embeddings is the stretched length.
    dynamic, here: max_position_embeddings. Beyond it each token turns those before it anew, and a text that is
    read at once is not the one that was written token by token.
    """
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
    if rope.get("rope_type") not in ("yarn", "linear") or not isinstance(factor, int | float) or factor <= 1:
        return length
    return int(factor * (original if isinstance(original, int) else length))
