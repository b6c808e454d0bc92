"""The command line's options: their help, and what is said of one that there is not."""

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from fakeredis import FakeRedis, FakeServer

from producer import client as producer_client
from producer.cli import OF_THE_WORKER, cli, run
from producer.commands.options import chosen_model
from producer.contract import GenerationRequest, InvalidRequest
from producer.contract.version import VERSION
from tests.submitted import request_of

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def redis_client(client: FakeRedis, fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> FakeRedis:
    monkeypatch.setattr(producer_client, "connect", lambda *_, **__: FakeRedis(server=fake_server))
    return client


def _options() -> Iterator[tuple[str, click.Option]]:
    for name, command in cli.commands.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                yield name, parameter


def test_every_command_and_every_option_has_its_help() -> None:
    assert [name for name, command in cli.commands.items() if not command.help] == []
    assert [(name, option.opts) for name, option in _options() if not option.help] == []


@pytest.mark.parametrize("name", list(cli.commands))
def test_no_line_of_the_help_is_wider_than_a_terminal(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run([name, "--help"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []


def test_the_commands_stand_in_the_order_in_which_they_are_met(capsys: Captured) -> None:
    assert run(["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in listed if line[2:3].isalpha()] == list(cli.commands)
    assert next(iter(cli.commands)) == "up"


def test_version(capsys: Captured) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"genqueue {VERSION}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model-name", "tiny", "up"], "'--model-name': it stands behind the command"),
        (["--frobnicate"], "No such option '--frobnicate'."),
        (["submit", "Hi"], "Missing option '--model-name': the model to ask, as in --model-name tiny"),
    ],
)
def test_an_option_in_the_wrong_place_or_in_none(capsys: Captured, arguments: list[str], said: str) -> None:
    assert run(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--max_tokens", "it is called --max-new-tokens"),
        ("--max_new_tokens", "--max-new-tokens"),
        ("--model", "it is called --model-name"),
        ("--num-beams", "there is no beam search here"),
        ("--stop-strings", "it is called stop"),
        ("--system", "messages"),
    ],
)
def test_an_option_that_there_is_not_is_told_what_there_is(capsys: Captured, option: str, said: str) -> None:
    assert run(["submit", "Hi", "--model-name", "tiny", option, "3"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


@pytest.mark.parametrize(("typed", "meant"), [("sumbit", "submit"), ("brokre", "broker"), ("doctro", "doctor")])
def test_a_command_of_another_name_is_told_ours(capsys: Captured, typed: str, meant: str) -> None:
    assert run([typed]) == 2
    assert meant in capsys.readouterr().err


@pytest.mark.parametrize("name", OF_THE_WORKER)
def test_a_command_of_the_worker_is_told_so(capsys: Captured, name: str) -> None:
    assert run([name, "--model-name", "tiny"]) == 2
    assert f"genqueue-worker {name}" in capsys.readouterr().err


def test_several_words_are_asked_to_be_quoted(capsys: Captured) -> None:
    assert run(["submit", "How", "are", "you?", "--model-name", "tiny"]) == 2
    assert "put it into quotes" in capsys.readouterr().err


# -- a chat


def test_chat_sends_the_prompt_as_a_users_message(capsys: Captured, redis_client: FakeRedis) -> None:
    assert run(["submit", "--chat", "Hi", "--model-name", "tiny", "--message", "system:Be brief."]) == 0
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert request_of(redis_client, capsys.readouterr().out.strip()) == GenerationRequest.parse(
        {"messages": turns}
    )


def test_chat_goes_on_with_a_file(capsys: Captured, redis_client: FakeRedis, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(turns))
    assert run(["submit", "--chat", "Go on", "--model-name", "tiny", "--messages-file", str(path)]) == 0
    messages = request_of(redis_client, capsys.readouterr().out.strip()).messages
    assert messages is not None
    assert [turn.content for turn in messages] == ["Hi", "Yes?", "Go on"]


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [(None, None), ("required", "required"), ("f", {"type": "function", "function": {"name": "f"}})],
)
def test_tools_come_from_a_file(
    capsys: Captured, redis_client: FakeRedis, tmp_path: Path, choice: str | None, chosen: object
) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    path = tmp_path / "tools.json"
    path.write_text(json.dumps(tools))
    options = ["--tools", str(path), *(["--tool-choice", choice] if choice else [])]
    kwargs = ["--chat-template-kwargs", '{"enable_thinking": false}']
    assert run(["submit", "--chat", "Hi", "--model-name", "tiny", *options, *kwargs]) == 0
    wire = request_of(redis_client, capsys.readouterr().out.strip()).to_wire()
    assert (wire["tools"], wire.get("tool_choice")) == (tools, chosen)
    assert wire["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tools", "{}"], "must hold a list of tools"),
        (["--tools", "["], "cannot be read as JSON"),
        (["--tools", "[" * 5_000], "cannot be read as JSON"),
        (["--chat-template-kwargs", "[" * 5_000], "--chat-template-kwargs cannot be read as JSON"),
        (["--tools", "[]"], "tools: "),
        (["--tool-choice", "f"], "tool_choice says what becomes of tools, of which there are none"),
        (["--chat-template-kwargs", "[]"], "--chat-template-kwargs takes an object"),
        (["--chat-template-kwargs", "{"], "--chat-template-kwargs cannot be read as JSON"),
    ],
)
def test_tools_that_are_none_are_exit_code_2(
    capsys: Captured, redis_client: FakeRedis, tmp_path: Path, options: list[str], said: str
) -> None:
    if options[0] == "--tools":
        (tmp_path / "tools.json").write_text(options[1])
        options = ["--tools", str(tmp_path / "tools.json")]
    assert run(["submit", "--chat", "Hi", "--model-name", "tiny", *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--chat"], "there is none"),
        (["--chat", "--message", "user:Hi"], "there is none"),
        (["Hi", "--chat", "--prompt-token-ids", "1,2"], "leave out --prompt-token-ids"),
        (["Hi", "--message", "user:Hi"], "--chat makes PROMPT the last message"),
    ],
)
def test_a_chat_that_is_put_together_wrongly(
    capsys: Captured, redis_client: FakeRedis, arguments: list[str], said: str
) -> None:
    assert run(["submit", "--model-name", "tiny", *arguments]) == 2
    assert said in capsys.readouterr().err


