"""Rows of CSV, JSON lines and lines of text: each is read once, whatever it holds, and reading goes on after any of them."""

import csv
import gzip
import io
from itertools import islice
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from app.predict import rows as module
from app.predict.faults import CannotRead, WrongUse
from app.predict.rows import BadRow, InputFormat, Row, Rows, read_rows
from app.predict.source import Source


def read(content: bytes, form: InputFormat = "csv", **options: Any) -> list[Row | BadRow]:
    return list(opened(content, form, **options)[1])


def opened(
    content: bytes, form: InputFormat, encoding: str = "utf-8", delimiter: str | None = None
) -> tuple[Source, Rows]:
    source = Source(io.BufferedReader(io.BytesIO(content)), "input")
    return source, read_rows(source, form, encoding, delimiter)


def cells(content: bytes, form: InputFormat = "csv", **options: Any) -> list[dict[str, Any]]:
    found = read(content, form, **options)
    assert all(isinstance(row, Row) for row in found), found
    return [row.cells for row in found if isinstance(row, Row)]


def test_a_quoted_cell_may_hold_line_breaks_quotes_and_delimiters() -> None:
    content = b'id,text\r\n1,"two\r\nlines, ""quoted"""\r\n2,plain\r\n'
    assert read(content) == [
        Row(1, 2, {"id": "1", "text": 'two\r\nlines, "quoted"'}),
        Row(2, 4, {"id": "2", "text": "plain"}),
    ]


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (b"\xef\xbb\xbftext\nh\xc3\xa9\n", {}),
        (b"\xef\xbb\xbftext\nh\xc3\xa9\n", {"encoding": "utf-8-sig"}),
        (b"text\nh\xe9\n", {"encoding": "latin-1"}),
        (b"text\nh\xc3\xa9", {}),
        (b"\n\ntext\n\nh\xc3\xa9\n\n", {}),
    ],
)
def test_byte_order_marks_encodings_and_empty_lines_make_no_difference(content: bytes, options: Any) -> None:
    assert cells(content, **options) == [{"text": "hé"}]


def test_other_delimiters_are_read() -> None:
    assert cells(b"a;text\n1;x,y\n", delimiter=";") == [{"a": "1", "text": "x,y"}]
    assert cells(b"a\ttext\n1\tx,y\n", "tsv") == [{"a": "1", "text": "x,y"}]


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (b"1,a,b", "has 3 for the 2 cells of the header"),
        (b"1", "has 1 for the 2 cells of the header"),
        (b'1,"x"y', "is not CSV: ',' expected after '\"'"),
        (b"1,\xff", "is not utf-8; say what it is with --encoding, or mend it"),
        (b"1,a\r5,b", "has a carriage return alone, without quotes; put it in quotes, or end lines with LF or CRLF"),
    ],
)
def test_a_row_that_is_no_csv_is_bad_and_the_next_is_read(row: bytes, error: str) -> None:
    bad, good = read(b"id,text\n" + row + b"\n2,good\n")
    assert bad == BadRow(1, 2, error, row.decode("utf-8", "backslashreplace"))
    assert good == Row(2, 3, {"id": "2", "text": "good"})


def test_a_quote_that_is_not_closed_takes_no_more_than_up_to_the_next_quote() -> None:
    bad, good = read(b'id,text\n1,"open\n2,x\n3,"quoted"\n4,good\n')
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.content) == (2, '1,"open\n2,x\n3,"quoted"')
    assert good == Row(2, 5, {"id": "4", "text": "good"})
    [last] = read(b'text\n"open\n')
    assert isinstance(last, BadRow)
    assert last.error == "is not CSV: unexpected end of data"


