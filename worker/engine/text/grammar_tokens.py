"""A model's tokenizer as llguidance needs it: the bytes of each token, and how a text is cut into tokens.

llguidance reads `tokenizer.json` by itself. What it makes of it is compared with what the detokenizer shows: where
the two differ, an answer could look other than what its grammar has let through.
"""

import json
from typing import Any

from llguidance import LLTokenizer
from tokenizers import Tokenizer as Backend

from producer.contract import InvalidRequest

from .tokenizer import Tokenizer

_PROBES = ("a", " a", 'a b: "c"', '{"name": "a b", "n": [1, 2]}', "é你🙂 ")
_COMPARED = 2_000
"""Tokens, all over the vocabulary."""
_SLICES = [
    r"[\x20\x0A\x0D\x09]+",
    *(rf"[^\"\\\x00-\x1F\x7F]{{1,{n}}}" for n in (2, 4, 6, 8, 10, 15, 20, 30)),
    r"[^\"\\\x00-\x1F\x7F]+",
]
"""Sets of tokens that are let through together: those of llguidance, and more lengths. A string that is near its
`maxLength` has longer tokens looked at one by one, and takes half the time."""
_EARLIER = "a"
"""As in `detokenizer`: what stands before a token, so that it is not the first."""


def grammar_tokens(tokenizer: Tokenizer, vocab_size: int) -> LLTokenizer:
    """For a model with so many ids, which takes a second or two.  Raises InvalidRequest where it cannot be had.

    Its eos_token is only a place for the word that an answer may end: what ends it is up to the request.
    """
    own = tokenizer.eos_token_id
    try:
        tokens = LLTokenizer(
            _without_prefix(tokenizer.backend),
            n_vocab=max(vocab_size, tokenizer.backend.get_vocab_size(with_added_tokens=True)),
            eos_token=min(tokenizer.special_ids, default=0) if own is None else own,
            slices=_SLICES,
        )
    except ValueError as error:
        raise _refused(str(error)) from error
    if any(tokens.decode_str(tokens.tokenize_str(text)) != text for text in _PROBES):
        raise _refused("a text that is cut into its tokens does not come back")
    if not _reads_alike(tokens, tokenizer):
        raise _refused("its tokens mean other texts there")
    return tokens


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"this model's answers cannot be held to a structure: llguidance cannot use its tokenizer: {why:.300}. "
        "Leave out response_format and grammar, or use another model"
    )


def _without_prefix(backend: Backend) -> str:
    """tokenizer.json, without the space that is put in front of a text: an answer goes on with one."""
    written: str = backend.to_str()
    if not any(map(_puts_a_space, _steps(backend.normalizer) + _steps(backend.pre_tokenizer))):
        return written  # a vocabulary takes seconds to be read and written
    state = json.loads(written)
    state["normalizer"] = _sequence("normalizers", [s for s in _steps(backend.normalizer) if not _puts_a_space(s)])
    cutting = [{**step, **_WITHOUT.get(step["type"], {})} for step in _steps(backend.pre_tokenizer)]
    state["pre_tokenizer"] = _sequence("pretokenizers", cutting)
    return json.dumps(state)


_WITHOUT: dict[str, dict[str, Any]] = {
    "Metaspace": {"prepend_scheme": "never"},
    "ByteLevel": {"add_prefix_space": False},
}


def _puts_a_space(step: dict[str, Any]) -> bool:
    return step["type"] == "Prepend" or not step.items() >= _WITHOUT.get(step["type"], {}).items()


def _steps(part: Any) -> list[dict[str, Any]]:
    """Of a normalizer or a pre_tokenizer, one after the other."""
    waiting = [] if part is None else [json.loads(part.__getstate__())]
    found = []
    while waiting:
        step = waiting.pop(0)
        inner = step.get("normalizers") or step.get("pretokenizers") if step["type"] == "Sequence" else None
        waiting[:0] = inner or []
        found += [] if step["type"] == "Sequence" else [step]
    return found


def _sequence(name: str, steps: list[dict[str, Any]]) -> dict[str, Any] | None:
    return {"type": "Sequence", name: steps} if steps else None


def _reads_alike(tokens: LLTokenizer, tokenizer: Tokenizer) -> bool:
    """Whether tokens that are no added ones have the text that the detokenizer shows for them."""
    backend = tokenizer.backend
    size = backend.get_vocab_size(with_added_tokens=True)
    added = backend.get_added_tokens_decoder()
    for token_id in range(0, size, max(1, size // _COMPARED)):
        token = backend.id_to_token(token_id)
        if token is None or token_id in added:
            continue
        shown = backend.decoder.decode([_EARLIER, token])[len(_EARLIER) :]
        if "\ufffd" not in shown and tokens.decode_str([token_id]) != shown:
            return False
    return True
