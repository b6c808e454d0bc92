"""Lines of OpenAI's batch output: `id`, `custom_id`, `response` and `error`, read by openai-python's own types.

Tokens of log-probabilities are called `token_id:17`, as by vLLM's return_tokens_as_token_ids: a stream has ids.
Source: OpenAI's API reference, The request output object.
"""

import time
from collections.abc import Sequence
from typing import Any

from ..contract import GenerationResult, TokenLogprob, Usage
from .answers import Answer
from .openai_rows import COMPLETIONS
from .rows import Row

ID_PREFIX = "batch_req_"
"""Before the job's id: what a line says of its place."""


def openai_line(answer: Answer) -> dict[str, Any]:
    """Of one row."""
    row, result = answer.row, answer.result
    if result is None or answer.failed:
        return line_without_response(row, *answer.failure)
    body = _completion(result, answer) if row.endpoint == COMPLETIONS else _chat_completion(result, answer)
    return line_with_response(row, 200, body)


def line_with_response(row: Row, status: int, body: dict[str, Any]) -> dict[str, Any]:
    """Of a row that was answered as a request would have been.  status: of HTTP."""
    response = {"status_code": status, "request_id": row.job_id, "body": body}
    return {"id": ID_PREFIX + row.job_id, "custom_id": row.custom_id, "response": response, "error": None}


def line_without_response(row: Row, code: str, message: str) -> dict[str, Any]:
    """Of a row that was not."""
    error = {"code": code, "message": message}
    return {"id": ID_PREFIX + row.job_id, "custom_id": row.custom_id, "response": None, "error": error}


def _chat_completion(result: GenerationResult, answer: Answer) -> dict[str, Any]:
    return _body(result, "chat.completion", "chatcmpl-", chat_choice(0, result, answer.logprobs))


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
    return _body(result, "text_completion", "cmpl-", completion_choice(0, result, answer.logprobs))


def chat_choice(index: int, result: GenerationResult, logprobs: Sequence[TokenLogprob] | None) -> dict[str, Any]:
    """A choice of a chat completion."""
    return {
        "index": index,
        "message": _message(result),
        "logprobs": None if logprobs is None else chat_logprobs(result.token_ids, logprobs),
        "finish_reason": finish_reason(result),
    }


def completion_choice(
    index: int, result: GenerationResult, logprobs: Sequence[TokenLogprob] | None
) -> dict[str, Any]:
    """A choice of a completion."""
    return {
        "index": index,
        "text": result.text,
        "logprobs": None if logprobs is None else completion_logprobs(result.token_ids, logprobs),
        "finish_reason": finish_reason(result),
    }


def _body(result: GenerationResult, kind: str, prefix: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": prefix + result.job_id,
        "object": kind,
        "created": int(time.time()),
        "model": result.model,
        "choices": [choice],
        "usage": usage_of([result.usage]),
        "system_fingerprint": None,
    }


def usage_of(usages: Sequence[Usage]) -> dict[str, Any]:
    """Of the choices of one answer, which may have prompts of their own."""
    prompt, completion, cached = (
        sum(getattr(usage, name) for usage in usages)
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens")
    )
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def finish_reason(result: GenerationResult) -> str:
    """OpenAI's word for why it ended."""
    return "length" if result.truncated else "tool_calls" if result.finish_reason == "tool_calls" else "stop"


def chat_logprobs(token_ids: Sequence[int], logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Of some tokens, of a chat completion or a chunk of one."""
    pairs = zip(token_ids, logprobs, strict=False)
    return {"content": [_chat_logprob(*pair) for pair in pairs], "refusal": None}


def _name(token_id: int) -> str:
    return f"token_id:{token_id}"


def _chat_logprob(token_id: int, of_it: TokenLogprob) -> dict[str, Any]:
    top = [{"token": _name(other), "logprob": logprob, "bytes": None} for other, logprob in of_it.top]
    return {"token": _name(token_id), "logprob": of_it.logprob, "bytes": None, "top_logprobs": top}


def completion_logprobs(token_ids: Sequence[int], logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Of some tokens, of a completion or a chunk of one."""
    return {
        "tokens": [_name(token_id) for token_id in token_ids],
        "token_logprobs": [each.logprob for each in logprobs],
        "top_logprobs": [{_name(other): logprob for other, logprob in each.top} for each in logprobs],
        "text_offset": None,
    }
