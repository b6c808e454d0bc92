"""The tokenizer of a model folder."""

import json
import math
import statistics
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tokenizers import Regex, Tokenizer as Backend, decoders, models, normalizers

from producer.contract import InvalidRequest
from tests.models import save_tokenizer
from worker.engine import Tokenizer
from worker.errors import ConfigError

from .piece_tokenizers import FAMILIES, piece_backend, save_piece_tokenizer


def test_encode_gives_a_row_of_int64(tokenizer):
    ids = tokenizer.encode("你好, world")
    assert (ids.dtype, ids.dim(), ids.device.type) == (torch.int64, 1, "cpu")
    assert tokenizer.decode(ids) == "你好, world"


def test_special_tokens_are_skipped_unless_asked_for(tokenizer):
    ids = tokenizer.encode("<|im_start|>hi<|im_end|>")
    assert len(ids) > 2
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|im_start|>hi<|im_end|>"


def test_add_special_tokens_decides_about_the_tokenizers_own(tmp_path):
    folder = save_tokenizer(tmp_path)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
    }
    file.write_text(json.dumps(content))
    tokenizer = Tokenizer(folder)
    with_it, without = tokenizer.encode("hi").tolist(), tokenizer.encode("hi", add_special_tokens=False).tolist()
    assert with_it == [1, *without]


def test_a_lone_surrogate_is_refused(tokenizer):
    with pytest.raises(InvalidRequest, match="lone surrogate"):
        tokenizer.encode("half an emoji: \ud83d")


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


class TestFolder:
    """Of what is wrong with it, the message names the file."""

    def test_without_tokenizer(self, tmp_path):
        with pytest.raises(ConfigError, match=r"cannot be loaded.*Download the model again"):
            Tokenizer(tmp_path)

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("tokenizer.json", "{", r"tokenizer.json in .* is broken or was cut off"),
            ("tokenizer.json", "", r"tokenizer.json in .* is empty"),
            ("tokenizer.json", "{}", r"tokenizer.json is refused by tokenizers"),
            ("tokenizer.json", "version https://git-lfs.github.com/spec/v1\n", r"tokenizer.json in .* Git LFS"),
            ("tokenizer_config.json", '{"eos', r"tokenizer_config.json in .* is broken or was cut off"),
            ("special_tokens_map.json", "[]", r"special_tokens_map.json in .* holds no JSON object"),
            ("chat_template.jinja", "{% for m in messages %}{{ m.content }", r"Correct chat_template.jinja"),
        ],
    )
    def test_with_a_broken_file(self, name, content, said, tmp_path):
        (save_tokenizer(tmp_path) / name).write_text(content)
        with pytest.raises(ConfigError, match=said):
            Tokenizer(tmp_path)

    @pytest.mark.parametrize("content", [b"\xff\xfe{{ x }}", b"version https://git-lfs.github.com/spec/v1\n"])
    def test_whose_chat_template_is_no_text(self, content, tmp_path):
        (save_tokenizer(tmp_path) / "chat_template.jinja").write_bytes(content)
        with pytest.raises(ConfigError, match=r"chat_template.jinja in .* (is no text|Git LFS)"):
            Tokenizer(tmp_path)

    def test_whose_settings_are_at_fault_and_not_tokenizer_json(self, tmp_path):
        edit(save_tokenizer(tmp_path) / "tokenizer_config.json", eos_token=[7])
        with pytest.raises(ConfigError, match=r"beside tokenizer.json, as in tokenizer_config.json, is refused"):
            Tokenizer(tmp_path)

    def test_of_older_files_that_are_cut_off(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
        (tmp_path / "vocab.json").write_text('{"a": 0,')
        with pytest.raises(ConfigError, match=r"vocab.json in .* is broken or was cut off"):
            Tokenizer(tmp_path)

    def test_whose_chat_template_is_broken_in_tokenizer_config(self, tmp_path):
        (save_tokenizer(tmp_path) / "chat_template.jinja").unlink()
        edit(tmp_path / "tokenizer_config.json", chat_template="{% if x %}")
        with pytest.raises(ConfigError, match=r"at line 1. Correct tokenizer_config.json"):
            Tokenizer(tmp_path)

    def test_with_a_sentencepiece_model_alone(self, tmp_path):
        """To read it takes sentencepiece, which is not among the requirements."""
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
        (tmp_path / "tokenizer.model").write_bytes(b"no protobuf")
        with pytest.raises(ConfigError, match=r"tokenizer.model and no tokenizer.json. .* sentencepiece protobuf"):
            Tokenizer(tmp_path)

    @pytest.mark.parametrize("decoder", [decoders.WordPiece(), decoders.BPEDecoder(), decoders.CTC(), None])
    def test_whose_text_can_change_as_tokens_follow(self, decoder, tmp_path):
        backend = Backend(models.BPE(vocab={"a": 0, "##b": 1}, merges=[]))
        if decoder is not None:
            backend.decoder = decoder
        backend.save(str(save_tokenizer(tmp_path) / "tokenizer.json"))
        with pytest.raises(ConfigError, match=r"neither a byte-level BPE, .* nor of SentencePiece's kind"):
            Tokenizer(tmp_path)

    def test_whose_own_code_would_be_needed(self, tmp_path, monkeypatch):
        """transformers asks on stdout whether to run it, and takes the answer from stdin."""
        monkeypatch.setattr("builtins.input", lambda _: "y")
        (tmp_path / "config.json").write_text('{"model_type": "of my own"}')
        settings = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["tokenization_mine.Mine", None]}}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        (tmp_path / "tokenization_mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: ...\n")
        with pytest.raises(ConfigError, match=r"auto_map in tokenizer_config.json.*never run here"):
            Tokenizer(tmp_path)
        assert not (tmp_path / "ran").exists()


