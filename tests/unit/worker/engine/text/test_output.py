"""From ids to text and the reason to end, where detokenizer and stop strings meet."""

import re

import pytest

from producer.contract import GenerationRequest
from worker.engine import Tokenizer
from worker.engine.text.output import Output

from .piece_tokenizers import save_piece_tokenizer

HALF_A_CHARACTER = "你".encode()[:1]


@pytest.fixture
def ids(tokenizer):
    """Ids of one byte each."""
    return {
        "a": tokenizer.encode("a").tolist()[0],
        "half": tokenizer.backend.token_to_id(chr(HALF_A_CHARACTER[0])),
        "eos": 2,
    }


def output(tokenizer, *, max_new_tokens: int = 100, **fields) -> Output:
    request = GenerationRequest(prompt="x", **fields)
    return Output(request, tokenizer, max_new_tokens=max_new_tokens, eos_token_ids=frozenset({2}))


def test_held_text_comes_before_half_a_character(tokenizer, ids):
    job = output(tokenizer, stop=["ab"])
    assert [job.push(ids["a"]), job.push(ids["half"])] == ["", ""]
    assert job.flush() == "a\ufffd"


@pytest.mark.parametrize("last", ["eos", "length"])
def test_the_last_token_releases_all(tokenizer, ids, last):
    job = output(tokenizer, stop=["ab"], max_new_tokens=2 if last == "length" else 3)
    shown = job.push(ids["a"]) + job.push(ids["half"])
    if last == "eos":
        shown += job.push(ids["eos"])
    assert shown == "a\ufffd"
    assert (job.finish_reason, job.stop) == ("stop" if last == "eos" else "length", None)
    assert job.flush() == ""


def test_a_stop_string_that_the_end_completes_counts(tokenizer, ids):
    job = output(tokenizer, stop=["a\ufffd"], max_new_tokens=2)
    assert job.push(ids["a"]) + job.push(ids["half"]) == ""
    assert (job.finish_reason, job.stop) == ("stop", "a\ufffd")


def test_a_stop_string_may_be_a_special_token_that_is_shown(tokenizer, ids):
    job = output(tokenizer, stop=["<|im_end|>"], skip_special_tokens=False)
    assert job.push(ids["a"]) + job.push(ids["eos"]) == "a"
    assert (job.finish_reason, job.stop) == ("stop", "<|im_end|>")


def push_all(job: Output, ids: list[int]) -> str:
    """As far as the job goes on."""
    return "".join(job.push(token_id) for token_id in ids if not job.finish_reason)


class TestSpecialTokens:
    """As stop strings, also where they are left out of the text: people name the token that ends a turn."""

    TEXT = "genqueue<|im_end|>\n<|im_start|>user\nmore"

    @pytest.mark.parametrize("skip", [True, False])
    @pytest.mark.parametrize(
        ("stop", "shown"),
        [
            ("<|im_end|>", "genqueue"),
            ("<|im", "genqueue"),
            ("im_end|>\n", None),
            ("ue<|im_end|>\n<", "genque"),
            ("<|im_start|>user", None),
            ("user", None),
        ],
    )
    def test_may_be_part_of_a_stop_string(self, tokenizer, skip, stop, shown):
        job = output(tokenizer, stop=[stop], ignore_eos=True, skip_special_tokens=skip)
        text = push_all(job, tokenizer.encode(self.TEXT).tolist())
        whole = self.TEXT[: self.TEXT.index(stop)]
        expected = re.sub(r"<\|im_\w+\|>", "", whole) if skip else whole
        if skip:  # what stands before the match is shown, were it half a token: but no half of a hidden one
            expected = expected.replace("<|", "")
        assert (text, job.finish_reason, job.stop) == (shown or expected, "stop", stop)

    def test_may_stand_within_a_stop_string_that_is_shown_without_them(self, tokenizer, ids):
        job = output(tokenizer, stop=["aa"], ignore_eos=True)
        assert push_all(job, [ids["a"], ids["eos"], ids["a"], ids["a"]]) == ""
        assert job.stop == "aa"
        assert job.token_count == 3

    def test_are_not_shown_where_no_match_comes_of_them(self, tokenizer, ids):
        job = output(tokenizer, stop=["<|im_end|>b"], ignore_eos=True)
        assert push_all(job, [ids["a"], ids["eos"], ids["a"]]) + job.flush() == "aa"
        assert job.stop is None

    def test_end_the_job_as_a_stop_string_before_they_do_as_its_end(self, tokenizer, ids):
        job = output(tokenizer, stop=["<|im_end|>"])
        push_all(job, [ids["a"], ids["eos"]])
        assert (job.finish_reason, job.stop) == ("stop", "<|im_end|>")


