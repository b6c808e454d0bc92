"""Lines of OpenAI's batch output: `id`, `custom_id`, `response` and `error`, read by openai-python's own types.

Tokens of log-probabilities are called `token_id:17`, as by vLLM's return_tokens_as_token_ids: a stream has ids.
Source: OpenAI's API reference, The request output object.
"""

import time
from collections.abc import Sequence
from typing import Any

from ..contract import GenerationResult, TokenLogprob
from .answers import Answer
from .openai_rows import COMPLETIONS

ID_PREFIX = "batch_req_"
"""Before the job's id: what a line says of its place."""


def openai_line(answer: Answer) -> dict[str, Any]:
    """Of one row."""
    row, result = answer.row, answer.result
    line: dict[str, Any] = {"id": ID_PREFIX + row.job_id, "custom_id": row.custom_id}
    if result is None or answer.failed:
        code, message = answer.failure
        return {**line, "response": None, "error": {"code": code, "message": message}}
    body = _completion(result, answer) if row.endpoint == COMPLETIONS else _chat_completion(result, answer)
    response = {"status_code": 200, "request_id": row.job_id, "body": body}
    return {**line, "response": response, "error": None}


def _chat_completion(result: GenerationResult, answer: Answer) -> dict[str, Any]:
    logprobs = None
    if answer.logprobs is not None:
        content = [_chat_logprob(*pair) for pair in zip(result.token_ids, answer.logprobs, strict=False)]
        logprobs = {"content": content, "refusal": None}
    choice = {
        "index": 0,
        "message": _message(result),
        "logprobs": logprobs,
        "finish_reason": _finish_reason(result),
    }
    return _body(result, "chat.completion", "chatcmpl-", choice)


def _message(result: GenerationResult) -> dict[str, Any]:
    """OpenAI's: `content` is null where there are calls alone. The reasoning is called as by vLLM."""
    content = result.text if result.content is None else result.content
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if result.reasoning is not None:
        message["reasoning"] = result.reasoning
    if result.tool_calls:
        message["content"] = content or None
        message["tool_calls"] = [call.model_dump() for call in result.tool_calls]
    return message


def _completion(result: GenerationResult, answer: Answer) -> dict[str, Any]:
    logprobs = None if answer.logprobs is None else _completion_logprobs(result.token_ids, answer.logprobs)
    choice = {
        "index": 0,
        "text": result.text,
        "logprobs": logprobs,
        "finish_reason": _finish_reason(result),
    }
    return _body(result, "text_completion", "cmpl-", choice)


def _body(result: GenerationResult, kind: str, prefix: str, choice: dict[str, Any]) -> dict[str, Any]:
    usage = result.usage
    return {
        "id": prefix + result.job_id,
        "object": kind,
        "created": int(time.time()),
        "model": result.model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        },
        "system_fingerprint": None,
    }


def _finish_reason(result: GenerationResult) -> str:
    return "length" if result.truncated else "tool_calls" if result.finish_reason == "tool_calls" else "stop"


def _name(token_id: int) -> str:
    return f"token_id:{token_id}"


def _chat_logprob(token_id: int, of_it: TokenLogprob) -> dict[str, Any]:
    top = [{"token": _name(other), "logprob": logprob, "bytes": None} for other, logprob in of_it.top]
    return {"token": _name(token_id), "logprob": of_it.logprob, "bytes": None, "top_logprobs": top}


def _completion_logprobs(token_ids: Sequence[int], logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {
        "tokens": [_name(token_id) for token_id in token_ids],
        "token_logprobs": [each.logprob for each in logprobs],
        "top_logprobs": [{_name(other): logprob for other, logprob in each.top} for each in logprobs],
        "text_offset": None,
    }
