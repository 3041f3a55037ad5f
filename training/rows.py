"""Labelled rows: CSV, JSON, JSON lines, Parquet, or a folder of the `datasets` library, as its Dataset."""

import csv
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from training.errors import TrainingError
from training.flags import Reading
from training.texts import check_encoding

FILES: Final = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
"""How the name of a file of rows ends."""
_LONGEST_CELL: Final = 1 << 24
_HELD_OUT: Final = ("validation", "test", "dev")
"""Names of the part that is held out, where a folder has several; the first that is there is taken."""
_TRAIN: Final = "train"
_MAKERS: Final = ("dataset_dict.json", "dataset_info.json")
"""What `save_to_disk` leaves in a folder."""


class Rows(NamedTuple):
    """What to learn from, and what is held out, if the source has it apart."""

    train: datasets.Dataset
    held_out: datasets.Dataset | None


def read_rows(path: Path, reading: Reading) -> Rows:
    """Read a file or a folder; cells of CSV are strings, whatever they look like.

    Raises:
        TrainingError: it is not there, of no known kind, in another encoding, or broken; the message names the line.
    """
    parts = _read_parts(path, reading)
    if _TRAIN not in parts:
        raise TrainingError(f"{path} has no rows in a part named {_TRAIN}; it has {', '.join(parts)}.")
    return Rows(parts[_TRAIN], next((parts[name] for name in _HELD_OUT if name in parts), None))


def read_held_out(path: Path, reading: Reading) -> datasets.Dataset:
    """Read what is given to be held out: of a folder, the part for that, if it has one; errors as of `read_rows`."""
    parts = _read_parts(path, reading)
    names = (*_HELD_OUT, _TRAIN)
    if (name := next((name for name in names if name in parts), None)) is None:
        raise TrainingError(f"{path} has no rows in a part named {' or '.join(names)}; it has {', '.join(parts)}.")
    return parts[name]


def _read_parts(path: Path, reading: Reading) -> dict[str, datasets.Dataset]:
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise TrainingError(f"{path} is not there.")
    check_encoding(reading.encoding)
    if reading.delimiter is not None and (len(reading.delimiter) != 1 or reading.delimiter in '"\r\n'):
        raise TrainingError("--delimiter is one character, and neither a quote nor the end of a line.")
    try:
        rows = _read_file(path, reading.encoding, reading.delimiter)
    except UnicodeError:
        raise TrainingError(
            f"{path} is not {reading.encoding}: say what it is with --encoding (cp1252, latin-1, utf-16), or mend it."
        ) from None
    except KeyError as error:
        raise TrainingError(f"{path} lacks {error} where SQuAD has it.") from None
    except (csv.Error, pa.ArrowException) as error:
        raise TrainingError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not len(rows):
        raise TrainingError(f"{path} has no rows.")
    return {_TRAIN: rows}


def _read_file(path: Path, encoding: str, delimiter: str | None) -> datasets.Dataset:
    match path.suffix.lower():
        case ".csv":
            return _read_csv(path, encoding, delimiter or ",")
        case ".tsv":
            return _read_csv(path, encoding, delimiter or "\t")
        case ".jsonl" | ".ndjson":
            return _from_rows(list(_json_lines(path, encoding)))
        case ".json":
            return _from_rows(_json_rows(path, encoding))
        case ".parquet":
            # Not by pandas, which loses the names of labels, and makes fractions of numbers where a cell is empty.
            return _with_names(datasets.Dataset(datasets.table.InMemoryTable(pq.read_table(path, partitioning=None))))
    raise TrainingError(f"{path} ends in none of {', '.join(FILES)}.")


def _read_csv(path: Path, encoding: str, delimiter: str) -> datasets.Dataset:
    # As text: "NA" is a text like any other, and what is a number is for the labels to say.
    csv.field_size_limit(_LONGEST_CELL)
    with path.open(encoding=encoding, newline="") as file:
        lines = csv.reader(file, delimiter=delimiter, strict=True)
        header = [name.removeprefix("\ufeff").strip() for name in next(lines, [])]
        if not header or len(set(header)) < len(header):
            raise TrainingError(f"{path} begins with no header of different names: {', '.join(header)}")
        rows: list[list[str]] = []
        for row in lines:
            if row and len(row) != len(header):
                raise TrainingError(
                    f"{path}, line {lines.line_num:,} has {len(row)} cells, and the header {len(header)}: a text with a {delimiter!r} "
                    "stands in quotes; --delimiter names another."
                )
            rows += [row] if row else []
    return datasets.Dataset.from_dict({name: [row[i] for row in rows] for i, name in enumerate(header)})


def _from_rows(rows: list[dict[str, Any]]) -> datasets.Dataset:
    """Return the rows with the columns that any of them has."""
    names = dict.fromkeys(name for row in rows for name in row)
    return datasets.Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})


def _json_lines(path: Path, encoding: str) -> Iterator[dict[str, Any]]:
    with path.open(encoding=encoding) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.removeprefix("\ufeff"))
            except ValueError as error:
                raise TrainingError(f"{path}, line {number:,} is no JSON: {error}.") from None
            if not isinstance(row, dict):
                raise TrainingError(f"{path}, line {number:,} is no object.")
            yield row


def _json_rows(path: Path, encoding: str) -> list[dict[str, Any]]:
    """Return the rows of a list, or of SQuAD's articles."""
    try:
        document = json.loads(path.read_text(encoding).removeprefix("\ufeff"))
    except ValueError as error:
        if isinstance(error, UnicodeError):
            raise
        raise TrainingError(f"{path} is no JSON: {error}. If each line is, name it .jsonl.") from None
    rows = document.get("data") if isinstance(document, dict) else document
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TrainingError(f"{path} is no list of objects, and has none under data.")
    return list(_questions(rows)) if rows and "paragraphs" in rows[0] else rows


def _questions(articles: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
        for question in paragraph["qas"]:
            answers = question.get("answers", [])
            yield {
                "id": str(question.get("id", "")),
                "question": question["question"],
                "context": paragraph["context"],
                "answers": {
                    "text": [answer["text"] for answer in answers],
                    "answer_start": [answer["answer_start"] for answer in answers],
                },
            }


def _read_folder(path: Path) -> dict[str, datasets.Dataset]:
    try:
        if any((path / name).exists() for name in _MAKERS):
            found = datasets.load_from_disk(str(path))
        else:
            with tempfile.TemporaryDirectory() as cache:
                found = datasets.load_dataset(str(path), cache_dir=cache, keep_in_memory=True)
    except IndexError:
        raise TrainingError(f"{path} has a part without rows, which datasets cannot read: remove that part.") from None
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise TrainingError(f"{path} is no folder of datasets: {' '.join(str(error).split())}") from None
    parts = {_TRAIN: found} if isinstance(found, datasets.Dataset) else found
    return {name: _with_names(rows) for name, rows in parts.items() if len(rows)}


def _with_names(rows: datasets.Dataset) -> datasets.Dataset:
    """Give labels their names, where the dataset has them by number; -1 is no label."""
    for column, feature in dict(rows.features).items():
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, datasets.ClassLabel):
            names = _name_of(inner)
            values = [names(value) for value in rows[column]]
            rows = rows.remove_columns(column).add_column(column, values)
    return rows


def _name_of(labels: datasets.ClassLabel) -> Any:
    names: Mapping[int, str] = dict(enumerate(labels.names))

    def name(value: Any) -> Any:
        return [name(one) for one in value] if isinstance(value, list) else names.get(value)

    return name


def source_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files of sources that are files or folders."""
    return [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path]) if file.is_file()]
