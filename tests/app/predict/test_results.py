"""Predictions as lines of a table: readers of CSV get what was kept."""

import csv
import io
import json
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from app.predict.columns import Columns
from app.predict.prediction import Predicted
from app.predict.results import TableResults
from app.predict.rows import Row
from app.tasks import TASKS

KEPT_ALL = Columns(TASKS["classify"], ["text"], None)
PREDICTION = [{"label": "GOOD", "score": 0.1 + 0.2}, {"label": "BAD", "score": 0.7}]

texts = st.text(st.sampled_from("a1,;\t\r\n\"' \ufeff\u2028é"), max_size=6)
values = texts | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


def written(rows: list[dict[str, Any]], delimiter: str = ",") -> list[list[str]]:
    """Return the cells that a reader gets of rows that are written in two pieces."""
    results = TableResults(KEPT_ALL, ("label", "score"), delimiter)
    outcomes = [Predicted(Row(i, i, cells), PREDICTION) for i, cells in enumerate(rows)]
    pieces = [results.write(outcomes[:2]), results.write(outcomes[2:])]
    assert [bad for _, _, bad in pieces] == [0, 0]
    text = b"".join(lines for lines, _, _ in pieces).decode()
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))


def as_cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value)


@given(st.lists(texts, min_size=1, max_size=4, unique=True), st.sampled_from(",;\t"), st.data())
def test_readers_get_the_cells_that_were_kept(names: list[str], delimiter: str, data: st.DataObject) -> None:
    cells = st.lists(values, min_size=len(names), max_size=len(names))
    rows = [dict(zip(names, one, strict=True)) for one in data.draw(st.lists(cells, min_size=1, max_size=4))]
    header, *lines = written(rows, delimiter)
    assert header == [*names, "prediction_label", "prediction_score"]
    assert lines == [[*map(as_cell, row.values()), "GOOD", repr(0.1 + 0.2)] for row in rows]
