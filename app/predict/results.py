"""The predictions as lines of the output: JSON lines, or CSV."""

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, Literal

from pydantic_core import to_json

from app.predict.columns import PREDICTION, Columns
from app.predict.faults import listed
from app.predict.prediction import Outcome, Predicted
from app.predict.rows import BadRow

OutputFormat = Literal["jsonl", "csv", "tsv"]
SUFFIXES: Final[dict[str, OutputFormat]] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}


def added_columns(form: OutputFormat, best: Sequence[str]) -> list[str]:
    """Return the columns that a prediction is written into; `best` are the keys of an input's best prediction."""
    return [PREDICTION] if form == "jsonl" or not best else [f"{PREDICTION}_{key}" for key in best]


class Results(ABC):
    """Writes what became of rows. Takes long: call it in a thread."""

    header: list[str] | None = None
    """The columns that are kept, of a table whose header is known."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def write(self, outcomes: Sequence[Outcome]) -> tuple[bytes, bytes, int]:
        """Return the lines of the output, those of the bad rows, and the number of these."""
        lines: list[Any] = []
        bad: list[BadRow] = []
        for outcome in outcomes:
            result = outcome if isinstance(outcome, BadRow) else self._line(outcome)
            (bad if isinstance(result, BadRow) else lines).append(result)
        return self._joined(lines), b"".join(map(_bad_line, bad)), len(bad)

    @abstractmethod
    def _line(self, one: Predicted) -> Any: ...  # noqa: ANN401 - what `_joined` takes, or a BadRow

    @abstractmethod
    def _joined(self, lines: Sequence[Any]) -> bytes: ...


class JsonResults(Results):
    """On each line an object: what is kept of the row, and `prediction`, as `predictions` of an answer has it."""

    def _line(self, one: Predicted) -> bytes | BadRow:
        kept = self._columns.kept(one.row.cells)
        if PREDICTION in kept:
            return BadRow(one.row.number, one.row.line, _taken(PREDICTION), one.row.cells)
        return to_json({**kept, PREDICTION: one.prediction}) + b"\n"

    def _joined(self, lines: Sequence[bytes]) -> bytes:
        return b"".join(lines)


class TableResults(Results):
    """CSV with a header: what is kept of the row, and the best prediction in a column for each of its keys.

    A prediction that has no best one is JSON in the column `prediction`. So is a kept cell that is no text or number.
    """

    def __init__(
        self,
        columns: Columns,
        best: Sequence[str],
        delimiter: str,
        header: list[str] | None = None,
        *,
        is_begun: bool = False,
    ) -> None:
        """Begin a table, or go on with it.

        Args:
            columns: What is kept of a row.
            best: The keys of the best prediction.
            delimiter: Between cells.
            header: The columns that are kept; None if the first row tells.
            is_begun: Whether the header has been written.
        """
        super().__init__(columns)
        self._best = best
        self._added = added_columns("csv", best)
        self._delimiter = delimiter
        self.header = header
        self._is_begun = is_begun

    def _line(self, one: Predicted) -> list[Any] | BadRow:
        kept = self._columns.kept(one.row.cells)
        if self.header is None:
            taken = [name for name in kept if name in self._added]
            if taken:
                return BadRow(one.row.number, one.row.line, _taken(taken[0]), one.row.cells)
            self.header = list(kept)
        if list(kept) != self.header:
            known = set(self.header)
            if other := [name for name in kept if name not in known]:
                error = f"has {listed(other)}, which the first row has not; name the columns to copy with --keep"
                return BadRow(one.row.number, one.row.line, error, one.row.cells)
            kept = {name: kept.get(name) for name in self.header}
        return [*map(_cell, kept.values()), *self._parts(one.prediction)]

    def _parts(self, prediction: Any) -> list[Any]:  # noqa: ANN401 - JSON
        if not self._best:
            return [_cell(prediction)]
        best = prediction if isinstance(prediction, dict) else next(iter(prediction), {})
        return [_cell(best.get(key)) for key in self._best]

    def _joined(self, lines: Sequence[list[Any]]) -> bytes:
        if not self._is_begun and self.header is not None:
            lines = [[*self.header, *self._added], *lines]
            self._is_begun = True
        written = self._written(lines, csv.QUOTE_MINIMAL)
        if "\r" in written:
            # That left a carriage return unquoted, which readers take for the end of the line.
            return b"".join(
                self._written([line], csv.QUOTE_ALL if _has_return(line) else csv.QUOTE_MINIMAL).encode()
                for line in lines
            )
        return written.encode()

    def _written(self, lines: Sequence[list[Any]], quoting: Literal[0, 1]) -> str:
        text = io.StringIO()
        csv.writer(text, delimiter=self._delimiter, lineterminator="\n", quoting=quoting).writerows(lines)
        return text.getvalue()


def _has_return(line: list[Any]) -> bool:
    return any(isinstance(cell, str) and "\r" in cell for cell in line)


def _cell(value: Any) -> object:  # noqa: ANN401 - JSON
    if type(value) in (str, float, int):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _taken(column: str) -> str:
    return f"has {column} itself; name what to copy with --keep, without it"


def _bad_line(row: BadRow) -> bytes:
    return to_json({"row": row.number, "line": row.line, "error": row.error, "content": row.content}) + b"\n"
