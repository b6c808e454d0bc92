"""Two workers on one card know of each other, for as long as both live."""

import logging
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.engine_process.card import FOLDER, Neighbour, Place
from worker.engine_process.private_folder import private_folder

CARD = "0123-4567"
TIMEOUT_S = 100

HOLDER = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from worker.engine_process.card import Neighbour, Place
place = Place(sys.argv[2], Neighbour(1, 2, "theirs"))
print(len(place.neighbours), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def take() -> Iterator:
    """Take places, which are left at the end of the test."""
    places = []

    def take(number: int, card: str = CARD) -> Place:
        places.append(Place(card, engine(number)))
        return places[-1]

    yield take
    for place in places:
        place.leave()


def engine(number: int) -> Neighbour:
    return Neighbour(100 + number, 200 + number, f"model-{number}")


def test_alone_on_a_card(take):
    assert take(1).neighbours == []
    assert take(2, card="another").neighbours == []


def test_each_sees_those_before_it(take):
    assert [take(number).neighbours for number in range(4)] == [
        [engine(before) for before in range(number)] for number in range(4)
    ]


def test_whoever_has_left_is_not_seen_and_the_others_are(take):
    first, _, third = take(1), take(2), take(3)
    first.leave()
    assert take(4).neighbours == [engine(2), engine(3)], "and has the first place, before theirs"
    third.leave()
    third.leave()  # harmless
    assert take(5).neighbours == [engine(4), engine(2)]


def test_of_one_that_is_killed_nothing_stays(take, temporary):
    command = [sys.executable, "-c", HOLDER, str(temporary), CARD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "0\n"
        seen = take(1)
        assert seen.neighbours == [Neighbour(1, 2, "theirs")]
        holder.send_signal(signal.SIGKILL)
        holder.wait(TIMEOUT_S)
        assert take(2).neighbours == [engine(1)]


@pytest.mark.parametrize("written", ["", "[1]", "{}", '["x", 2, "m"]'])
def test_one_that_has_not_written_who_it_is_is_seen_all_the_same(take, written):
    take(1)
    (private_folder(FOLDER) / f"{CARD}.0").write_text(written)
    [neighbour] = take(2).neighbours
    assert str(neighbour) == "a worker that is just starting"


def test_a_neighbour_in_words():
    assert str(engine(1)) == "the worker of 'model-1' (process 101, its engine 201)"


def test_without_a_place_to_write_it_goes_on_alone(monkeypatch, caplog, take):
    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with caplog.at_level(logging.WARNING):
        assert take(1).neighbours == []
    assert "other workers on this card cannot be seen" in caplog.text
