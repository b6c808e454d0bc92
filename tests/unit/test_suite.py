"""The suite itself: collecting it reads no clock, and thinning it out loses no pair."""

import ast
import itertools
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.order import PLACES, longest_first
from tests.pairwise import axes, beyond_pairs

TESTS = Path(__file__).parents[1]
CLOCKS = {
    "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time", "now",
    "utcnow", "today", "uuid1", "uuid4", "urandom", "token_hex", "randbelow",
}  # fmt: skip
"""Functions that answer something else at each call, by whatever name their module goes."""

parsed = cache(ast.parse)


def run_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """Whatever runs as a file is imported: not the inside of functions, but their decorators and defaults."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            outside = [*getattr(child, "decorator_list", []), *child.args.defaults, *child.args.kw_defaults]
            for part in filter(None, outside):
                yield part
                yield from run_on_import(part)
        else:
            yield child
            yield from run_on_import(child)


def clocks_read(source: str) -> list[int]:
    """The lines of a file that read a clock, or draw at random, when it is imported."""
    calls = (node.func for node in run_on_import(parsed(source)) if isinstance(node, ast.Call))
    names = ((call.lineno, getattr(call, "attr", getattr(call, "id", ""))) for call in calls)
    return [line for line, name in names if name in CLOCKS]


def test_no_clock_is_read_when_tests_are_collected() -> None:
    """A deadline that was computed there had passed when a slow run came to its test."""
    read = {str(file.relative_to(TESTS)): clocks_read(file.read_text()) for file in TESTS.rglob("*.py")}
    assert {file: lines for file, lines in read.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "AT = time.time() + 5",
        "class A:\n    at = monotonic()",
        "def late(at=datetime.now()): ...",
        "@pytest.mark.parametrize('at', [time.time() + 1, 'soon'])\ndef test(at): ...",
        "late = lambda at=time.time(): at",
    ],
)
def test_a_clock_that_is_read_there_is_found(source: str) -> None:
    assert clocks_read(source)


@pytest.mark.parametrize("source", ["def now():\n    return time.time()", "later = lambda: time.time() + 5"])
def test_a_clock_that_is_read_in_a_test_is_none_of_these(source: str) -> None:
    assert not clocks_read(source)


def test_the_longest_files_are_begun_first_and_the_others_in_their_order(request: pytest.FixtureRequest) -> None:
    assert [str(path) for path in PLACES if not path.is_file()] == []
    *_, late = longest = list(PLACES)
    others = [TESTS / "unit" / name for name in ("test_suite.py", "test_imports.py")]
    items = [
        pytest.Module.from_parent(request.session, path=path)
        for path in (others[0], late, *others[::-1], *longest)
    ]
    longest_first(items)
    assert [item.path for item in items] == [*longest[:-1], late, late, others[0], *others[::-1]]


def bound(module: Path) -> set[str]:
    """The names that a module's top level gives, those of the files beside it included where it is a package."""
    names = {path.stem for path in module.parent.iterdir()} if module.name == "__init__.py" else set()
    for node in ast.walk(parsed(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def imported(file: Path) -> Iterator[tuple[Path, str]]:
    """Module and name of whatever a file imports of this repository."""
    for node in ast.walk(parsed(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            folder = file.parents[node.level - 1] if node.level else TESTS.parent
            place = folder.joinpath(*(node.module or "").split("."))
            module = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
            if module.is_file():
                yield from ((module, alias.name) for alias in node.names)


def test_what_is_imported_is_there() -> None:
    """Of programs, too, which no test runs: `make captures`, say, and the benchmarks."""
    known: dict[Path, set[str]] = {}
    missing = [
        f"{file.relative_to(TESTS)}: {name} of {module.relative_to(TESTS.parent)}"
        for file in TESTS.rglob("*.py")
        if not file.name.startswith("test_")  # pytest imports these
        for module, name in imported(file)
        if name not in known.setdefault(module, bound(module))
    ]
    assert missing == []


def pairs(places: list[tuple[int, ...]]) -> set[tuple[tuple[int, int], ...]]:
    return {pair for place in places for pair in itertools.combinations(enumerate(place), 2)}


@pytest.mark.parametrize("sizes", [(6, 3, 2, 4), (5, 8, 4), (2, 2, 2), (6, 1, 2, 3)])
def test_every_pair_of_a_matrix_is_tested(sizes: tuple[int, ...]) -> None:
    places = list(itertools.product(*map(range, sizes)))
    left_out = set(beyond_pairs(places))
    kept = [place for number, place in enumerate(places) if number not in left_out]
    assert left_out
    assert pairs(kept) == pairs(places)


@pytest.mark.parametrize(
    "places", [list(itertools.product(range(4), range(5))), [(0, 0, 0), (0, 1, 1), (1, 0, 1)], [(0,), (1,)]]
)
def test_what_is_no_whole_matrix_of_three_is_left_as_it_is(places: list[tuple[int, ...]]) -> None:
    assert beyond_pairs(places) == []


def test_parameters_that_go_together_are_one_axis() -> None:
    kinds, fields = ["a", "b"], [{}, {"seed": 1}]
    params = [{"kind": kind, "name": kind, "fields": field} for kind in kinds for field in fields]
    assert axes(params) == [(0, 0), (0, 1), (1, 0), (1, 1)]
