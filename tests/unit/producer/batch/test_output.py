"""The output file: what a later run reads from it, what is cut off, and what is left alone."""

import io
import json
import resource
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from producer.batch.answers import Answer, own_line
from producer.batch.identity import Identity, JobName, job_id
from producer.batch.openai_answers import openai_line
from producer.batch.openai_rows import CHAT
from producer.batch.outbox import Outbox
from producer.batch.output import OutputFile, encode
from producer.batch.progress import Tally, _Left, clock, display, short
from producer.batch.rows import Row
from producer.contract import GenerationResult, GenqueueError

Captured = pytest.CaptureFixture[str]
BATCH = Identity({}).batch


def row(line: int, endpoint: str | None = None) -> Row:
    return Row(line, job_id(name(line)), None, "why", "a" if endpoint else None, endpoint)


def name(line: int) -> JobName:
    return JobName(BATCH, line, f"{line:016x}")


def answer(line: int, endpoint: str | None = None, *, failed: bool = False) -> Answer:
    if failed:
        return Answer(row(line, endpoint), code="invalid_request", reason="why")
    result = GenerationResult(
        job_id=job_id(name(line)), status="finished", model="tiny", text="你好\n\u2028", finish_reason="stop"
    )
    return Answer(row(line, endpoint), result)


def line_of(answer: Answer) -> dict[str, Any]:
    return own_line(answer) if answer.row.endpoint is None else openai_line(answer)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


ANSWERS = [answer(2), answer(1, CHAT), answer(5, failed=True), answer(7, CHAT, failed=True)]


def test_a_later_run_knows_what_is_done_and_what_of_it_failed(path: Path) -> None:
    with OutputFile(path, BATCH) as output:
        assert output.done.rows == 0
        for each in ANSWERS:
            output.write(line_of(each))
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]] == [
        *map(line_of, ANSWERS)
    ]
    with OutputFile(path, BATCH) as output:
        assert (output.done.rows, output.done.failed) == (4, 2)
        assert [line for line in range(1, 9) if output.done.has(name(line))] == [1, 2, 5, 7]


@pytest.mark.parametrize("last", ANSWERS)
def test_a_torn_last_line_is_cut_off_wherever_it_was_torn(path: Path, last: Answer) -> None:
    fields = line_of(last)
    whole, line = encode(line_of(answer(3))), encode(fields)
    for cut in (*range(0, len(line), 7), len(line) - 1):
        path.write_bytes(whole + line[:cut])
        with OutputFile(path, BATCH) as output:
            assert output.done.rows == 1
            assert path.read_bytes() == whole
            output.write(fields)
        assert path.read_bytes() == whole + line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"my notes", "its last line"),
        (b"my notes\n", "line 1"),
        (b'{"line": 1}\n', "line 1"),
        (b'{"job_id": "batch-1"}\n', "line 1"),
        (b"[1]\n", "line 1"),
        (encode(line_of(answer(1))) + b"my notes", "its last line"),
    ],
)
def test_another_file_is_left_as_it_is(path: Path, content: bytes, said: str) -> None:
    path.write_bytes(content)
    with pytest.raises(GenqueueError, match=f"is no output of genqueue batch, {said} says"):
        OutputFile(path, BATCH)
    assert path.read_bytes() == content


def test_answers_to_other_options_are_not_mixed_with_these(path: Path) -> None:
    path.write_bytes(encode(line_of(answer(1))))
    with pytest.raises(GenqueueError, match="answers to other options"):
        OutputFile(path, Identity({"seed": 1}).batch)


def test_a_row_that_is_there_twice_is_named(path: Path) -> None:
    path.write_bytes(encode(line_of(answer(1))) * 2)
    with pytest.raises(GenqueueError, match="line 2: line 1 of the input is answered there a second time"):
        OutputFile(path, BATCH)


def test_two_runs_do_not_write_to_one_file(path: Path) -> None:
    with OutputFile(path, BATCH), pytest.raises(GenqueueError, match="another genqueue batch writes to"):
        OutputFile(path, BATCH)
    OutputFile(path, BATCH).__exit__()


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(GenqueueError, match="cannot be written: No such file"):
        OutputFile(tmp_path / "none" / "out.jsonl", BATCH)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_said() -> None:
    with OutputFile(Path("/dev/full"), BATCH) as output, pytest.raises(GenqueueError, match="No space left"):
        output.write(line_of(answer(1)))


def test_nothing_is_written_behind_a_line_that_is_torn(path: Path) -> None:
    """Where there is room again a moment later, say: nobody could go on from such a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with OutputFile(path, BATCH) as output:
        output.write(line_of(answer(1)))
        size = path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 9, before[1]))
        try:
            with pytest.raises(GenqueueError, match="File too large"):
                output.write(line_of(answer(2)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        with pytest.raises(GenqueueError, match="File too large"):
            output.write(line_of(answer(3)))
    assert path.stat().st_size == size + 9
    with OutputFile(path, BATCH) as output:
        assert (output.done.rows, path.stat().st_size) == (1, size)


@pytest.mark.parametrize(("in_order", "written"), [(True, [[], [], [1, 2, 3]]), (False, [[3], [3, 2], [3, 2, 1]])])
def test_answers_leave_in_order_or_as_they_come(in_order: bool, written: list[list[int]]) -> None:
    left: list[int] = []
    outbox = Outbox(lambda each: left.append(each.row.line), in_order=in_order)
    places = [outbox.announce() for _ in range(3)]
    for line, place, expected in zip((3, 2, 1), reversed(places), written, strict=True):
        outbox.put(place, answer(line))
        assert left == expected
        assert outbox.open_rows == 3 - len(expected)


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = Tally(10, 2, 1)
    with display(tally) as shown:
        tally.count(answer(3))
        shown.update()
        assert capsys.readouterr().err == ""
        monkeypatch.setattr("producer.batch.progress.LOG_EVERY_S", 0.0)
        shown._next = 0.0  # type: ignore[attr-defined]
        shown.update()
        shown.say("[red]\x1b[2J")
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("3 of 10 rows, 1 failed, 0 tokens, ")
    assert said[0].endswith(" left")
    assert said[1] == "[red]\ufffd[2J"


def test_where_no_row_was_left_no_speed_is_shown() -> None:
    tally = Tally(3, 3, 1)
    assert tally.summary() == "3 rows, 3 of them before: 1 failed"
    console = Console(width=80, force_terminal=True, file=io.StringIO())
    with Progress(_Left(), console=console) as progress:
        progress.add_task("", total=tally.total, completed=tally.before)
    assert "done," in console.file.getvalue()  # type: ignore[attr-defined]


def test_numbers_stay_short() -> None:
    assert [short(number) for number in (0, 99_999, 123_456, 12_345_678, 9_876_543_210)] == [
        *("0", "99,999", "123k", "12.3M", "9.88G"),
    ]
    assert [clock(seconds) for seconds in (0.4, 61, 3_725)] == ["0:00:00", "0:01:01", "1:02:05"]


def test_an_output_can_be_read_a_line_at_a_time() -> None:
    """U+2028 and others that Python calls line breaks stay within their line of the file."""
    assert len(list(io.BytesIO(encode(line_of(answer(1)))))) == 1