class TestTokenizerJson:
    """It says which ids a text has, and nothing else."""

    TEXT = "What is genqueue? Tell me about the queue and the worker."
    PADDING: ClassVar = {
        "strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }  # fmt: skip

    @pytest.mark.parametrize("direction", ["Left", "Right"])
    def test_cuts_no_prompt_and_fills_none_up(self, direction, tmp_path, tokenizer):
        """Scripts that train save it with the lengths of the training in it."""
        truncation = {"direction": direction, "max_length": 8, "strategy": "LongestFirst", "stride": 0}
        edit(save_tokenizer(tmp_path) / "tokenizer.json", truncation=truncation, padding=self.PADDING)
        edit(tmp_path / "tokenizer_config.json", model_max_length=8, padding_side="left", truncation_side="left")
        ours = Tokenizer(tmp_path)
        for add_special_tokens in (True, False):
            ids = ours.encode(self.TEXT, add_special_tokens=add_special_tokens)
            assert ids.tolist() == tokenizer.encode(self.TEXT).tolist()

    def test_splits_no_word_at_random(self, tmp_path, tokenizer):
        file = save_tokenizer(tmp_path) / "tokenizer.json"
        edit(file, model=json.loads(file.read_text())["model"] | {"dropout": 0.9})
        assert Tokenizer(tmp_path).encode(self.TEXT).tolist() == tokenizer.encode(self.TEXT).tolist()

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("kind", ["LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast", "Yi"])
    def test_says_it_whatever_class_the_settings_name(self, family, kind, tmp_path):
        """transformers builds Llama's anew: Yi, which names it, got a space in front of each text."""
        ours, backend = Tokenizer(save_piece_tokenizer(tmp_path, family, kind=kind)), piece_backend(family)
        for text in ("a queue", "  a", " ", "a<end_of_turn> a", "你é\n"):
            ids = backend.encode(text).ids
            assert ours.encode(text).tolist() == ids
            assert ours.decode(ids, skip_special_tokens=False) == backend.decode(ids, skip_special_tokens=False)


class TestEndOfTurn:
    def test_of_the_tiny_model(self, tokenizer):
        assert tokenizer.content(tokenizer.end_of_turn_id) == "<|im_end|>"

    @pytest.mark.parametrize(
        ("template", "token"),
        [
            ("{% for m in messages %}<|im_start|>{{ m.content }}<|endoftext|>{% endfor %}", "<|endoftext|>"),
            ("{% for m in messages %}{{ m.content | trim + ' ' }}<|im_end|>\n{% endfor %}", "<|im_end|>"),
            # Nothing ends the last turn; the next one's beginning does.
            ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\n{% endfor %}", "<|im_start|>"),
            # The last turn ends otherwise than those before it.
            (
                "{% for m in messages %}{{ m.content }}{% if loop.last %}<|endoftext|>{% else %}<|im_end|>"
                "{% endif %}{% endfor %}",
                "<|endoftext|>",
            ),
            ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", None),
            ("{{ raise_exception('no') }}", None),
            ("{{ messages[0].content }}<|im_end|>", None),
        ],
    )
    def test_is_the_token_behind_the_assistants_message(self, template, token, tmp_path):
        (save_tokenizer(tmp_path) / "chat_template.jinja").write_text(template)
        tokenizer = Tokenizer(tmp_path)
        found = tokenizer.end_of_turn_id
        assert (None if found is None else tokenizer.content(found)) == token

    def test_may_be_an_added_token_that_is_not_special(self, tmp_path):
        template = "{% for m in messages %}{{ m.content }}<end_of_turn>\n{% endfor %}"
        (save_piece_tokenizer(tmp_path, "Gemma") / "chat_template.jinja").write_text(template)
        tokenizer = Tokenizer(tmp_path)
        assert tokenizer.content(tokenizer.end_of_turn_id) == "<end_of_turn>"
        assert tokenizer.end_of_turn_id not in tokenizer.special_ids

    def test_is_none_without_a_chat_template(self, tmp_path):
        assert Tokenizer(save_tokenizer(tmp_path, chat_template=False)).end_of_turn_id is None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["a" * 3000, " " * 3000, "你" * 3000, "queue" * 900, "ᚠ" * 3000])
