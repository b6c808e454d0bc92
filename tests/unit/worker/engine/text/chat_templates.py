"""Chat templates in the shape of those that models have, and tokenizers with their tokens."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from tests.models import save_tokenizer
from worker.engine import Tokenizer

_QWEN_BEGIN = """{% if tools %}<|im_start|>system
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>
Answer with <tool_call>{"name": <function-name>, "arguments": <args-json-object>}</tool_call><|im_end|>
{% endif %}"""
_QWEN_CALL = """<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>"""
_QWEN_REST = """{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}{{ '\\n' }}CALL{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
THINK{% endif %}"""
_LLAMA = """{% for message in messages %}<|im_start|>{{ message.role }}<|im_end|>

{% if loop.first and tools %}{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif %}{% if message.tool_calls %}{% set call = message.tool_calls[0].function %}CALL\
{% else %}{{ message.content }}{% endif %}<|endoftext|>{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant<|im_end|>

{% endif %}"""
_LLAMA_CALL = '{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}'
_MISTRAL = """{% for message in messages %}{% if message.role == 'user' %}{% if tools %}[AVAILABLE_TOOLS]\
{{ tools | tojson }}{% endif %}[INST]{{ message.content }}[/INST]{% elif message.tool_calls is defined %}\
{% for call in message.tool_calls %}{% if call.id | length != 9 %}\
{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}{% endfor %}CALLS\
<|endoftext|>{% elif message.role == 'tool' %}[TOOL_RESULTS]{{ message.tool_call_id }} {{ message.content }}\
{% else %}{{ message.content }}<|endoftext|>{% endif %}{% endfor %}"""
_MISTRAL_CALLS = """[TOOL_CALLS] [{% for call in message.tool_calls %}{{ (call.function | tojson)[:-1] }}, "id": \
"{{ call.id }}"}{% if not loop.last %}, {% endif %}{% endfor %}]"""
_LATER_MISTRAL_CALLS = """{% for call in message.tool_calls %}[TOOL_CALLS]{{ call.function.name }}[ARGS]\
{{ call.function.arguments | tojson }}{% endfor %}"""
_XML_CALL = """<tool_call>
<function={{ call.function.name }}>
{% for name, value in call.function.arguments | items %}<parameter={{ name }}>{{ value }}</parameter>
{% endfor %}</function>
</tool_call>"""


def _qwen(call: str = _QWEN_CALL, think: str = "") -> str:
    return _QWEN_BEGIN + _QWEN_REST.replace("CALL", call).replace("THINK", think)


TEMPLATES = {
    "Qwen2.5": _qwen(),
    "Qwen3": "{# enable_thinking, <think> #}" + _qwen(),
    "QwQ": _qwen(think="<think>\n"),
    "Llama 3.1": _LLAMA.replace("CALL", _LLAMA_CALL),
    "Mistral v3": _MISTRAL.replace("CALLS", _MISTRAL_CALLS, 1).replace("[TOOL_" + _MISTRAL_CALLS, "[TOOL_CALLS"),
    "Mistral v11": _MISTRAL.replace("CALLS", _LATER_MISTRAL_CALLS, 1),
    "Qwen3-Coder": _qwen(call=_XML_CALL),
    "Phi-4-mini": _LLAMA.replace("CALL", f"<|tool_call|>[{_LLAMA_CALL}]<|/tool_call|>"),
    "no tools": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
}
TOKENS = {
    "Qwen2.5": {"<tool_call>": False, "</tool_call>": False},
    "Qwen3": {"<tool_call>": False, "</tool_call>": False, "<think>": False, "</think>": False},
    "QwQ": {"<tool_call>": True, "</tool_call>": True, "<think>": False, "</think>": False},
    "Llama 3.1": {"<|python_tag|>": True},
    "Mistral v3": {"[TOOL_CALLS]": True, "[TOOL_RESULTS]": True},
    "Mistral v11": {"[TOOL_CALLS]": True, "[ARGS]": True},
}
"""Those of the form that are tokens, and whether they are special."""


def tokenizer_of(family: str, folder: Path) -> Tokenizer:
    """The tiny model's, with that family's template and tokens."""
    save_tokenizer(folder)
    hf = PreTrainedTokenizerFast.from_pretrained(folder)
    for token, special in TOKENS.get(family, {}).items():
        hf.add_tokens([token], special_tokens=special)
    hf.chat_template = TEMPLATES[family]
    hf.save_pretrained(folder)
    return Tokenizer(folder)
