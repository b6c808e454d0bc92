"""From text to token ids and back. Knows the tokenizer of a model folder, and no model.

Errors of the text are InvalidRequest; errors of the folder are ConfigError.
"""

import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from jinja2 import TemplateSyntaxError
from tokenizers import Tokenizer as Backend, models
from torch import Tensor

from producer.contract import GenerationRequest, InvalidRequest, Markup
from producer.contract.views.syntaxes import MARKERS, THINK

from ...errors import ConfigError
from .chat_template import ChatTemplate
from .decoding import Decoding, decoding_of
from .end_of_turn import find_end_of_turn
from .tokenizer_files import chat_template_file, load_tokenizer

TokenIds = Tensor
"""Of one text: (seq_len,) int64 on the CPU."""
_THINKING_TOKENS = 16
"""At the end of a prompt, more than the tag that begins the reasoning takes, with the line break behind it."""


class Tokenizer:
    """A byte-level BPE tokenizer, as Qwen2, Llama 3 and GPT-2 have one, or SentencePiece, as Llama 2 and Gemma.

    Others are refused: only there does the text of a prefix of the ids stay a prefix of the text, which is what a
    token stream promises.
    """

    def __init__(self, path: Path) -> None:
        """Load from a folder.  Raises ConfigError when it holds no tokenizer that can be used here."""
        self._hf = load_tokenizer(path)
        decoding = decoding_of(self.backend)
        if decoding is None:
            raise ConfigError(
                f"the tokenizer in {path} is neither a byte-level BPE, as Qwen2's and Llama 3's, nor of "
                "SentencePiece's kind, as Llama 2's and Gemma's: its text could still change as tokens follow. "
                "Use another model"
            )
        self.decoding: Decoding = decoding
        self.chat_template = ChatTemplate(self._hf)
        self.end_of_turn_id = self._end_of_turn(path)
        """The id that ends the assistant's turn in a chat, as the chat template has it; None where it has none."""

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
        return bool(self.chat_template)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that show nothing where special tokens are skipped."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    @cached_property
    def max_chars_per_token(self) -> float:
        """No text has fewer tokens than its characters over this; infinite where any text can have few.

        A byte-level token covers at most as many characters as it has bytes. NFC can turn four code points into
        one first (UAX #15, section 9.1, table of expansion factors). A piece covers the characters that it has,
        unless what is not known, or spaces, are drawn together first.
        """
        longest = max(map(len, self.backend.get_vocab(with_added_tokens=True)))
        if self.decoding == "byte-level":
            return longest * (4 if self.backend.normalizer else 1)
        model = self.backend.model
        keeps_all = isinstance(model, models.BPE) and model.byte_fallback and _keeps_length(self.backend)
        return longest if keeps_all else math.inf

    def content(self, token_id: int) -> str:
        """Of an added token, as the one that ends a turn: what stands for it in a text. "" for an unknown id."""
        return self.backend.id_to_token(token_id) or ""

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

    def markup(self, request: GenerationRequest, prompt_ids: Sequence[int]) -> Markup | None:
        """How the parts of the answer to that prompt are marked in its text; None where all of it is content.

        An answer that is held to a structure is that, and nothing else.
        """
        if request.messages is None or request.has_structure:
            return None
        shows = self.added_token_id(THINK) not in self.special_ids or not request.skip_special_tokens
        reasoning = "think" if self.chat_template.has_reasoning and shows else None
        tool_calls = self.chat_template.tool_format if request.calls_tools else None
        if reasoning is None and tool_calls is None:
            return None
        end = self.decode(prompt_ids[-_THINKING_TOKENS:], skip_special_tokens=False).rstrip()
        return Markup(
            tool_calls=tool_calls,
            reasoning=reasoning,
            reasoning_open=reasoning is not None and end.endswith(THINK),
        )

    def added_token_id(self, content: str) -> int | None:
        """Of the added token with that text; None where there is none."""
        return self._added_token_ids.get(content)

    @cached_property
    def _added_token_ids(self) -> dict[str, int]:
        return {token.content: token_id for token_id, token in self.backend.get_added_tokens_decoder().items()}

    @cached_property
    def call_marker_ids(self) -> frozenset[int]:
        """Of what marks a call where it is an added token."""
        markers = MARKERS.get(self.chat_template.tool_format or "", ())
        return frozenset(token_id for token, token_id in self._added_token_ids.items() if token in markers)

    def _end_of_turn(self, path: Path) -> int | None:
        if not self.has_chat_template:
            return None
        try:
            return find_end_of_turn(self.chat_template.render, self.backend.get_added_tokens_decoder())
        except TemplateSyntaxError as error:
            raise ConfigError(
                f"the chat template in {path} is broken, or was cut off: {error}, at line {error.lineno}. Correct "
                f"{chat_template_file(path)}, or download it again"
            ) from error


def _keeps_length(backend: Backend) -> bool:
    """Whether what is done to a text before it is cut into pieces leaves no character out."""
    if backend.normalizer is None:
        return True
    state = json.loads(backend.normalizer.__getstate__())
    steps = state["normalizers"] if state["type"] == "Sequence" else [state]
    return all(
        step["type"] == "Prepend"
        or (step["type"] == "Replace" and len(step["pattern"].get("String", "")) == 1 and step["content"])
        for step in steps
    )