@pytest.mark.parametrize("form", ["csv", "jsonl", "lines"])
def test_a_line_that_is_too_long_is_bad_and_skipped(form: InputFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROW", 100)
    monkeypatch.setattr("app.predict.source.MAX_ROW", 100)
    good = {"csv": b"good", "jsonl": b'{"text": "good"}', "lines": b"good"}[form]
    header = b"text\n" if form == "csv" else b""
    bad, row = read(header + b"x" * 10_000_000 + b"\n" + good + b"\n", form)
    assert isinstance(bad, BadRow)
    assert "is longer than 100 bytes" in bad.error
    assert len(bad.content) <= 101
    assert isinstance(row, Row)
    assert row.cells == {"text": "good"}


def test_a_csv_row_of_many_lines_ends_at_the_longest_that_a_row_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROW", 100)
    bad, *_ = read(b'text\n"open\n' + b"line\n" * 1000)
    assert isinstance(bad, BadRow)
    assert bad.error.endswith("is a quote not closed?")
    assert len(bad.content) <= 110


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "input is empty: it needs a header with the names of its columns."),
        (b"a,b,a\n", "The header of input has 'a' more than once."),
        (b"a,b\r1,2\r", "The header of input has a carriage return alone, without quotes"),
        (b"a\xff\n", "The header of input is not utf-8; say what it is with --encoding, or mend it."),
        ("text\n".encode("utf-16"), "input: UTF-16 and its like are not read"),
    ],
)
def test_a_csv_without_a_header_is_refused(content: bytes, error: str) -> None:
    with pytest.raises(WrongUse) as refused:
        read(content)
    assert error in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        {"delimiter": "ab"},
        {"delimiter": "\n"},
        *({"encoding": name} for name in ("utf-99", "utf-16", "rot13", "idna", "undefined", "unicode_escape", "cp037")),
    ],
)
def test_delimiters_and_encodings_that_cannot_be_are_refused(options: Any) -> None:
    with pytest.raises(WrongUse):
        read(b"text\na\n", **options)
    with pytest.raises(WrongUse):
        read(b"a\n", "lines", delimiter=",")


def test_json_lines_are_objects_with_any_values() -> None:
    content = b'{"text": "a", "n": [1, null]}\n\n[1]\n{"text"\n"text"\n{"text": "b"}'
    first, array, cut, text, last = read(content, "jsonl")
    assert first == Row(1, 1, {"text": "a", "n": [1, None]})
    assert isinstance(array, BadRow)
    assert (array.line, array.content, array.error) == (3, "[1]", 'is no JSON object, as in {"text": "..."}')
    assert isinstance(cut, BadRow)
    assert cut.error.startswith("is not JSON: ")
    assert isinstance(text, BadRow)
    assert last == Row(5, 6, {"text": "b"})


def test_each_line_of_text_is_a_row_also_an_empty_one() -> None:
    assert cells(b'a\r\n\nb, "c"', "lines") == [{"text": "a"}, {"text": ""}, {"text": 'b, "c"'}]


tables = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6), max_size=8)


@given(tables, st.sampled_from(["\r\n", "\n"]), st.data())
def test_reading_goes_on_from_behind_any_row(texts: list[str], end: str, data: st.DataObject) -> None:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([["id", "text"], *enumerate(texts)])
    content = written.getvalue().encode()
    source, rows = opened(content, "csv")
    some = data.draw(st.integers(0, len(texts)))
    first = list(islice(rows, some))
    position = source.position()
    again, rest = opened(content, "csv")
    assert again.skip_to(position)
    together = [*first, *rest]
    assert [row.cells["text"] for row in together if isinstance(row, Row)] == texts
    assert [row.number for row in together] == list(range(1, len(texts) + 1))


def test_an_input_that_was_another_is_seen(tmp_path: Path) -> None:
    source, rows = opened(b"text\na\nb\n", "csv")
    next(iter(rows))
    position = source.position()
    for other, is_same in ((b"text\na\nc\n", True), (b"text\na\n", True), (b"text\nA\nb\n", False), (b"text", False)):
        assert opened(other, "csv")[0].skip_to(position) == is_same


def test_compressed_files_are_read_and_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv.gz"
    whole = gzip.compress(b"text\n" + b"".join(b"row %d\n" % i for i in range(1000)))
    path.write_bytes(whole)
    with Source.open(path) as source:
        assert len(list(read_rows(source, "csv", "utf-8", None))) == 1000
        assert source.size == source.done_bytes == len(whole)
    path.write_bytes(whole[:-100])
    with (
        Source.open(path) as source,
        pytest.raises(CannotRead, match=r"reviews\.csv\.gz: its compressed data is damaged"),
    ):
        list(read_rows(source, "csv", "utf-8", None))


def test_what_is_compressed_is_known_by_its_first_bytes_not_by_its_name() -> None:
    assert cells(gzip.compress(b"a\n") + gzip.compress(b"b\n"), "lines") == [{"text": "a"}, {"text": "b"}]


def test_a_row_of_very_many_lines_and_a_header_of_very_many_columns_take_no_longer_than_others() -> None:
    # Each of these took minutes when it was quadratic.
    [row] = cells(b'text\n"' + b"\n" * 1_000_000 + b'"\n')
    assert len(row["text"]) == 1_000_000
    many = b",".join(b"%d" % i for i in range(100_000)) + b"\n"
    assert [len(row) for row in cells(many * 2)] == [100_000]


def test_empty_lines_before_a_header_are_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROW", 100)
    assert cells(b"\n" * 1000 + b"text\na\n") == [{"text": "a"}]
