"""Incremental detokenization: text as soon as it is certain, and never half a character.

Joined together, the pieces equal `Tokenizer.decode` of all ids, whatever the ids, invalid UTF-8 included.
"""

import re
from typing import Protocol

from tokenizers.decoders import DecodeStream

from .tokenizer import Tokenizer

_MAX_TOKENS_PER_CHARACTER = 4
"""UTF-8 has at most four bytes a character, and a token has at least one byte."""
_BYTE_TOKEN = re.compile(r"<0x[+0-9A-Fa-f][0-9A-Fa-f]>")
"""What ByteFallback takes for a byte.  Source: tokenizers, decoders/byte_fallback.rs."""
_EARLIER = "a"
"""Stands for the tokens before, where what follows is decoded: it is neither a byte nor a space."""


class Detokenizer:
    """Decodes one sequence of ids, one at a time."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._silent_ids = tokenizer.special_ids if skip_special_tokens else frozenset[int]()
        self._decoding: _Decoding = (
            _ByteLevel(tokenizer) if tokenizer.decoding == "byte-level" else _Pieces(tokenizer)
        )

    def push(self, token_id: int) -> str:
        """Take the next id; return the text that it completes, often one piece, or "" inside a character."""
        return "" if token_id in self._silent_ids else self._decoding.push(token_id)

    @property
    def held(self) -> str:
        """The text still held back, as it stands if nothing follows it: U+FFFD for an incomplete character."""
        return self._decoding.held

    def flush(self) -> str:
        """The text still held back, now that nothing follows it."""
        rest = self.held
        self._decoding.forget()
        return rest


class _Decoding(Protocol):
    """Ids to text; none of them is silent."""

    def push(self, token_id: int) -> str:
        """Take the next id; return the text that is certain now."""

    @property
    def held(self) -> str:
        """What would follow if nothing else came."""

    def forget(self) -> None:
        """Begin anew behind what is held."""


class _ByteLevel:
    """A token is a run of bytes, and a character may be spread over several: `tokenizers.decoders.DecodeStream`.

    What DecodeStream leaves to its callers is done here:
    - it has no flush: an incomplete character at the end would be lost, where decode shows U+FFFD;
    - it waits for as long as the text ends in U+FFFD, and decodes all that it waits with again at every step.
      A model that writes invalid bytes, or the character U+FFFD itself, would stall the stream, ever slower.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._held: list[int] = []
        self._shown = 0
        """Characters of the text of the held ids that were released already."""
        self._stream = DecodeStream(skip_special_tokens=False)

    def push(self, token_id: int) -> str:
        piece: str | None = self._stream.step(self._tokenizer.backend, token_id)
        if piece is not None:
            piece = piece[self._shown :]
            self._held, self._shown = [], 0
            return piece
        if self._tokenizer.backend.id_to_token(token_id) is None:
            return ""  # the model's vocabulary is padded beyond the tokenizer's
        self._held.append(token_id)
        return self._release_settled() if len(self._held) > _MAX_TOKENS_PER_CHARACTER else ""

    @property
    def held(self) -> str:
        return self._decode(self._held)[self._shown :] if self._held else ""

    def forget(self) -> None:
        self._restart([])

    def _release_settled(self) -> str:
        """Show what more bytes cannot change, and go on with the last four ids.

        Whatever follows, only the last U+FFFD of the held text can still turn into a character. The bytes that
        stand for it lie within the last four tokens. A decoder that starts there reads the end as one that
        started earlier does, because a lead byte begins a character whatever came before it.
        """
        settled = self._decode(self._held)[self._shown : -1]
        self._restart(self._held[-_MAX_TOKENS_PER_CHARACTER:])
        return settled

    def _restart(self, held: list[int]) -> None:
        self._held = held
        self._shown = max(len(self._decode(held)) - 1, 0)
        self._stream = DecodeStream(skip_special_tokens=False)
        if held:
            self._stream.step(self._tokenizer.backend, held)

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)


class _Pieces:
    """SentencePiece: a token is a piece of text, or a single byte of what the vocabulary lacks.

    DecodeStream fails here: the text of a run of bytes is known when the run ends, and not before. One byte that
    is no UTF-8 makes U+FFFD of every byte in the run, of those that were characters, too. So a run is held back.
    The text loses a space at its beginning, which the tokenizer has put there: tokens that are not the first are
    decoded behind one that stands for those before.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_of = tokenizer.backend.id_to_token
        self._decoder = tokenizer.backend.decoder
        self._held: list[str] = []
        self._begun = False

    def push(self, token_id: int) -> str:
        token: str | None = self._token_of(token_id)
        if token is None:
            return ""  # the model's vocabulary is padded beyond the tokenizer's
        self._held.append(token)
        if _BYTE_TOKEN.fullmatch(token):
            return ""
        text = self.held
        if text or self._begun:
            self.forget()
        return text

    @property
    def held(self) -> str:
        if not self._held:
            return ""
        if not self._begun:
            text: str = self._decoder.decode(self._held)
            return text
        behind: str = self._decoder.decode([_EARLIER, *self._held])
        return behind[len(_EARLIER) :]

    def forget(self) -> None:
        self._held, self._begun = [], True