def test_no_text_of_pieces_has_fewer_tokens_than_the_bound_says(family, text, tmp_path):
    tokenizer = Tokenizer(save_piece_tokenizer(tmp_path, family))
    assert len(tokenizer.encode(text)) >= len(text) / tokenizer.max_chars_per_token


def test_a_text_is_unbounded_where_spaces_are_drawn_together(tmp_path):
    backend = piece_backend("Gemma")
    backend.normalizer = normalizers.Sequence([normalizers.Replace(Regex(" +"), " "), backend.normalizer])
    save_piece_tokenizer(tmp_path, "Gemma")
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path)
    assert len(tokenizer.encode(" " * 3000)) == 1
    assert tokenizer.max_chars_per_token == math.inf


@pytest.mark.parametrize("text", ["a" * 5000, " " * 5000, "ᄀ\u1161\u11a8" * 2000, "e\u0301" * 3000, "🌱" * 900])
def test_no_text_has_fewer_tokens_than_the_bound_says(text, tokenizer):
    assert len(tokenizer.encode(text)) >= len(text) / tokenizer.max_chars_per_token


def test_a_long_text_leaves_time_for_others(tokenizer: Tokenizer):
    """The interpreter lock was held for as long as it took: a job could not be stopped while it was tokenized."""

    def longest_wait() -> float:
        """For a turn of ours, as a share of the time that it took."""
        begun, took_s = threading.Event(), []

        def encode() -> None:
            begun.set()
            started_at = time.monotonic()
            tokenizer.encode("the " * 100_000)
            took_s.append(time.monotonic() - started_at)

        thread = threading.Thread(target=encode)
        turns = [time.monotonic()]
        thread.start()
        begun.wait()
        while thread.is_alive():
            turns.append(time.monotonic())
            time.sleep(0.001)
        return max(later - earlier for earlier, later in pairwise([*turns, time.monotonic()])) / took_s[0]

    # On a busy machine we may wait long for a turn, but not in most cases.
    assert statistics.median(longest_wait() for _ in range(5)) < 0.7
