"""From text to token ids and back. Knows the tokenizer of a model folder, and no model.

Errors of the text are InvalidRequest; errors of the folder are ConfigError.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from tokenizers import Tokenizer as Backend, decoders
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from producer.contract import InvalidRequest, Message

from ...errors import ConfigError

TokenIds = Tensor
"""Of one text: (seq_len,) int64 on the CPU."""


class Tokenizer:
    """A byte-level BPE tokenizer, as Qwen2, Llama 3 and GPT-2 have one.

    Others are refused: only where every token is a run of bytes does the text of a prefix of the ids stay a
    prefix of the text, which is what a token stream promises.
    """

    def __init__(self, path: Path) -> None:
        """Load from a folder.  Raises ConfigError when it holds no tokenizer that can be used here."""
        self._hf = _load(path)
        if not isinstance(getattr(self.backend, "decoder", None), decoders.ByteLevel):
            raise ConfigError(f"the tokenizer in {path} is not a byte-level BPE, as Qwen2's is: use another model")

    @property
    def backend(self) -> Backend:
        """The Rust tokenizer underneath, for incremental decoding."""
        backend: Backend = self._hf.backend_tokenizer
        return backend

    @property
    def eos_token_id(self) -> int | None:
        """The tokenizer's own end-of-text id, if it names one."""
        token_id: int | None = self._hf.eos_token_id
        return token_id

    @property
    def has_chat_template(self) -> bool:
        """Whether it makes a prompt of a chat. A base model's often does not."""
        return bool(self._hf.chat_template)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that show nothing where special tokens are skipped."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    @cached_property
    def max_chars_per_token(self) -> int:
        """No text has fewer tokens than its characters over this.

        A byte-level token covers at most as many characters as it has bytes. NFC can turn four code points into
        one first (UAX #15, section 9.1, table of expansion factors).
        """
        longest = max(map(len, self.backend.get_vocab(with_added_tokens=True)))
        return longest * (4 if self.backend.normalizer else 1)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Tensor:
        """Token ids of a text, (seq_len,) int64 on the CPU.

        Raises InvalidRequest for text that is no Unicode: a lone surrogate, as from a cut-off UTF-16 string.
        """
        try:
            # Of the ways to encode, those for a batch alone let go of the interpreter lock meanwhile: whoever has
            # called this on a thread can go on beside it. The fast one leaves out the offsets, which nobody reads.
            [encoding] = self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        except TypeError:
            raise InvalidRequest(
                "the prompt holds a lone surrogate, which is not a character: encode it with errors='replace'"
            ) from None
        return torch.tensor(encoding.ids, dtype=torch.int64)

    def decode(self, ids: Sequence[int] | Tensor, *, skip_special_tokens: bool = True) -> str:
        """The text of token ids. Bytes that are not UTF-8 become U+FFFD; spaces are left as they are."""
        text: str = self.backend.decode(
            ids.tolist() if isinstance(ids, Tensor) else list(ids), skip_special_tokens=skip_special_tokens
        )
        return text

    def apply_chat_template(self, messages: Sequence[Message]) -> str:
        """The prompt that a chat becomes, up to where the assistant answers. It holds its special tokens.

        Raises InvalidRequest when the model has no chat template, or when the template refuses these messages.
        """
        if not self.has_chat_template:
            raise InvalidRequest("this model has no chat template: send `prompt` instead of `messages`")
        chat: list[dict[str, Any]] = [message.model_dump() for message in messages]
        try:
            return str(self._hf.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
        except (TemplateError, TypeError, ValueError) as error:
            raise InvalidRequest(f"the model's chat template refuses these messages: {error}") from error


def _load(path: Path) -> PreTrainedTokenizerBase:
    try:
        hf: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:
        reason, _, _ = str(error).partition("\n")
        raise ConfigError(
            f"the tokenizer in {path} cannot be loaded: {reason}. Download the model again, with its "
            "tokenizer files"
        ) from error
    return hf
