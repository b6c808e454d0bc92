"""Small tokenizers of SentencePiece's kinds, put together as those of Llama 2, Gemma and T5 are."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer as Backend, decoders, models, normalizers, pre_tokenizers

SPACE = "▁"
SPECIAL = ("<unk>", "<s>", "</s>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
PIECES = (
    SPACE, SPACE * 2, f"{SPACE}a", f"{SPACE}queue", "a", "b", "queue", "，", "你", f"{SPACE}你", "\ufffd", "\n",
    "é", "<0x", "<0xZZ>", ".",
)  # fmt: skip
TURN = "<end_of_turn>"
"""An added token that is not special."""

_TO_SPACE = decoders.Replace(SPACE, " ")
_FROM_SPACE = normalizers.Replace(" ", SPACE)
_BY_BYTES = [_TO_SPACE, decoders.ByteFallback(), decoders.Fuse()]

FAMILIES = {
    # Llama 2, Mistral 0.1, Phi-3: a space is put in front of the text, and taken off its beginning.
    "Llama 2": {
        "normalizer": normalizers.Sequence([normalizers.Prepend(SPACE), _FROM_SPACE]),
        "decoder": decoders.Sequence([*_BY_BYTES, decoders.Strip(" ", 1, 0)]),
    },
    "two spaces at the beginning": {
        "normalizer": normalizers.Sequence([normalizers.Prepend(SPACE * 2), _FROM_SPACE]),
        "decoder": decoders.Sequence([*_BY_BYTES, decoders.Strip(" ", 2, 0)]),
    },
    "Gemma": {"normalizer": _FROM_SPACE, "decoder": decoders.Sequence(_BY_BYTES)},
    "Metaspace": {
        "pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="first"),
        "decoder": decoders.Metaspace(prepend_scheme="first"),
    },
    "bytes, then Metaspace": {
        "pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="always"),
        "decoder": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")]),
    },
}


def piece_backend(family: str) -> Backend:
    """Ids from 0: special tokens, bytes, pieces; and the added token at last."""
    tokens = (*SPECIAL, *BYTES, *PIECES)
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    merges = [(SPACE, SPACE), (SPACE, "a"), (SPACE, "你")]
    backend = Backend(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    for part, value in FAMILIES[family].items():
        setattr(backend, part, value)
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    backend.add_tokens([AddedToken(TURN, special=False)])
    return backend


def save_piece_tokenizer(folder: Path, family: str, *, kind: str = "LlamaTokenizer") -> Path:
    """kind: the class that tokenizer_config.json names."""
    piece_backend(family).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": kind, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
