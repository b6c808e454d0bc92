"""Streamed text equals decoded text, for any ids."""

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from worker.engine import Tokenizer
from worker.engine.text.detokenizer import Detokenizer

SIZE_OF_VOCABULARY = 768
BEYOND = 790
"""An id that the model may have and the tokenizer has not."""

TEXTS = {
    "cjk": "预填充是生成的第一步，解码是第二步。龘",
    "kana": "ひらがなとカタカナのテキスト",
    "hangul": "한국어 텍스트",
    "emoji": "👋🏽 family: 👨‍👩‍👧‍👦, flag: 🇨🇳, keycap: 1️⃣",
    "accents": "naïve café e\u0301",
    "spaces": "  a , b .  c 's\n\n\td",
    "special": "<|im_start|>user\nhi<|im_end|>\n",
    "replacement": "a\ufffdb\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd c",
    "unassigned": "\U0010ffff\u0000\x7f",
}


def byte_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """One token for each byte."""
    return [tokenizer.backend.token_to_id(BYTE_ALPHABET[byte]) for byte in data]


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's map from bytes to printable characters."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


BYTE_ALPHABET = _byte_alphabet()


def stream(tokenizer: Tokenizer, ids: list[int], *, skip: bool = True) -> list[str]:
    """Special tokens are skipped as `Output` skips them."""
    detokenizer = Detokenizer(tokenizer)
    hidden = tokenizer.special_ids if skip else frozenset()
    return [*("" if token_id in hidden else detokenizer.push(token_id) for token_id in ids), detokenizer.flush()]


# Any id, some beyond the vocabulary; single bytes at the borders of UTF-8's rules; runs of one id.
ANY_ID = st.integers(0, SIZE_OF_VOCABULARY + 20)
SILENT_ID = st.sampled_from([0, 1, 2, BEYOND])  # special tokens, and an id that the tokenizer does not know
AWKWARD_BYTE = st.sampled_from(
    [bytes([byte]) for byte in bytes.fromhex("00417f80bfc0c1c2dfe0a09fecedefbbbdbef08f90f4f5feff")]
)


class TestJoinedTextEqualsDecode:
    @given(ids=st.lists(ANY_ID, max_size=60), skip=st.booleans())
    @settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_for_any_ids(self, ids, skip, tokenizer):
        pieces = stream(tokenizer, ids, skip=skip)
        assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=skip)

    @given(
        data=st.lists(st.one_of(AWKWARD_BYTE, st.sampled_from("你👋aé\ufffd"), SILENT_ID), max_size=40),
        skip=st.booleans(),
    )
    @settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_for_broken_utf_8_between_characters_and_special_tokens(self, data, skip, tokenizer):
        ids = []
        for item in data:
            if isinstance(item, int):
                ids.append(item)
            else:
                ids += byte_ids(tokenizer, item.encode() if isinstance(item, str) else item)
        pieces = stream(tokenizer, ids, skip=skip)
        assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=skip)

    @pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
    def test_for_text_cut_off_anywhere(self, text, tokenizer):
        for ids in (tokenizer.encode(text).tolist(), byte_ids(tokenizer, text.encode())):
            for end in range(len(ids) + 1):
                assert "".join(stream(tokenizer, ids[:end])) == tokenizer.decode(ids[:end])

    @pytest.mark.parametrize("silent_id", [0, BEYOND])
    def test_for_a_character_with_many_silent_ids_between_its_bytes(self, silent_id, tokenizer):
        first, *others = byte_ids(tokenizer, "你".encode())
        ids = [first, *[silent_id] * 7, *others]
        assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids) == "你"


class TestPieces:
    @pytest.mark.parametrize("text", [TEXTS[name] for name in ("cjk", "kana", "hangul", "emoji", "accents")])
    def test_never_hold_half_a_character(self, text, tokenizer):
        *pieces, rest = stream(tokenizer, byte_ids(tokenizer, text.encode()))
        assert "".join(pieces) == text
        assert rest == ""
        assert "\ufffd" not in "".join(pieces)

    @pytest.mark.parametrize("text", [TEXTS[name] for name in ("cjk", "kana", "hangul", "emoji")])
    def test_come_with_the_last_byte_of_their_character(self, text, tokenizer):
        """TextIteratorStreamer of transformers waits for a space, so that kana and Hangul stall."""
        pieces = iter(stream(tokenizer, byte_ids(tokenizer, text.encode())))
        for character in text:
            for _ in character.encode()[1:]:
                assert next(pieces) == ""
            assert next(pieces) == character

    @pytest.mark.parametrize("run", [b"\xff" * 200, b"\xe4\xbd" * 200, "\ufffd".encode() * 200, b"\x80" * 200])
    def test_do_not_stall_on_a_run_of_invalid_bytes(self, run, tokenizer):
        """DecodeStream waits for as long as the text ends in U+FFFD, ever slower: a model that emits it would
        show nothing until it stops."""
        ids = byte_ids(tokenizer, run)
        detokenizer = Detokenizer(tokenizer)
        shown = ""
        for count, token_id in enumerate(ids, start=1):
            shown += detokenizer.push(token_id)
            assert len(tokenizer.decode(ids[:count])) - len(shown) <= 5

    def test_spaces_before_punctuation_are_left_alone(self, tokenizer):
        assert "".join(stream(tokenizer, tokenizer.encode("a , b .").tolist())) == "a , b ."
