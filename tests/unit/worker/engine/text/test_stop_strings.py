"""Stop strings on streamed text, against an implementation that looks at every character."""

import pytest
from hypothesis import example, given, settings, strategies as st

from worker.engine.text.stop_strings import StopStrings


def push_all(stops: list[str], pieces: list[str]) -> tuple[list[str], str | None]:
    stop_strings = StopStrings(stops)
    shown = [stop_strings.push(piece) for piece in pieces]
    return [*shown, stop_strings.flush()], stop_strings.matched


def reference(stops: list[str], text: str) -> tuple[str, str | None]:
    """The first prefix of the text that ends in a stop string; of several, the longest."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


SHORT_TEXT = st.text("ab你", min_size=1, max_size=4)


@given(stops=st.lists(SHORT_TEXT, max_size=3), pieces=st.lists(st.text("ab你c", max_size=4), max_size=12))
def test_outcome_does_not_depend_on_how_the_text_is_cut(stops, pieces):
    shown, matched = push_all(stops, pieces)
    assert ("".join(shown), matched) == reference(stops, "".join(pieces))


@given(stops=st.lists(SHORT_TEXT, min_size=1, max_size=3), pieces=st.lists(SHORT_TEXT, max_size=12))
def test_held_back_is_what_could_still_become_a_match_and_no_more(stops, pieces):
    stop_strings = StopStrings(stops)
    taken = shown = ""
    for piece in pieces:
        taken += piece
        shown += stop_strings.push(piece)
        if stop_strings.matched is not None:
            return
        held = taken.removeprefix(shown)
        could_match = [taken[i:] for i in range(len(taken)) if any(stop.startswith(taken[i:]) for stop in stops)]
        assert held == max(could_match, key=len, default="")


@pytest.mark.parametrize(
    ("stops", "pieces", "shown", "matched"),
    [
        (["\n\n"], ["a\n", "b\n", "\nc"], ["a", "\nb", "", ""], "\n\n"),
        (["STOP"], ["ST", "OX", " go"], ["", "STOX", " go", ""], None),
        (["abc"], ["xab"], ["x", "ab"], None),
        (["b", "abc"], ["abc"], ["a", ""], "b"),
        (["bc", "abc"], ["abc"], ["", ""], "abc"),
        (["a"], ["xa", "b", "c"], ["x", "", "", ""], "a"),
        ([], ["a", "b"], ["a", "b", ""], None),
    ],
)
def test_examples(stops, pieces, shown, matched):
    assert push_all(stops, pieces) == (shown, matched)


STOPS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=2)
PIECES = st.lists(st.tuples(st.text("ab", max_size=3), st.booleans(), st.booleans()), max_size=8)
"""Each with whether it is hidden, and whether a match may end in it."""


def looked_at(stops: list[str], pieces: list[tuple[str, bool, bool]]) -> tuple[str, str | None]:
    """Character by character: a match that counts ends the text, with what is hidden or without."""
    whole, shown = "", ""
    places: list[int] = []
    for text, hidden, counts in pieces:
        for character in text:
            whole += character
            if not hidden:
                shown += character
                places.append(len(whole) - 1)
            if not counts:
                continue
            begun = [(len(whole) - len(stop), stop) for stop in stops if whole.endswith(stop)]
            if not hidden:
                begun += [(places[len(shown) - len(stop)], stop) for stop in stops if shown.endswith(stop)]
            if begun:
                start, stop = min(begun)
                return "".join(shown[n] for n, place in enumerate(places) if place < start), stop
    return shown, None


@given(stops=STOPS, pieces=PIECES)
@example(stops=["aba"], pieces=[("a", False, True), ("b", True, True), ("b", False, True), ("a", False, True)])
@example(stops=["abb"], pieces=[("a", False, True), ("aa", True, True), ("b", False, True), ("b", False, True)])
@example(stops=["ab"], pieces=[("a", False, False), ("b", False, True)])
@settings(max_examples=300)
def test_hidden_text_and_text_that_does_not_count(stops, pieces):
    stop_strings = StopStrings(stops)
    text = "".join(stop_strings.push(text, hidden=hidden, counts=counts) for text, hidden, counts in pieces)
    assert (text + stop_strings.flush(), stop_strings.matched) == looked_at(stops, pieces)


@given(stops=STOPS, pieces=PIECES, more=st.text("ab", min_size=1, max_size=3))
def test_what_would_match_does(stops, pieces, more):
    stop_strings = StopStrings(stops)
    for text, hidden, counts in pieces:
        stop_strings.push(text, hidden=hidden, counts=counts)
    if stop_strings.matched is None and stop_strings.would_match(more):
        stop_strings.push(more)
        assert stop_strings.matched is not None
