"""What to say of a name that is none of ours: what it is called here, or which of ours was meant.

The names are those that people bring with them, from transformers' `generate`, from OpenAI's API and from RQ.
"""

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

_STOPS = "it is called stop, and takes the strings themselves"
_ONE_ANSWER = "a job has one answer: submit(n=...) makes several jobs of one prompt"
_CHOICE = "temperature says it: 0 is greedy, and above 0 tokens are sampled"
_LENGTH = "it is called max_new_tokens, and counts the answer alone"
_STREAM = "every job has a stream: read it with stream()"
_TOOLS = 'they are called tools, a list of {"type": "function", "function": {"name": ...}}'
_TEXT = "it is called prompt, or messages for a chat"

ELSEWHERE = {
    # OpenAI, vLLM
    "max_tokens": "it is called max_new_tokens",
    "max_completion_tokens": "it is called max_new_tokens",
    "max_output_tokens": "it is called max_new_tokens",
    "min_tokens": "it is called min_new_tokens",
    "n": _ONE_ANSWER,
    "best_of": _ONE_ANSWER,
    "stream": _STREAM,
    "top_logprobs": "logprobs says it: the number of likeliest tokens to list with each",
    "json_schema": 'it is a part of response_format: {"type": "json_schema", "json_schema": {"name", "schema"}}',
    "guided_json": 'response_format says it: {"type": "json_schema", "json_schema": {"name", "schema"}}',
    "guided_regex": 'grammar says it: {"type": "regex", "regex": ...}',
    "guided_choice": 'grammar says it: {"type": "choice", "choice": [...]}',
    "guided_grammar": 'grammar says it: {"type": "lark", "lark": ...}',
    "structured_outputs": "response_format and grammar say it",
    "system": 'give it as the first of messages: {"role": "system", "content": ...}',
    "instructions": 'give it as the first of messages: {"role": "system", "content": ...}',
    "input": _TEXT,
    "user": 'whom it is for is called group; what one says is in messages: {"role": "user", "content": ...}',
    "tenant": "it is called group",
    "group_id": "it is called group",
    "include_stop_str_in_output": "the text ends before the stop string; the result's `stop` says which it was",
    "salt": "it is called cache_salt",
    "functions": _TOOLS,
    "function_call": "it is called tool_choice",
    "enable_thinking": 'give it as chat_template_kwargs={"enable_thinking": ...}',
    "template_kwargs": "it is called chat_template_kwargs",
    # transformers
    "max_length": _LENGTH,
    "min_length": "it is called min_new_tokens, and counts the answer alone",
    "do_sample": _CHOICE,
    "num_return_sequences": _ONE_ANSWER,
    "num_beams": "there is no beam search here: tokens are chosen greedily, or sampled",
    "stop_strings": _STOPS,
    "bad_words_ids": "it is called bad_words, and takes the words themselves",
    "sequence_bias": "it is called logit_bias, and takes single tokens",
    "suppress_tokens": "logit_bias of -100 keeps a token out",
    "stop_sequences": _STOPS,
    "stop_token_ids": _STOPS,
    "eos_token_id": "the model's own ends the text; stop takes strings that do, and ignore_eos goes on past it",
    "streamer": _STREAM,
    "input_ids": "it is called prompt_token_ids",
    "inputs": _TEXT,
    "text": _TEXT,
    "return_logprobs": "it is called logprobs, and takes a number",
    "output_scores": "it is called logprobs, and takes a number",
    "penalty": "there are repetition_penalty, presence_penalty and frequency_penalty",
    "generation_config": "give its fields one by one, as max_new_tokens=32",
    "sampling_params": "give its fields one by one, as max_new_tokens=32",
    "random_seed": "it is called seed",
    # RQ, and ways to say how long
    "timeout": "it is called timeout_s, in seconds",
    "job_timeout": "it is called timeout_s, in seconds",
    "ttl": "queue_ttl_s bounds the wait for a worker; result_ttl_s says how long a result is kept",
    "result_ttl": "it is called result_ttl_s, in seconds",
    "queue_ttl": "it is called queue_ttl_s, in seconds",
    "wait_s": "it is a setting of the Producer; a wait takes its bound itself, as result(timeout_s=5)",
    "at_front": 'priority="high" is served first',
    "id": "it is called job_id",
    "model_name": "it is called model",
}
"""By the name that was given."""


@dataclass(frozen=True)
class Names:
    """The names that there are, and those that people bring with them."""

    known: tuple[str, ...] = ()
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    def advice(self, name: str) -> str:
        """What to do about a name that there is not; empty where nothing like it is known."""
        name = name[:80]
        if meant := self.elsewhere.get(name):
            return meant
        close = difflib.get_close_matches(name.lower().replace("-", "_"), self.known, n=1, cutoff=0.7)
        return f"did you mean {close[0]}?" if close else ""


NONE = Names()


def for_options(advice: str, names: Collection[str]) -> str:
    """The same advice for a command line: those names as its options are called."""
    return re.sub(
        r"\w+",
        lambda word: f"--{word[0].replace('_', '-')}" if "_" in word[0] and word[0] in names else word[0],
        advice,
    )
