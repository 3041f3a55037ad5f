"""Which columns of a row are the input of a task, and which are copied to the output."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_origin

from app.predict.faults import WrongUse, listed
from app.predict.rows import Row
from app.tasks.catalog import Handler
from app.tasks.inputs import item_form

PREDICTION: Final = "prediction"
"""The column of the output that has the prediction, or what the names of those begin with that have parts of it."""


class Unfit(Exception):
    """A row does not have what the task needs."""


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of the task's input and its column.

    `is_there` is whether every row has the column, `is_required` whether it may not be null, `is_list` whether the field takes
    a list of texts.
    """

    name: str
    column: str
    is_there: bool
    is_required: bool
    is_list: bool


class Columns:
    """Reads a task's input from a row."""

    def __init__(self, handler: Handler, chosen: Sequence[str] | None, keep: Sequence[str] | None) -> None:
        """Take the columns of the input's fields, in their order, else those that have the names of the fields.

        Args:
            handler: The task.
            chosen: The names of columns.
            keep: The columns that are copied; None for all.

        Raises:
            WrongUse: the task has fewer fields, or needs more.
        """
        form = item_form(handler.request)
        fields = (
            {"text": (True, False)}
            if form is None
            else {name: (f.is_required(), get_origin(f.annotation) is list) for name, f in form.model_fields.items()}
        )
        needed = [name for name, (is_required, _) in fields.items() if is_required]
        names = list(fields) if chosen is None else list(chosen)
        if not len(needed) <= len(names) <= len(fields):
            takes = " and ".join(fields) if len(needed) == len(fields) else f"{needed[0]}, or {' and '.join(fields)}"
            raise WrongUse(f"--column: {handler.task} takes {takes}; {listed(names)} is another number of columns.")
        self._is_text = form is None
        self._fields = [
            _Field(name, column, is_required or chosen is not None, is_required, is_list)
            for (name, (is_required, is_list)), column in zip(fields.items(), names, strict=False)
        ]
        self._keep = keep

    def check(self, columns: Sequence[str] | None, source: str, reserved: Sequence[str]) -> None:
        """Pass if the input has these columns; if each row has its own, that is seen with each.

        Args:
            columns: Those of the input.
            source: Its name.
            reserved: The names of the columns that the output adds.

        Raises:
            WrongUse: some are missing, or would be twice in the output.
        """
        wanted = [field.column for field in self._fields if field.is_there] + list(self._keep or ())
        if columns is not None and (missing := [name for name in wanted if name not in columns]):
            raise WrongUse(
                f"{source} has no column {listed(missing)}; its columns are {listed(columns)}. Name those of the input with "
                "--column, and those to copy with --keep."
            )
        if twice := [name for name in self.kept(dict.fromkeys(columns or ())) if name in reserved]:
            raise WrongUse(f"{source} has a column {listed(twice)} itself; name those to copy with --keep, without it.")

    def input_of(self, row: Row) -> Any:  # noqa: ANN401 - JSON
        """Return a row's input, as `inputs` of a request would have it.

        Raises:
            Unfit: the row lacks a column.
        """
        values: dict[str, Any] = {}
        for field in self._fields:
            value = row.cells.get(field.column)
            if value is None:
                if field.is_required or (field.is_there and field.column not in row.cells):
                    raise Unfit(f"{field.column}: is missing")
                continue
            values[field.name] = [value] if field.is_list and isinstance(value, str) else value
        return values["text"] if self._is_text else values

    def kept(self, cells: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is copied of a row."""
        return dict(cells) if self._keep is None else {name: cells.get(name) for name in self._keep}

    def column_of(self, field: str) -> str:
        """Return the column of a field, empty for what is no field."""
        return next((one.column for one in self._fields if one.name == field), "")
