"""A model folder's config.json: read without running code of the folder, and looked at for what is served here.

Knows configurations, no weights and no tokenizer.
"""

from pathlib import Path
from typing import Any

import transformers
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from ...errors import ConfigError
from ...models.model_files import read_json

GENERATION_CONFIG = "generation_config.json"
_REASON_CHARS = 300
_DECODERS_ALL_THE_SAME = {"gpt_neox", "gpt_neox_japanese"}
"""Whose configurations declare an `is_decoder`, and whose models never look at it."""


def read_config(folder: Path) -> PreTrainedConfig:
    """Of a model that generates text.  Raises ConfigError that says what is wrong with config.json."""
    content = read_json(folder / "config.json")
    kind = content.get("model_type")
    if not isinstance(kind, str):
        raise ConfigError(f"config.json in {folder} is no model's configuration: it has no model_type")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ConfigError(f"config.json in {folder} {_fault(kind, content, error)}") from error
    assert isinstance(config, PreTrainedConfig), "nothing but a configuration is read from config.json"
    _check_generates(config, folder)
    text_config(config)
    return config


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Of the part that generates text: a model that also sees or hears has its sizes in there.

    Raises ConfigError where it cannot be told.
    """
    try:
        text = config.get_text_config(decoder=True)
    except ValueError as error:
        raise ConfigError(
            f"the configuration of this {config.model_type} model has several parts that could generate text: use "
            "a model with one"
        ) from error
    if not isinstance(text, PreTrainedConfig):
        raise ConfigError(
            f"config.json has a text_config, or a part of another such name, for which a {config.model_type} "
            "model has no place: correct its model_type, or use another model"
        )
    return text


def check_generation_config(folder: Path) -> None:
    """transformers would go on without a generation_config.json that it cannot read: the ids that end a text are
    in there.  Raises ConfigError that names it."""
    if not (folder / GENERATION_CONFIG).is_file():
        return
    read_json(folder / GENERATION_CONFIG)
    try:
        GenerationConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise ConfigError(
            f"{GENERATION_CONFIG} in {folder} is refused by transformers: {reason_of(error)}. Correct it, or "
            "download it again"
        ) from error


def eos_token_ids(model: PreTrainedModel, of_tokenizer: int | None) -> frozenset[int]:
    """The ids that end a text: from the generation config, else the config, else the tokenizer, as transformers'
    generate does.  Raises ConfigError for what are no ids."""
    configs = (model.generation_config, model.config, text_config(model.config))
    named = (*(getattr(config, "eos_token_id", None) for config in configs), of_tokenizer)
    eos: Any = next((eos for eos in named if eos is not None), [])
    ids = [eos] if isinstance(eos, int) else eos
    if not isinstance(ids, list) or not all(type(token_id) is int for token_id in ids):
        raise ConfigError(f"eos_token_id is {eos!r}, and no id or list of ids: correct it in {GENERATION_CONFIG}")
    return frozenset(ids)


def reason_of(error: Exception) -> str:
    """What transformers says, in one line: its first lines often say nothing."""
    if isinstance(error, KeyError):  # which says no more than the key
        return f"it knows no {error!s:.{_REASON_CHARS}}"
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= _REASON_CHARS else f"{said[:_REASON_CHARS]}…"


def _fault(kind: str, content: dict[str, Any], error: Exception) -> str:
    if kind not in CONFIG_MAPPING:
        if "auto_map" in content:
            return (
                f"is of a model of the type {kind!r}, which needs Python code of that folder (auto_map). It is "
                f"never run here: use a model that transformers {transformers.__version__} knows by itself"
            )
        return (
            f"is of a model of the type {kind!r}, which transformers {transformers.__version__} does not know: "
            "upgrade transformers, or use another model"
        )
    return f"is refused by transformers: {reason_of(error)}. Correct it, or download it again"


def _check_generates(config: PreTrainedConfig, folder: Path) -> None:
    # An encoder of BERT's kind has a head for text, too, but sees what follows a token: it says is_decoder.
    sees_all = getattr(config, "is_decoder", None) is False and config.model_type not in _DECODERS_ALL_THE_SAME
    if config.is_encoder_decoder or sees_all:
        why = "has an encoder, and answers are generated here by decoders alone, as of Qwen2, Llama or GPT-2"
    elif type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        why = "is no model that generates text by itself (transformers' AutoModelForCausalLM)"
    else:
        return
    raise ConfigError(
        f"the model in {folder} cannot be served: a {config.model_type} model {why}. Use another model"
    )
