"""The rows of an input: CSV, JSON lines, or lines of text, one after the other.

What cannot be read as a row is a bad one, and the next begins on the next line: nothing is lost silently.
"""

import codecs
import csv
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic_core import from_json

from app.predict.faults import WrongUse, listed
from app.predict.source import MAX_ROW, Source

InputFormat = Literal["csv", "tsv", "jsonl", "lines"]
SUFFIXES: Final[dict[str, InputFormat]] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "lines",
}
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_BOM: Final = "\ufeff"


@dataclass(slots=True)
class Row:
    """A row: its number and the number of its first line, both from 1, and what it holds, by column."""

    number: int
    line: int
    cells: dict[str, Any]


@dataclass(slots=True)
class BadRow:
    """A row that has no prediction: why, and what it holds, or its text if it cannot be read."""

    number: int
    line: int
    error: str
    content: dict[str, Any] | str


class _Unreadable(Exception):
    """A line that is no text, or too long."""


class Rows(ABC):
    """Reads rows lazily: after each, the source stands behind its last line."""

    columns: list[str] | None
    """The names of the columns, None if each row has its own."""

    def __init__(self, source: Source, encoding: str) -> None:
        self._source = source
        self._encoding = encoding
        self._read: list[bytes] = []
        """The lines of the row that is being read."""
        self._begin_offset = 0

    @abstractmethod
    def __iter__(self) -> Iterator[Row | BadRow]: ...

    def _line(self) -> str:
        """Return the next line, empty at the end.

        Raises:
            _Unreadable: it is too long, or not in the encoding.
        """
        line = self._source.readline()
        self._read.append(line)
        if self._source.offset - self._begin_offset > MAX_ROW:
            raise _Unreadable(f"is longer than {MAX_ROW} bytes; shorten it")
        try:
            text = line.decode(self._encoding)
        except UnicodeDecodeError as error:
            raise _Unreadable(f"is not {self._encoding}; say what it is with --encoding, or mend it") from error
        return text.removeprefix(_BOM) if self._source.lines == 1 else text

    def _begin(self) -> int:
        """Begin to read a row, and return the number of its first line."""
        self._read.clear()
        self._begin_offset = self._source.offset
        return self._source.lines + 1

    def _row(self, line: int, cells: dict[str, Any]) -> Row:
        self._source.rows += 1
        return Row(self._source.rows, line, cells)

    def _bad(self, line: int, error: str) -> BadRow:
        self._source.rows += 1
        text = b"".join(self._read).decode(self._encoding, "backslashreplace")
        return BadRow(self._source.rows, line, error, text.rstrip("\r\n"))


class CsvRows(Rows):
    """CSV as RFC 4180 has it, with a header: a quoted cell may hold line breaks. Empty lines are no rows."""

    def __init__(self, source: Source, encoding: str, delimiter: str) -> None:
        """Read the header.

        Raises:
            WrongUse: there is none, or it is not one.
        """
        super().__init__(source, encoding)
        csv.field_size_limit(MAX_ROW)
        self._reader = csv.reader(_Lines(self), delimiter=delimiter, strict=True)
        header: list[str] | None = []
        while header == []:
            self._begin()
            try:
                header = next(self._reader, None)
            except (_Unreadable, csv.Error) as error:
                raise WrongUse(f"The header of {source.name} {_explained(error)}.") from error
        if header is None:
            raise WrongUse(f"{source.name} is empty: it needs a header with the names of its columns.")
        if repeated := [name for name, times in Counter(header).items() if times > 1]:
            raise WrongUse(f"The header of {source.name} has {listed(repeated)} more than once.")
        self.columns = header

    def __iter__(self) -> Iterator[Row | BadRow]:
        assert self.columns is not None
        while True:
            line = self._begin()
            try:
                cells = next(self._reader, None)
            except _Unreadable as error:
                yield self._bad(line, f"{error}: is a quote not closed?" if len(self._read) > 1 else str(error))
                continue
            except csv.Error as error:
                yield self._bad(line, _explained(error))
                continue
            if cells is None:
                return
            if len(cells) == len(self.columns):
                yield self._row(line, dict(zip(self.columns, cells, strict=True)))
            elif cells:
                yield self._bad(line, f"has {len(cells)} for the {len(self.columns)} cells of the header")


def _explained(error: _Unreadable | csv.Error) -> str:
    """Return what is wrong with a row or a header."""
    if isinstance(error, _Unreadable):
        return str(error)
    if str(error).startswith("new-line character"):
        return "has a carriage return alone, without quotes; put it in quotes, or end lines with LF or CRLF"
    return f"is not CSV: {error}"


class _Lines:
    """The lines of some rows. No generator: that would be over after the first line that cannot be read."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._rows._line()  # noqa: SLF001
        if not line:
            raise StopIteration
        return line


class LineRows(Rows):
    """A row is a line."""

    def __iter__(self) -> Iterator[Row | BadRow]:
        while True:
            line = self._begin()
            try:
                text = self._line()
            except _Unreadable as error:
                yield self._bad(line, str(error))
                continue
            if not text:
                return
            row = self._row_of(line, text)
            if row is not None:
                yield row

    @abstractmethod
    def _row_of(self, line: int, text: str) -> Row | BadRow | None:
        """Return the row of a line, None if it is none."""


class JsonRows(LineRows):
    """JSON lines: an object on each. Empty lines are no rows."""

    columns = None

    def _row_of(self, line: int, text: str) -> Row | BadRow | None:
        if not text.strip():
            return None
        try:
            cells = from_json(text, allow_inf_nan=False)
        except ValueError as error:
            return self._bad(line, f"is not JSON: {str(error).replace(' line 1 ', ' ')}")
        if isinstance(cells, dict):
            return self._row(line, cells)
        return self._bad(line, 'is no JSON object, as in {"text": "..."}')


class TextRows(LineRows):
    """Lines of text: each is a row with one column, also an empty one."""

    columns = ["text"]  # noqa: RUF012 - never changed

    def _row_of(self, line: int, text: str) -> Row:
        return self._row(line, {"text": text.rstrip("\r\n")})


def read_rows(source: Source, form: InputFormat, encoding: str, delimiter: str | None) -> Rows:
    """Return the rows of a source.

    Raises:
        WrongUse: it has not the form, or there is no such encoding or delimiter.
    """
    try:
        encoding = codecs.lookup(encoding).name.removesuffix("-sig")  # a byte order mark is no text, with any name
        has_lines = b"\n".decode(encoding, "backslashreplace") == "\n" and "\n".encode(encoding) == b"\n"
    except (LookupError, ValueError):  # also those that are not of text, or for names of hosts
        raise WrongUse(f"--encoding: there is no {encoding} for texts.") from None
    if not has_lines or source.begins_with(_UTF16):
        raise WrongUse(
            f"{source.name}: UTF-16 and its like are not read; convert it, as with iconv -f UTF-16 -t UTF-8."
        )
    if delimiter is not None and (form not in ("csv", "tsv") or len(delimiter) != 1 or delimiter in '"\r\n'):
        raise WrongUse("--delimiter is one character, for CSV.")
    if form == "jsonl":
        return JsonRows(source, encoding)
    if form == "lines":
        return TextRows(source, encoding)
    return CsvRows(source, encoding, delimiter or ("\t" if form == "tsv" else ","))
