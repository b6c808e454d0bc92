"""Thins out matrices: of a test's combinations of parameters, a few that hold each pair of values at least once.

Most faults need no more than two parameters at certain values, and the whole product costs many times as much.
Knows pytest's parameters; knows nothing of what they mean. Source: D. R. Kuhn, D. R. Wallace, A. M. Gallo,
Software Fault Interactions and Implications for Software Testing, IEEE TSE 30(6), 2004.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import pytest
from covertable import make


def mark_beyond_pairs(items: Iterable[pytest.Item], marker: str) -> None:
    """Mark each item whose pairs of parameters are all covered by items that bear no mark.

    Only tests of three parameters and more, of which every combination was collected, are looked at: with two, a
    pair is the whole combination.
    """
    tests: dict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            tests[item.nodeid.partition("[")[0]].append(item)
    for functions in tests.values():
        places = axes([function.callspec.params for function in functions])
        for number in beyond_pairs(places):
            functions[number].add_marker(marker)


def axes(params: Sequence[dict[str, object]]) -> list[tuple[int, ...]]:
    """The place of each item on every axis, by the identity of its values. Names that go together are one axis."""
    columns: dict[tuple[int, ...], None] = {}
    for name in params[0]:
        places: dict[int, int] = {}
        columns[tuple(places.setdefault(id(item[name]), len(places)) for item in params)] = None
    return list(zip(*columns, strict=True))


def beyond_pairs(places: Sequence[tuple[int, ...]]) -> list[int]:
    """The positions of the combinations that a covering design of strength two can do without."""
    factors = [sorted(set(axis)) for axis in zip(*places, strict=True)]
    factors_that_vary = sum(len(factor) > 1 for factor in factors)
    if factors_that_vary < 3 or len(set(places)) != len(places) or len(places) != math.prod(map(len, factors)):
        return []
    design = {tuple(row) for row in make(factors, strength=2)}
    return [number for number, place in enumerate(places) if place not in design]
