"""Stop strings on streamed text, against an implementation that looks at every character."""

import pytest
from hypothesis import given, strategies as st

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
