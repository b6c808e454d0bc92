"""The documents say what is so: settings and their defaults, error codes, commands, files, links."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from producer import ProducerSettings
from producer.broker.advice import _ADVICE
from producer.cli import cli as producer_cli
from producer.contract import errors
from tests.documents import ROOT, Document
from worker.cli import cli as worker_cli
from worker.settings import WorkerSettings

DOCUMENTS = (
    "README.md", "producer/README.md", "producer/contract/README.md", "producer/ledger/README.md",
    "worker/README.md", "configs/README.md", "tests/README.md", "tests/benchmarks/README.md",
    "tests/cuda/README.md", ".github/CONTRIBUTING.md", ".github/SECURITY.md",
)  # fmt: skip
CONFIGS, PRODUCER, WORKER = (Document(f"{folder}/README.md") for folder in ("configs", "producer", "worker"))
UNITS = {"GiB": 2**30, "MiB": 2**20, "days": 86_400}


def documented(side: str) -> dict[str, str]:
    """Each option of the table that begins with `side`, and its default as it stands there."""
    options: dict[str, str] = {}
    for names, defaults, _ in CONFIGS.rows(f"A {side}'s options"):
        keys = re.findall(r"`([^`]+)`", names)
        values = defaults.split(", ") if len(keys) > 1 else [defaults]
        options |= zip(keys, (value.strip("`") for value in values), strict=True)
    return options


def fields_of(settings: type[BaseModel]) -> dict[str, FieldInfo]:
    """By their names in the table: the engine's options as `engine.path`."""
    fields: dict[str, FieldInfo] = {}
    for name, field in settings.model_fields.items():
        if isinstance(field.default, BaseModel):
            fields |= {f"{name}.{inner}": what for inner, what in fields_of(type(field.default)).items()}
        else:
            fields[name] = field
    return fields


def number(text: str) -> float | None:
    """Of `3600`, `0.05` or `16 MiB`; None for words."""
    figure, _, unit = text.partition(" ")
    if not re.fullmatch(r"[0-9.]+", figure) or unit not in {"", *UNITS}:
        return None
    return float(figure) * UNITS.get(unit, 1)


def is_default(field: FieldInfo, text: str) -> bool:
    if field.is_required():
        return text == "required"
    if field.default is None:
        return number(text) is None  # what then happens, in words
    if isinstance(field.default, int | float) and not isinstance(field.default, bool):
        return number(text) == field.default
    return text == {(): "none", True: "true", False: "false"}.get(field.default, field.default)


@pytest.mark.parametrize(("side", "settings"), [("worker", WorkerSettings), ("producer", ProducerSettings)])
def test_the_tables_name_every_setting_with_its_default(side: str, settings: type[BaseModel]) -> None:
    options, fields = documented(side), fields_of(settings)
    assert options.keys() == fields.keys()
    assert {name: text for name, text in options.items() if not is_default(fields[name], text)} == {}


@pytest.mark.parametrize("folder", ["worker", "producer"])
def test_a_folders_map_names_each_of_its_modules_and_no_other(folder: str) -> None:
    text = (ROOT / folder / "README.md").read_text()
    there = {path.name for path in (ROOT / folder).glob("*.py")} - {"__init__.py", "__main__.py"}
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", text))
    assert there - named == set()
    # What readers write themselves.
    elsewhere = {"app.py", "before.py", "producer.py", "test_mine.py", "worker.py"}
    missing = {name for name in named if not any((ROOT / base / name).exists() for base in (folder, ""))}
    assert missing - elsewhere == set()


def test_the_first_page_is_short() -> None:
    assert len(Document("README.md").text.splitlines()) < 240


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_within_the_project_lead_somewhere(name: str) -> None:
    document = Document(name)
    wrong = []
    for link, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", document.text):
        target = document.path.parent / link if link else document.path
        if not target.exists() or (anchor and anchor not in Document(str(target.relative_to(ROOT))).anchors):
            wrong.append(f"{link}#{anchor}")
    assert wrong == []


def codes() -> set[str]:
    """Of every error that a job can end with or a producer raise."""
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    known = {cls.code for cls in classes if issubclass(cls, errors.GenqueueError) and "code" in vars(cls)}
    return known - {errors.GenqueueError.code}


def test_every_error_code_has_its_cure() -> None:
    rows = [*PRODUCER.rows("How a job fails"), *PRODUCER.rows("What a producer raises")]
    assert {code.strip("`") for code, _, _ in rows} == codes()
    assert all(cure for _, _, cure in rows)


def pieces(messages: list[list[str]]) -> list[str]:
    """What stands in the first column of a table of messages, between the parts that differ each time."""
    return [
        piece for [message, *_] in messages for piece in map(str.strip, re.split(r"…|;|\(.*?\)|NAME", message))
        if len(piece) > 6
    ]  # fmt: skip


def raised(path: Path, error: str) -> Iterator[str]:
    """The messages of that error in a module, without what is put into them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == error and node.args:
            strings = [part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)]
            yield "".join(part for part in strings if isinstance(part, str))


def test_whatever_stops_a_start_has_its_cure() -> None:
    known = pieces(WORKER.rows("What stops a start"))
    messages = [text for path in (ROOT / "worker").rglob("*.py") for text in raised(path, "ConfigError")]
    assert len(messages) > 20
    spoken = [text for text in messages if len(re.findall(r"\w+", text)) > 2]
    assert [text for text in spoken if not any(piece in text for piece in known)] == []


def test_whatever_is_said_of_redis_has_its_cure() -> None:
    known = pieces(PRODUCER.rows("What is said of Redis"))
    said = [advice for _, _, advice in _ADVICE]
    assert [advice for advice in said if not any(advice.startswith(piece) for piece in known)] == []


def shown(program: str, module: str) -> list[tuple[str, list[str]]]:
    """Each command of that program in the documents: its document, and its words."""
    found = []
    for name in DOCUMENTS:
        document = Document(name)
        for line in [*document.commands(), *re.findall(r"`([^`\n]+)`", document.text)]:
            match = re.match(rf"(?:{program}|python -m {module}) (\S.*)", line)
            found += [(name, match[1].split())] if match else []
    return found


def is_known(cli: click.Group, words: list[str]) -> bool:
    """Whether there is such a command with such options."""
    command = cli if words[0].startswith("-") else cli.commands.get(words[0])
    if command is None:
        return False
    # With the names that it has in its program: a command keeps those that it was asked with first.
    context = click.Context(command, help_option_names=["-h", "--help"])
    known = {name for option in command.get_params(context) for name in (*option.opts, *option.secondary_opts)}
    return {word.partition("=")[0] for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize(
    ("program", "cli"), [(("genqueue", "producer"), producer_cli), (("genqueue-worker", "worker"), worker_cli)]
)
def test_commands_of_the_documents_exist(program: tuple[str, str], cli: click.Group) -> None:
    commands = shown(*program)
    assert len(commands) > 4
    assert [(name, " ".join(words)) for name, words in commands if not is_known(cli, words)] == []


def test_make_targets_of_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name in DOCUMENTS:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", Document(name).text, re.MULTILINE))
        assert named - targets == set(), name
