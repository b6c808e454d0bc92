"""The input as a file: one that cannot be read, or not to its end, and one that is the output."""

import io
import sys
from pathlib import Path

import pytest

from producer.batch.reading import value_of
from producer.batch.source import Source
from producer.cli import run
from producer.contract import InvalidRequest


class Broken(io.RawIOBase):
    """As of a file system that goes away."""

    def readinto(self, _: object) -> int:
        raise OSError(5, "Input/output error")

    def readable(self) -> bool:
        return True


def test_a_line_of_a_text_file_is_a_text() -> None:
    """A person's first file of prompts: each of its rows failed, as it was not JSON."""
    file = io.BytesIO(b'\xef\xbb\xbfWhat is "it"?\r\n\n  42\n\xff\n' + "你好".encode())
    records = list(Source.of("in.txt", None, None).records(file))
    assert [record.line for record in records] == [1, 3, 4, 5]
    assert [record.fault for record in records] == ["", "", "it is not UTF-8 text", ""]
    assert [value_of(record) for record in records if not record.fault] == ['What is "it"?', "42", "你好"]


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv", "in.txt"])
def test_a_file_that_cannot_be_read_on_is_named(name: str) -> None:
    source = Source.of(name, None, None)
    with pytest.raises(InvalidRequest, match=f"{name} cannot be read: Input/output error"):
        list(source.records(io.BufferedReader(Broken())))  # type: ignore[arg-type]


def test_a_stdin_that_the_shell_has_closed_is_no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_file(*_: object, **__: object) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr("builtins.open", no_file)
    with pytest.raises(InvalidRequest, match="- cannot be read: Bad file"), Source.of("-", None, None).open():
        pass


def test_the_output_is_not_read_as_the_input_through_stdin_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('"Hi"\n')
    with path.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert run(["batch", "-", str(path), "--model-name", "tiny", "--redis-url", "redis://127.0.0.1:1/0"]) == 2
    assert "is the input: give another output" in capsys.readouterr().err.replace("\n", " ")
    assert path.read_text() == '"Hi"\n'
