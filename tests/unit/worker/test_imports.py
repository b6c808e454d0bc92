"""No two files of the project import each other, not even for types: what both need stands in a third."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("worker", "producer")
    for path in (ROOT / package).rglob("*.py")
}


def imported(name: str) -> Iterator[str]:
    """The project's modules that a module names in any import of its own, wherever it stands."""
    path = FILES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            submodules = [f"{module}.{alias.name}" for alias in node.names]
            yield from (module, *submodules)


def test_no_two_files_import_each_other():
    imports = {name: {other for other in imported(name) if other in FILES} for name in FILES}
    assert "worker.engine.generation" in imports["worker.engine.engine"], "this test sees imports"
    mutual = {
        tuple(sorted((name, other)))
        for name, others in imports.items()
        for other in others - {name}
        if name in imports[other] and "__init__.py" not in (FILES[name].name, FILES[other].name)
    }
    assert mutual == set()
