"""A byte-level tokenizer of any size, made up: a shape of random weights has none of its own. No download.

Its tokens are about as long as those of real ones, and have no meaning. What a grammar costs hangs on how many
there are.
"""

import random
import string
from pathlib import Path

from tokenizers import Tokenizer as Backend, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_END = "<|im_end|>"
_SPACE = "Ġ"
"""As byte-level tokenizers write it."""
_SHORT, _LONG = 3, 7
"""Characters of what is put behind another token, and of what another one is put behind."""


def save_tokenizer(folder: Path, tokens: int) -> None:
    """Write one of so many tokens, the last of which ends an answer. It is the same each time."""
    drawn = random.Random(0)
    vocabulary = {token: place for place, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    short = [*string.ascii_lowercase, *string.ascii_lowercase, *string.ascii_uppercase, _SPACE]
    longer = [*short]
    while len(vocabulary) < tokens - 1:
        pair = drawn.choice(drawn.choice((short, longer))), drawn.choice(short)
        token = "".join(pair)
        if token in vocabulary or _SPACE in token[1:]:
            continue
        vocabulary[token] = len(vocabulary)
        merges.append(pair)
        if len(token) <= _SHORT:
            short.append(token)
        if len(token) <= _LONG:
            longer.append(token)
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=_END).save_pretrained(folder)
