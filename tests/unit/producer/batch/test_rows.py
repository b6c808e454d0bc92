"""From a line of the input to a request: JSON and tables; a row that is none, with its line."""

import io
import json
from functools import partial

import pytest

from producer.batch.done import Done
from producer.batch.identity import Identity, read_job_id
from producer.batch.reading import Records, json_lines, table_rows
from producer.batch.rows import Row, RowParser
from producer.batch.tables import Template
from producer.contract import GenerationRequest, GenqueueError, InvalidRequest


def rows_of(
    text: str | bytes,
    records: Records = json_lines,
    *,
    template: str | None = None,
    chat: bool = False,
    **sampling,
) -> list[Row]:
    raw = text.encode() if isinstance(text, str) else text
    parser = RowParser(sampling, chat=chat, template=None if template is None else Template(template))
    rows = parser.rows(records(io.BytesIO(raw)), Identity({}), Done())
    return [row for row in rows if row is not None]


def test_rows_are_requests_or_texts_and_blank_lines_are_none() -> None:
    rows = rows_of('\ufeff"你好"\r\n\n{"prompt": "Hi", "seed": 7, "custom_id": "a"}\n', max_new_tokens=9)
    assert [(row.line, row.custom_id) for row in rows] == [(1, None), (3, "a")]
    assert rows[0].request == GenerationRequest(prompt="你好", max_new_tokens=9)
    assert rows[1].request == GenerationRequest(prompt="Hi", seed=7, max_new_tokens=9)


