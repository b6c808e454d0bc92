"""`submit`: enqueue a prompt or a chat, and follow it if that is wanted."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..client import Producer
from ..contract import InvalidRequest
from ..handles import JobHandle
from .follow import follow_stream, producer_for, wait_for_result
from .options import (
    connection_options,
    group_option,
    interrupt_option,
    json_option,
    lifetime_options,
    model_name_option,
    sampling_options,
    wait_option,
    with_options,
)
from .output import EXIT_INTERRUPTED, say, show
from .structure import structure_options, take_structure

prompt_options = with_options(
    click.option("--chat", is_flag=True, help="Send PROMPT as a user's message, for the model's chat template."),
    click.option(
        "--message",
        "message",
        multiple=True,
        metavar="ROLE:TEXT",
        help="A turn of a chat, as 'system:Be brief.' Repeatable; with --chat, before PROMPT.",
    ),
    click.option(
        "--messages-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help='A chat as JSON: [{"role": ..., "content": ...}, ...]',
    ),
    click.option(
        "--tools",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Functions that the model may call, as JSON in OpenAI's form; with a chat. [default: none]",
    ),
    click.option(
        "--tool-choice",
        metavar="auto|none|required|NAME",
        help="Whether it calls one of them, or which. [default: auto, the model decides]",
    ),
    click.option(
        "--chat-template-kwargs",
        metavar="JSON",
        help="Variables for the chat template, as '{\"enable_thinking\": false}'.",
    ),
    click.option("--prompt-token-ids", metavar="ID,ID,...", help="A prompt that is tokenized already."),
    click.option(
        "--output-token-ids",
        metavar="ID,ID,...",
        help="Output of an earlier job, to be gone on with. `continue` takes it, and all else, from that job.",
    ),
)
follow_options = with_options(
    click.option("--stream", "mode", flag_value="stream", help="Print the tokens as they come."),
    click.option("--wait", "mode", flag_value="wait", help="Print the text once the job has ended."),
    json_option,
    wait_option,
    interrupt_option,
)
queue_options = with_options(
    click.option("--job-id", help="An idempotency key: submitted twice, it is one job. [default: a new one]"),
    click.option(
        "--priority",
        type=click.Choice(["high", "normal", "low"]),
        default="normal",
        show_default=True,
        help="Of this job among those of its model.",
    ),
    group_option,
    lifetime_options,
    click.option("--max-queued", type=int, help="Refuse when so many jobs wait for the model."),
)


@click.command()
@click.argument("prompt", nargs=-1, metavar="[PROMPT]")
@model_name_option
@follow_options
@prompt_options
@sampling_options
@structure_options
@click.option("-n", "n", type=int, metavar="N", help="So many answers: N jobs at once, with seeds apart.")
@queue_options
@connection_options
def submit(
    *,
    prompt: tuple[str, ...],
    model_name: str | None,
    mode: str | None,
    n: int | None,
    as_json: bool,
    wait_s: float | None,
    on_interrupt: str | None,
    redis_url: str | None,
    prefix: str | None,
    **options: Any,
) -> int:
    """Enqueue PROMPT, and print the job's id.

    A - as PROMPT reads it from stdin, without its last line break.

    PROMPT goes to the model as it stands; with --chat, through the model's chat template, as instruct models want
    it.
    """
    if model_name is None:
        raise click.UsageError("Missing option '--model-name': the model to ask, as in --model-name tiny.")
    fields = _request_fields(_one_prompt(prompt), options)
    with producer_for(redis_url, prefix, wait_s) as producer:
        one = [producer.submit(model=model_name, **fields)] if n is None else None
        jobs = one or producer.submit(model=model_name, n=n or 0, **fields)
        for job in jobs:
            if not job.created:
                say(f"job {job.job_id} exists already: nothing was enqueued")
        code = 0
        for job in jobs:
            code = max(code, see_through(producer, job, mode, as_json=as_json, on_interrupt=on_interrupt))
            if code == EXIT_INTERRUPTED:
                break
        return code


def see_through(
    producer: Producer, job: JobHandle, mode: str | None, *, as_json: bool, on_interrupt: str | None
) -> int:
    """Print the job's id, or follow it. mode: stream, wait or None.  Returns the exit code."""
    if mode is None:
        handle = {"job_id": job.job_id, "model": job.model, "created": job.created}
        show((json.dumps(handle) if as_json else job.job_id) + "\n")
        return 0
    say(f"job {job.job_id}")
    if mode == "stream":
        return follow_stream(producer, job.job_id, None, as_json=as_json, on_interrupt=on_interrupt)
    return wait_for_result(producer, job.job_id, as_json=as_json, on_interrupt=on_interrupt)


