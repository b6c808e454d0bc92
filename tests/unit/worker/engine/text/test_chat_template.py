"""What becomes of a chat with tools, and which form of a call a template shows."""

import inspect
import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from producer.contract import GenerationRequest, InvalidRequest, Markup, Message
from producer.contract.chat import NOT_OF_THE_TEMPLATE
from producer.contract.views.message_view import parts_of
from tests.models import save_tokenizer
from worker.engine import Tokenizer
from worker.engine.text.output import Output

from .chat_templates import TEMPLATES, tokenizer_of

USER = [{"role": "user", "content": "Wien?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": False,
    },
}
CALLED = {
    "role": "assistant",
    "tool_calls": [{"id": "abcdefghi", "function": {"name": "weather", "arguments": '{"city": "Wien"}'}}],
}
ANSWERED = {"role": "tool", "content": "sunny", "tool_call_id": "abcdefghi"}


def prompt_of(tokenizer: Tokenizer, **fields: Any) -> str:
    request = GenerationRequest.parse(fields)
    return tokenizer.chat_template.prompt(request.messages or (), request.tools, request.chat_template_kwargs)


class TestMessages:
    def test_become_a_prompt(self, tokenizer):
        chat = [Message(role="system", content="Be brief."), Message(role="user", content="你好")]
        assert tokenizer.chat_template.prompt(chat) == (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
        )

    def test_are_refused_where_there_is_no_template(self, tmp_path):
        tokenizer = Tokenizer(save_tokenizer(tmp_path, chat_template=False))
        with pytest.raises(InvalidRequest, match="no chat template: send `prompt`"):
            prompt_of(tokenizer, messages=USER)
        assert not tokenizer.chat_template.knows_tools

    @pytest.mark.parametrize(
        "template",
        ["{{ raise_exception('Roles must alternate') }}", "{{ messages[7].content }}", "{{ 1 + messages }}"],
    )
    def test_that_a_template_refuses(self, template, tmp_path):
        folder = save_tokenizer(tmp_path)
        (folder / "chat_template.jinja").write_text(template)
        with pytest.raises(InvalidRequest, match="chat template refuses these messages"):
            prompt_of(Tokenizer(folder), messages=USER)

    def test_show_calls_and_what_came_of_them(self, tmp_path):
        prompt = prompt_of(tokenizer_of("Qwen2.5", tmp_path), messages=[*USER, CALLED, ANSWERED])
        assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Wien"}}\n</tool_call><|im_end|>' in prompt
        assert "<|im_start|>tool\nsunny<|im_end|>" in prompt

    def test_show_arguments_that_are_no_object_as_the_model_wrote_them(self, tmp_path):
        wrong = {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": '{"city'}}]}
        assert '"arguments": "{\\"city"}' in prompt_of(tokenizer_of("Qwen2.5", tmp_path), messages=[*USER, wrong])

    def test_have_no_more_fields_than_there_are(self, tmp_path):
        """Templates ask whether a field is there, and not what it holds."""
        folder = save_tokenizer(tmp_path)
        template = "{% for m in messages %}{{ m.keys() | list }}{% endfor %}"
        (folder / "chat_template.jinja").write_text(template)
        thought = {"role": "assistant", "content": "b", "reasoning": "a"}
        prompt = prompt_of(Tokenizer(folder), messages=[*USER, thought])
        assert prompt.startswith("['role', 'content'][")
        assert "'reasoning_content'" in prompt
        assert "tool_call" not in prompt

    def test_ids_that_a_template_does_not_take_are_refused_in_its_words(self, tmp_path):
        other = {**CALLED, "tool_calls": [{**CALLED["tool_calls"][0], "id": "call_1"}]}
        with pytest.raises(InvalidRequest, match="refuses these messages: Tool call IDs should be alphanumeric"):
            prompt_of(tokenizer_of("Mistral v3", tmp_path), messages=[*USER, other])


class TestTools:
    @pytest.mark.parametrize("family", ["Qwen2.5", "Llama 3.1", "Mistral v3"])
    def test_are_shown_as_models_were_taught(self, family, tmp_path):
        prompt = prompt_of(tokenizer_of(family, tmp_path), messages=USER, tools=[WEATHER])
        shown = {**WEATHER, "function": {**WEATHER["function"]}}
        del shown["function"]["strict"]
        assert json.dumps(shown) in prompt

    @pytest.mark.parametrize("family", ["no tools", "Qwen3-Coder", "Phi-4-mini"])
    def test_are_refused_where_no_call_would_be_found(self, family, tmp_path):
        tokenizer = tokenizer_of(family, tmp_path)
        said = "knows none: leave them out" if family == "no tools" else "in a form that is not read here"
        with pytest.raises(InvalidRequest, match=f"tools: .*{said}"):
            prompt_of(tokenizer, messages=USER, tools=[WEATHER])
        assert tokenizer.chat_template.knows_tools is (family != "no tools")

    def test_are_for_the_template_that_is_there_for_them(self, tmp_path):
        """Cohere's, and the older Hermes', have two."""
        hf = PreTrainedTokenizerFast.from_pretrained(save_tokenizer(tmp_path))
        hf.chat_template = {"default": TEMPLATES["no tools"], "tool_use": TEMPLATES["Qwen2.5"]}
        hf.save_pretrained(tmp_path)
        tokenizer = Tokenizer(tmp_path)
        assert tokenizer.chat_template.tool_format == "hermes"
        assert "weather" in prompt_of(tokenizer, messages=USER, tools=[WEATHER])


@pytest.mark.parametrize(
    ("family", "form", "reasoning"),
    [
        ("Qwen2.5", "hermes", False),
        ("Qwen3", "hermes", True),
        ("QwQ", "hermes", True),
        ("Llama 3.1", "llama3_json", False),
        ("Mistral v3", "mistral", False),
        ("Mistral v11", "mistral", False),
        ("Qwen3-Coder", None, False),
        ("Phi-4-mini", None, False),
        ("no tools", None, False),
    ],
)
def test_a_template_shows_how_its_model_writes(family, form, reasoning, tmp_path):
    template = tokenizer_of(family, tmp_path).chat_template
    assert (template.tool_format, template.has_reasoning) == (form, reasoning)


def test_a_template_that_stumbles_over_tools_serves_chats_without(tmp_path):
    template = "{% if tools %}{{ 1 // 0 }}{% endif %}{{ messages[0].content }}"
    (save_tokenizer(tmp_path) / "chat_template.jinja").write_text(template)
    tokenizer = Tokenizer(tmp_path)
    assert not tokenizer.chat_template.knows_tools
    assert prompt_of(tokenizer, messages=USER) == "Wien?"


class TestVariables:
    def test_reach_the_template(self, tmp_path):
        folder = save_tokenizer(tmp_path)
        (folder / "chat_template.jinja").write_text("{{ style.tone }}, {{ enable_thinking }}")
        variables = {"style": {"tone": "calm"}, "enable_thinking": False}
        assert prompt_of(Tokenizer(folder), messages=USER, chat_template_kwargs=variables) == "calm, False"

    def test_that_it_does_not_know_are_refused(self, tokenizer):
        with pytest.raises(InvalidRequest, match="the chat template of this model knows no 'enable_thinking'"):
            prompt_of(tokenizer, messages=USER, chat_template_kwargs={"enable_thinking": False})

    def test_are_none_of_the_arguments_of_transformers(self):
        """One of them would be the template itself."""
        given = inspect.signature(PreTrainedTokenizerFast.apply_chat_template).parameters
        named = {name for name, each in given.items() if each.kind is not inspect.Parameter.VAR_KEYWORD}
        assert named - {"self", "documents"} <= NOT_OF_THE_TEMPLATE


class TestMarkup:
    @pytest.mark.parametrize(
        ("family", "fields", "markup"),
        [
            ("Qwen2.5", {}, None),
            ("Qwen2.5", {"tools": [WEATHER]}, Markup(tool_calls="hermes")),
            ("Qwen2.5", {"tools": [WEATHER], "tool_choice": "none"}, None),
            ("Qwen3", {}, Markup(reasoning="think")),
            ("QwQ", {}, Markup(reasoning="think", reasoning_open=True)),
            ("QwQ", {"tools": [WEATHER]}, Markup(tool_calls="hermes", reasoning="think", reasoning_open=True)),
            ("Mistral v3", {"tools": [WEATHER]}, Markup(tool_calls="mistral")),
        ],
    )
    def test_is_of_the_model_and_of_the_request(self, family, fields, markup, tmp_path):
        tokenizer = tokenizer_of(family, tmp_path)
        asked = GenerationRequest.parse({"messages": USER, **fields})
        prompt_ids = tokenizer.encode(tokenizer.chat_template.prompt(asked.messages), add_special_tokens=False)
        assert tokenizer.markup(asked, prompt_ids.tolist()) == markup

    def test_there_is_none_of_a_plain_prompt(self, tmp_path):
        tokenizer = tokenizer_of("QwQ", tmp_path)
        assert tokenizer.markup(GenerationRequest(prompt="<think>"), tokenizer.encode("<think>").tolist()) is None

    def test_tags_that_the_text_does_not_show_mark_nothing(self, tmp_path):
        tokenizer_of("QwQ", tmp_path)
        hf = PreTrainedTokenizerFast.from_pretrained(tmp_path)
        hf.add_tokens(["<think>", "</think>"], special_tokens=True)
        hf.save_pretrained(tmp_path)
        tokenizer = Tokenizer(tmp_path)
        for skip, reasoning in ((True, None), (False, "think")):
            asked = GenerationRequest.parse({"messages": USER, "skip_special_tokens": skip})
            found = tokenizer.markup(asked, tokenizer.encode("<think>\n").tolist())
            assert (found and found.reasoning) == reasoning


CALLS = {
    "QwQ": '<tool_call>{"name": "weather", "arguments": {}}</tool_call>',
    "Llama 3.1": '<|python_tag|>{"name": "weather", "parameters": {}}',
    "Mistral v3": '[TOOL_CALLS] [{"name": "weather", "arguments": {}}]',
    "Mistral v11": "[TOOL_CALLS]weather[ARGS]{}",
}


@pytest.mark.parametrize("family", CALLS)
@pytest.mark.parametrize("tools", [True, False])
def test_what_marks_a_call_is_shown_where_calls_are_looked_for(family, tools, tmp_path):
    """A special token is left out of a text, and a call would be one no more."""
    tokenizer = tokenizer_of(family, tmp_path)
    asked = GenerationRequest.parse({"messages": USER, **({"tools": [WEATHER]} if tools else {})})
    job = Output(asked, tokenizer, max_new_tokens=999, eos_token_ids=frozenset({2}))
    ids = tokenizer.encode(f"{CALLS[family]}<|im_start|>").tolist()
    assert tokenizer.call_marker_ids & {*ids} <= tokenizer.special_ids

    text = "".join(map(job.push, ids)) + job.flush()

    found = parts_of("", Markup(tool_calls=tokenizer.chat_template.tool_format), text).tool_calls
    assert (text == CALLS[family]) is tools
    assert len(found) == 1 or not tools