class TestEndOfTurn:
    TEMPLATE = "{% for m in messages %}{{ m.content }}<end_of_turn>\n{% endfor %}"

    @pytest.fixture
    def pieces(self, tmp_path):
        (save_piece_tokenizer(tmp_path, "Gemma") / "chat_template.jinja").write_text(self.TEMPLATE)
        return Tokenizer(tmp_path)

    @pytest.mark.parametrize(("skip", "shown"), [(True, " a"), (False, " a<end_of_turn>")])
    def test_is_shown_with_special_tokens_alone_though_it_is_none(self, pieces, skip, shown):
        request = GenerationRequest(messages=[{"role": "user", "content": "x"}], skip_special_tokens=skip)
        end = pieces.end_of_turn_id
        job = Output(request, pieces, max_new_tokens=9, eos_token_ids=frozenset({end}))
        assert push_all(job, [pieces.backend.token_to_id("▁a"), end]) == shown
        assert job.finish_reason == "stop"

    def test_is_a_token_like_any_other_outside_of_a_chat(self, pieces):
        job = Output(GenerationRequest(prompt="x"), pieces, max_new_tokens=9, eos_token_ids=frozenset())
        assert push_all(job, [pieces.end_of_turn_id]) == "<end_of_turn>"


class TestMinNewTokens:
    """Neither the end-of-sequence token nor a stop string ends a shorter output; vLLM looks beyond it, too."""

    @pytest.mark.parametrize(("minimum", "count", "shown"), [(0, 1, ""), (1, 2, "a"), (2, 3, "aa"), (3, 4, "aaa")])
    def test_a_stop_string_counts_beyond_it(self, tokenizer, ids, minimum, count, shown):
        job = output(tokenizer, stop=["a"], min_new_tokens=minimum)
        assert push_all(job, [ids["a"]] * 9) == shown
        assert (job.token_count, job.finish_reason, job.stop) == (count, "stop", "a")

    def test_a_stop_string_may_begin_within_it(self, tokenizer, ids):
        job = output(tokenizer, stop=["aaa"], min_new_tokens=3)
        assert push_all(job, [ids["a"]] * 9) == "a"
        assert job.token_count == 4

    def test_none_counts_that_the_end_completes_within_it(self, tokenizer, ids):
        job = output(tokenizer, stop=["a\ufffd"], min_new_tokens=2, max_new_tokens=2)
        assert push_all(job, [ids["a"], ids["half"]]) == "a\ufffd"
        assert (job.finish_reason, job.stop) == ("length", None)

    def test_holds_after_a_resume(self, tokenizer, ids):
        for cut in range(1, 5):
            job = output(tokenizer, stop=["aa"], min_new_tokens=4)
            shown = push_all(job, [ids["a"]] * cut)
            assert job.finish_reason is None
            again = output(tokenizer, stop=["aa"], min_new_tokens=4)
            assert push_all(again, [ids["a"]] * cut) == shown
            assert shown + push_all(again, [ids["a"]] * 9) == "aaa"
            assert again.token_count == 5


def test_a_newline_that_is_a_byte_stops_at_once(tmp_path):
    """Llama 2's newline is a byte, whose text is certain when the run of bytes ends: a token too late."""
    pieces = Tokenizer(save_piece_tokenizer(tmp_path, "Llama 2"))
    request = GenerationRequest(prompt="x", stop=["\n"])
    job = Output(request, pieces, max_new_tokens=9, eos_token_ids=frozenset())
    ids = [pieces.backend.token_to_id(token) for token in ("▁queue", "<0x0A>", "a")]
    assert push_all(job, ids) == "queue"
    assert (job.token_count, job.stop) == (2, "\n")