def test_a_row_goes_before_the_option_and_chat_makes_a_message_of_a_text() -> None:
    [row] = rows_of('{"prompt": "Hi", "max_new_tokens": 3}', max_new_tokens=9)
    assert row.request == GenerationRequest(prompt="Hi", max_new_tokens=3)
    [row] = rows_of('"Hi"', chat=True)
    assert row.request == GenerationRequest.parse({"messages": [{"role": "user", "content": "Hi"}]})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "it is not JSON"),
        (b'"\xff"', "it is not UTF-8 text"),
        (b"What is genqueue?", "--input-format txt: one a line"),
        (b"[1]", "a row is a JSON object or a string"),
        (b"[" * 100_000, "it is not JSON"),
        (b'{"prompt": 3}', "prompt"),
        (b'""', "prompt"),
        (b'{"prompt": "Hi", "max_tokens": 3}', "it is called max_new_tokens"),
        (b'{"prompt": "Hi", "priority": "high"}', "priority: it is no field of a row"),
        (b'{"prompt": "Hi", "custom_id": 3}', "custom_id must be a text"),
        (b'{"prompt": "\\ud800"}', "lone surrogate"),
        (b'{"prompt": "Hi", "temperature": NaN}', "NaN is no value of JSON"),
        (b'{"prompt": "Hi", "custom_id": "\\ud800"}', "lone surrogate"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_the_next_is_read(line: bytes, said: str) -> None:
    bad, good = rows_of(line + b'\n"Hi"\n')
    assert (bad.line, bad.request) == (1, None)
    assert said in bad.fault
    assert (good.line, good.fault) == (2, "")


def test_a_line_beyond_the_bound_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.batch.reading.MAX_LINE_BYTES", 20)
    bad, good = rows_of(json.dumps("long " * 20) + '\n"Hi"\n')
    assert "longer than 20 bytes" in bad.fault
    assert (good.line, good.request) == (2, GenerationRequest(prompt="Hi"))


def test_a_table_fills_its_template() -> None:
    table = '\ufefftext,who\r\n"one\ntwo, three",you\r\n\r\nfour,"a ""friend"""\r\n'
    rows = rows_of(table, table_rows, template="{{{who}}}: {text}")
    assert [row.line for row in rows] == [2, 5]
    assert [row.request.prompt for row in rows if row.request] == ["{you}: one\ntwo, three", '{a "friend"}: four']


def test_a_table_of_tabs() -> None:
    [row] = rows_of("prompt\tx\nHi, you\t1\n", partial(table_rows, delimiter="\t"), template="{prompt}")
    assert row.request == GenerationRequest(prompt="Hi, you")


@pytest.mark.parametrize(
    ("row", "said"),
    [("a", "it has 1 cells, and the header 2"), ("a,b,c", "it has 3 cells"), (b"\xff,b", "it is not UTF-8 text")],
)
def test_a_bad_row_of_a_table(row: str | bytes, said: str) -> None:
    raw = row.encode() if isinstance(row, str) else row
    bad, good = rows_of(b"prompt,x\n" + raw + b"\nHi,1\n", table_rows, template="{prompt}")
    assert said in bad.fault
    assert good.request == GenerationRequest(prompt="Hi")


def test_a_quote_that_is_never_closed_makes_no_prompt_of_the_rest() -> None:
    first, bad = rows_of('text\nHi\n"two\nthree\nfour\n', table_rows, template="{text}")
    assert first.request == GenerationRequest(prompt="Hi")
    assert (bad.line, bad.request) == (3, None)
    assert "a quote that is never closed" in bad.fault
    [row] = rows_of('text\n"two\nthree"', table_rows, template="{text}")
    assert row.request == GenerationRequest(prompt="two\nthree")


@pytest.mark.parametrize("template", ["{", "{}", "{text!r}", "{text:>9}", "{0}", "{other}", "{text.upper}"])
def test_a_template_that_does_not_fit_is_refused_before_any_row(template: str) -> None:
    with pytest.raises(InvalidRequest, match=r"--template"):
        rows_of("text\nHi\n", table_rows, template=template)


def test_a_column_that_is_there_twice_is_none_to_make_a_prompt_of() -> None:
    with pytest.raises(InvalidRequest, match="the column 'a' twice"):
        rows_of("a,b,a\n1,2,3\n", table_rows, template="{a}")
    [row] = rows_of("a,b,a\n1,2,3\n", table_rows, template="{b}")
    assert row.request == GenerationRequest(prompt="2")


def ids_of(text: str, records: Records = json_lines, options: dict | None = None, **kwargs) -> list[str]:
    template = Template(kwargs["template"]) if kwargs else None
    parser = RowParser({}, chat=False, template=template)
    return [
        row.job_id
        for row in parser.rows(records(io.BytesIO(text.encode())), Identity(options or {}), Done())
        if row
    ]


def test_a_job_id_says_content_place_and_options_and_nothing_else() -> None:
    first = ids_of('"a"\n"a"\n')
    assert len(set(first)) == 2  # the same text in two places
    assert ids_of('"a"\n"a"\n') == first
    assert ids_of('"a"\r\n"a"') == first
    assert set(ids_of('"b"\n"a"\n')) & set(first) == {first[1]}
    assert not set(ids_of('"a"\n"a"\n', options={"seed": 1})) & set(first)


def test_another_header_makes_other_jobs() -> None:
    first = ids_of("a,b\n1,2\n", table_rows, template="{a}")
    assert ids_of("b,a\n1,2\n", table_rows, template="{a}") != first


def test_what_is_done_is_passed_over_and_what_was_changed_since_is_refused() -> None:
    identity, done = Identity({}), Done()
    records = list(json_lines(io.BytesIO(b'"a"\n"b"\n"c"\n')))
    done.add(identity.name(records[1]), failed=False)
    parser = RowParser({}, chat=False, template=None)
    assert [row and row.line for row in parser.rows(records, identity, done)] == [1, None, 3]
    changed = json_lines(io.BytesIO(b'"a"\n"other"\n'))
    with pytest.raises(GenqueueError, match="line 2 of the input is not what it was"):
        list(parser.rows(changed, identity, done))
    with pytest.raises(GenqueueError, match="line 2 of the input is not there any more"):
        list(parser.rows(records[:1], identity, done))


def test_done_takes_four_bytes_a_line() -> None:
    done, identity = Done(), Identity({})
    record = next(json_lines(io.BytesIO(b'"a"')))
    name = identity.name(record)
    done.add(name._replace(line=100_000), failed=True)
    assert done._checks.itemsize * len(done._checks) == 4 * 100_001
    assert (done.rows, done.failed) == (1, 1)
    with pytest.raises(GenqueueError, match="a second time"):
        done.add(name._replace(line=100_000), failed=False)
    with pytest.raises(GenqueueError, match="line 99999999999"):
        done.add(name._replace(line=99_999_999_999), failed=False)


@pytest.mark.parametrize("text", [None, "", "batch-1-2-3", "x" * 40, 7])
def test_other_ids_are_no_rows(text: object) -> None:
    assert read_job_id(text) is None
