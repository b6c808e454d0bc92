"""The tokenizer of a model folder."""

import json
import statistics
import threading
import time
from itertools import pairwise

import pytest
import torch
from tokenizers import Tokenizer as Backend, decoders, models

from producer.contract import InvalidRequest, Message
from tests.models import save_tokenizer
from worker.engine import Tokenizer
from worker.errors import ConfigError


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


def test_chat_template(tokenizer):
    chat = [Message(role="system", content="Be brief."), Message(role="user", content="你好")]
    assert tokenizer.apply_chat_template(chat) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_model_without_chat_template_says_so(tmp_path):
    tokenizer = Tokenizer(save_tokenizer(tmp_path, chat_template=False))
    with pytest.raises(InvalidRequest, match="no chat template: send `prompt`"):
        tokenizer.apply_chat_template([Message(role="user", content="hi")])


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('Roles must alternate') }}", "{{ messages[7].content }}", "{{ 1 + messages }}"],
)
def test_a_template_that_refuses_the_messages(template, tmp_path):
    folder = save_tokenizer(tmp_path)
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(InvalidRequest, match="chat template refuses these messages"):
        Tokenizer(folder).apply_chat_template([Message(role="user", content="hi")])


def test_a_folder_without_tokenizer(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be loaded.*Download the model again"):
        Tokenizer(tmp_path)


def test_a_broken_tokenizer_file(tmp_path):
    (save_tokenizer(tmp_path) / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        Tokenizer(tmp_path)


def test_a_tokenizer_that_is_not_byte_level(tmp_path):
    backend = Backend(models.BPE(vocab={"a": 0, "▁": 1}, merges=[]))
    backend.decoder = decoders.Metaspace()
    save_tokenizer(tmp_path)
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match="not a byte-level BPE"):
        Tokenizer(tmp_path)


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
