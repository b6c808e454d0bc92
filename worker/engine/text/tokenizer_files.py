"""A folder's tokenizer, as its files describe it. Runs no code of the folder.

Errors of the folder are ConfigError, and name the file.
"""

from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer as Backend, models
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ...errors import ConfigError
from ...models.model_files import read_json, read_text

_JSON = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
_TEMPLATE = "chat_template.jinja"


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Of `tokenizer.json` where there is one, else of older files that transformers can make one from.

    transformers would look for the class that tokenizer_config.json names, and build the tokenizer anew by what
    that class knows: Yi names Llama's, and would get a space in front of each text. The file is what the model was
    trained with.
    """
    content = {name: read_json(folder / name) for name in _JSON if (folder / name).is_file()}
    if (folder / _TEMPLATE).is_file():
        read_text(folder / _TEMPLATE)
    kind = PreTrainedTokenizerFast if "tokenizer.json" in content else AutoTokenizer
    try:
        hf: PreTrainedTokenizerBase = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        if "tokenizer.json" in content:
            _check_alone(folder / "tokenizer.json")
        raise ConfigError(
            f"the tokenizer in {folder} cannot be loaded: {_fault(folder, content, error)}"
        ) from error
    _only_text_to_ids(hf)
    return hf


def _check_alone(file: Path) -> None:
    """Raises ConfigError where it is this file that is at fault, and not what is set beside it."""
    try:
        Backend.from_file(str(file))
    except Exception as error:
        raise ConfigError(
            f"the tokenizer in {file.parent} cannot be loaded: tokenizer.json is refused by tokenizers: {error}. "
            "Download it again"
        ) from error


def chat_template_file(folder: Path) -> str:
    """Where the chat template stands, for a message."""
    return _TEMPLATE if (folder / _TEMPLATE).is_file() else "tokenizer_config.json"


def _only_text_to_ids(hf: PreTrainedTokenizerBase) -> None:
    """Whoever saved a tokenizer.json after training has left in it how the training cut texts, filled them up, or
    split words at random: prompts would be changed in silence."""
    backend = getattr(hf, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
        if isinstance(backend.model, models.BPE):
            backend.model.dropout = None


def _fault(folder: Path, content: Mapping[str, object], error: Exception) -> str:
    settings = content.get("tokenizer_config.json")
    said = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(settings, dict) and "tokenizer.json" not in content and "auto_map" in settings:
        return (
            "it needs Python code of that folder (auto_map in tokenizer_config.json), which is never run here. "
            "Put a tokenizer.json there (transformers: save_pretrained), or use another model"
        )
    if "tokenizer.json" in content:
        return f"what is set beside tokenizer.json, as in tokenizer_config.json, is refused: {said}. Correct it"
    if (folder / "tokenizer.model").is_file():
        return (
            "it has a tokenizer.model and no tokenizer.json. Download the latter, too; or have it made from the "
            f"former, with `pip install sentencepiece protobuf` ({said})"
        )
    return f"{said}. Download the model again, with its tokenizer files"