# -- which model


@pytest.mark.parametrize(
    ("name", "folder", "environment", "chosen"),
    [
        (None, None, {}, ("tiny", None)),
        ("mine", None, {}, ("mine", None)),
        (None, "models/Qwen2-7B", {}, ("Qwen2-7B", "models/Qwen2-7B")),
        ("mine", "models/Qwen2-7B", {}, ("mine", "models/Qwen2-7B")),
        (None, None, {"GENQUEUE_MODEL_NAME": "env"}, ("env", None)),
        (None, None, {"GENQUEUE_MODEL_PATH": "a/b"}, ("b", "a/b")),
        ("mine", None, {"GENQUEUE_MODEL_PATH": "a/b"}, ("mine", None)),
        (None, "a/b", {"GENQUEUE_MODEL_NAME": "env"}, ("b", "a/b")),
    ],
)
def test_name_and_folder_are_one_choice(
    monkeypatch: pytest.MonkeyPatch,
    name: str | None,
    folder: str | None,
    environment: dict[str, str],
    chosen: tuple[str, str | None],
) -> None:
    for variable in ("GENQUEUE_MODEL_NAME", "GENQUEUE_MODEL_PATH"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    found, path = chosen_model(name, Path(folder) if folder else None)
    assert (found, None if path is None else str(path)) == chosen


def test_a_folder_whose_name_can_be_none_asks_for_one() -> None:
    with pytest.raises(InvalidRequest, match="give --model-name"):
        chosen_model(None, Path("/models/Qwen 2"))
