"""README's tables of settings name what there is, with the defaults that the code has; maps name every file."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from producer import ProducerSettings
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
FOLDERS = ("producer", "producer/contract", "producer/ledger", "worker", "tests/benchmarks")
UNITS = {"GiB": 2**30, "MiB": 2**20, "days": 86_400}


def documented(side: str) -> dict[str, str]:
    """Each option of the table that begins with `side`, and its default as it stands there."""
    table = README.partition(f"\n| {side} | default | |\n|---|---|---|\n")[2].partition("\n\n")[0]
    options: dict[str, str] = {}
    for row in table.splitlines():
        names, defaults, _ = row.strip("| ").split(" | ")
        keys = re.findall(r"`([^`]+)`", names)
        values = defaults.split(", ") if len(keys) > 1 else [defaults]
        options |= zip(keys, (value.strip("`") for value in values), strict=True)
    return options


def fields_of(settings: type[BaseModel]) -> dict[str, FieldInfo]:
    """By their names in README: the engine's options as `engine.path`."""
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
    assert {name for name in named if not any((ROOT / base / name).exists() for base in (folder, ""))} == set()


@pytest.mark.parametrize("name", ["README.md", *(f"{folder}/README.md" for folder in FOLDERS)])
def test_links_within_the_project_lead_somewhere(name: str) -> None:
    readme = ROOT / name
    links = re.findall(r"\]\(([^)#:]+)\)", readme.read_text())
    assert [link for link in links if not (readme.parent / link).exists()] == []
