"""How a tokenizer makes text of tokens: by bytes, or piece by piece. Knows the decoders of `tokenizers`.

Tokens can be streamed only where the text of a prefix of the ids stays a prefix of the text. Two kinds keep to
that: byte-level BPE, as of Qwen2, Llama 3 and GPT-2; and SentencePiece, as of Llama 2, Mistral, Gemma and Phi-3,
which looks at one token after the other, or at a run of byte tokens.
"""

import json
from typing import Any, Literal

from tokenizers import Tokenizer as Backend

Decoding = Literal["byte-level", "pieces"]


def decoding_of(backend: Backend) -> Decoding | None:
    """None for a tokenizer whose text can still change when more tokens follow, as WordPiece's."""
    if backend.decoder is None:
        return None
    steps = _steps(json.loads(backend.decoder.__getstate__()))
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return "byte-level"
    fused_at = kinds.index("Fuse") if "Fuse" in kinds else len(steps)
    if all(_is_local(step) for step in steps[:fused_at]) and all(
        _is_local_in_fused(step) for step in steps[fused_at:]
    ):
        return "pieces"
    return None


def _steps(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for part in decoder["decoders"] for step in _steps(part)]


def _is_local(step: dict[str, Any]) -> bool:
    """Whether it looks at one token after the other; at most, whether a token is the first, or a byte."""
    return step["type"] in {"Replace", "ByteFallback", "Metaspace", "Strip"}


def _is_local_in_fused(step: dict[str, Any]) -> bool:
    """Whether it does no more to the whole text than to its beginning, or to each character."""
    match step:
        case {"type": "Fuse"}:
            return True
        case {"type": "Strip", "stop": 0}:
            return True
        case {"type": "Replace", "pattern": {"String": str(pattern)}}:
            return len(pattern) == 1
        case _:
            return False