def _one_prompt(words: tuple[str, ...]) -> str | None:
    if len(words) > 1:
        raise click.UsageError('the prompt is one argument: put it into quotes, as in submit "How are you?"')
    return words[0] if words else None


def _request_fields(prompt: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of Producer.submit from the command's options. What was not given is left out."""
    messages = _messages(options.pop("message"), options.pop("messages_file"))
    token_ids = _token_ids(options.pop("prompt_token_ids"), "--prompt-token-ids")
    output_ids = _token_ids(options.pop("output_token_ids"), "--output-token-ids")
    tools, kwargs = options.pop("tools"), options.pop("chat_template_kwargs")
    allowed_ids = _token_ids(options.pop("allowed_token_ids"), "--allowed-token-ids")
    prompt = _read_stdin() if prompt == "-" else prompt
    if options.pop("chat"):
        if token_ids:
            raise InvalidRequest("--chat sends PROMPT as a message, which is text: leave out --prompt-token-ids")
        if prompt is None:
            raise InvalidRequest(
                "--chat sends PROMPT as a user's message, and there is none: add it, or leave out --chat"
            )
        prompt, messages = None, [*(messages or []), {"role": "user", "content": prompt}]
    elif messages and prompt is not None:
        raise InvalidRequest(
            "give exactly one of prompt, messages and prompt_token_ids; --chat makes PROMPT the last message"
        )
    structure = take_structure(options)
    fields = {
        "prompt": prompt,
        "messages": messages,
        "prompt_token_ids": token_ids,
        "output_token_ids": output_ids,
        "tools": None if tools is None else _list_in(tools, "tools"),
        "tool_choice": _tool_choice(options.pop("tool_choice")),
        "chat_template_kwargs": None if kwargs is None else _object(kwargs, "--chat-template-kwargs"),
        "allowed_token_ids": allowed_ids,
    }
    return {
        name: value
        for name, value in {**options, **structure, **fields}.items()
        if value is not None and value != ()
    }


def _read_stdin() -> str:
    if sys.stdin is None:
        raise InvalidRequest("the prompt is to come from stdin, which is closed: give it as an argument")
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise InvalidRequest("the prompt on stdin is not UTF-8 text") from None


def _messages(turns: Sequence[str], path: Path | None) -> list[Any] | None:
    if turns and path:
        raise InvalidRequest("give --message or --messages-file, not both")
    if path:
        return _list_in(path, '{"role": ..., "content": ...}')
    faulty = [turn for turn in turns if ":" not in turn]
    if faulty:
        raise InvalidRequest("--message has the form ROLE:TEXT, as in --message 'user:Hello'")
    return [{"role": role, "content": text} for role, _, text in (turn.partition(":") for turn in turns)] or None


def _list_in(path: Path, what: str) -> list[Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(found, list):
        raise InvalidRequest(f"{path} must hold a list of {what}")
    return found


def _object(text: str, option: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{option} cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidRequest(f'{option} takes an object, as {{"enable_thinking": false}}')
    return found


def _tool_choice(text: str | None) -> Any:
    """A word of the contract's, or the name of a function."""
    if text is None or text in {"none", "auto", "required"}:
        return text
    return {"type": "function", "function": {"name": text}}


def _token_ids(text: str | None, option: str) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidRequest(f"{option} takes numbers with commas between them, as 1,2,3") from None
