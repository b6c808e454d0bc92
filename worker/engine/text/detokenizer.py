"""Incremental detokenization: text as soon as it is certain, and never half a character.

A token of a byte-level BPE is a run of bytes, and a character may be spread over several. Joined together, the
pieces equal `Tokenizer.decode` of all ids, whatever the ids, invalid UTF-8 included.
"""

from tokenizers.decoders import DecodeStream

from .tokenizer import Tokenizer

_MAX_TOKENS_PER_CHARACTER = 4
"""UTF-8 has at most four bytes a character, and a token has at least one byte."""


class Detokenizer:
    """Decodes one sequence of ids, one at a time, with `tokenizers.decoders.DecodeStream`.

    What DecodeStream leaves to its callers is done here:
    - it has no flush: an incomplete character at the end would be lost, where decode shows U+FFFD;
    - it waits for as long as the text ends in U+FFFD, and decodes all that it waits with again at every step.
      A model that writes invalid bytes, or the character U+FFFD itself, would stall the stream, ever slower.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._silent_ids = tokenizer.special_ids if skip_special_tokens else frozenset[int]()
        self._held: list[int] = []
        self._shown = 0
        """Characters of the text of the held ids that were released already."""
        self._stream = DecodeStream(skip_special_tokens=skip_special_tokens)

    def push(self, token_id: int) -> str:
        """Take the next id; return the text that it completes, often one piece, or "" inside a character."""
        if token_id in self._silent_ids:
            return ""
        piece: str | None = self._stream.step(self._tokenizer.backend, token_id)
        if piece is not None:
            piece = piece[self._shown :]
            self._held, self._shown = [], 0
            return piece
        if self._tokenizer.backend.id_to_token(token_id) is None:
            return ""  # the model's vocabulary is padded beyond the tokenizer's
        self._held.append(token_id)
        return self._release_settled() if len(self._held) > _MAX_TOKENS_PER_CHARACTER else ""

    def flush(self) -> str:
        """The text still held back, now that nothing follows it: U+FFFD for an incomplete character."""
        rest = self._decode(self._held)[self._shown :]
        self._restart([])
        return rest

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
        self._stream = DecodeStream(skip_special_tokens=self._skip_special_tokens)
        if held:
            self._stream.step(self._tokenizer.backend, held)

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip_special_tokens)
