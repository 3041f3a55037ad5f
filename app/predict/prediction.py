"""Rows to predictions, by the same requests, engine and answers as those of the server.

A bad row fails alone: rows that fail together are tried in halves, down to the single one.
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from pydantic import ValidationError

from app.bundle.panics import panics_as_errors
from app.bundle.sequences import SequenceResult
from app.engine.local import LocalEngine
from app.errors import EngineLost, ServiceError
from app.http.problems import explain
from app.predict.columns import Columns, Unfit
from app.predict.faults import WrongUse
from app.predict.rows import BadRow, Row
from app.tasks.base import Model, Prepared
from app.tasks.catalog import Handler
from app.tasks.inputs import as_list
from app.tasks.rounds import PreparedRounds, run_rounds
from app.telemetry.unquoted import unquoted

log = logging.getLogger(__name__)

MAX_WEIGHT: Final = 16_384
"""Most `weight` of the answers to rows that are tokenized together, estimated by the task's example: that of 1,365 embeddings of 768
numbers, which take 33 MB, and of one text with 1,000 candidates for its mask."""
_PLACE: Final = re.compile(r"\binputs(?:\[0\])?(?:\.(\w+))?(?=\W|$)")


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that are run together, as a request would have them."""

    rows: list[Row]
    request: Any
    prepared: Prepared


@dataclass(frozen=True, slots=True)
class Predicted:
    """A row and its prediction, as `predictions` of an answer has it."""

    row: Row
    prediction: Any


Outcome = Predicted | BadRow


class Predictor:
    """Predicts rows with one model and task."""

    def __init__(
        self, model: Model, handler: Handler, columns: Columns, parameters: dict[str, Any] | None = None
    ) -> None:
        """Take the task's parameters as a request would have them.

        Raises:
            WrongUse: the model does not take them.
        """
        self._model = model
        self._handler = handler
        self._columns = columns
        self._parameters = {} if parameters is None else {"parameters": parameters}
        given = handler.example(model)["inputs"]
        try:
            # What is wrong with a parameter is so for each row, and some of it shows only here.
            request = self._request(as_list(given))
            prepared = handler.prepare(model, request)
        except ValidationError as error:
            raise WrongUse(f"--parameters: {explain(error, form=handler.request).message}") from error
        except ServiceError as error:
            raise WrongUse(f"--parameters: {error.message}") from error
        self.max_rows: Final = max(
            1, MAX_WEIGHT * len(as_list(given)) // max(1, handler.weight(model, request, prepared))
        )
        """Most rows to tokenize together, so that there is memory for all of their answers."""

    def prepare(self, rows: Sequence[Row | BadRow]) -> list[Part | BadRow]:
        """Tokenize rows, and return the good ones together, in any order. Takes long: call it in a thread."""
        bad: list[BadRow] = []
        good: list[tuple[Row, Any]] = []
        for row in rows:
            if isinstance(row, BadRow):
                bad.append(row)
                continue
            try:
                good.append((row, self._columns.input_of(row)))
            except Unfit as error:
                bad.append(_bad(row, str(error)))
        return [*bad, *self._together(good)]

    async def predict(self, parts: Sequence[Part | BadRow], engine: LocalEngine) -> list[Outcome]:
        """Run rows and return what becomes of each, in the order of the input.

        Raises:
            EngineLost: the device failed for good.
        """
        # At once, so that small parts share batches.
        done = await asyncio.gather(*(self._run(part, engine) for part in parts if isinstance(part, Part)))
        bad = [row for row in parts if isinstance(row, BadRow)]
        return sorted([*bad, *chain.from_iterable(done)], key=_number)

    async def _run(self, part: Part, engine: LocalEngine) -> list[Outcome]:
        """Run rows and return what becomes of each, in any order.

        Raises:
            EngineLost: the device failed for good.
        """
        try:
            results = await self._infer(part.prepared, engine)
            return await asyncio.to_thread(self._answer, part, results)
        except EngineLost:
            raise
        except Exception as error:
            if len(part.rows) == 1:
                return [self._failed(part.rows[0], error)]
        middle = len(part.rows) // 2
        outcomes: list[Outcome] = []
        for rows in (part.rows[:middle], part.rows[middle:]):
            outcomes += await self.predict(await asyncio.to_thread(self.prepare, rows), engine)
        return outcomes

    async def _infer(self, prepared: Prepared, engine: LocalEngine) -> Sequence[SequenceResult]:
        if not isinstance(prepared, PreparedRounds):
            return await engine.infer(self._model.key, prepared.sequences)
        await run_rounds(
            prepared,
            lambda following: engine.infer(self._model.key, following.sequences),
            lambda results: asyncio.to_thread(prepared.more, results),
        )
        return []

    def _answer(self, part: Part, results: Sequence[SequenceResult]) -> list[Outcome]:
        predictions = self._handler.answer(self._model, part.request, part.prepared, results)
        return [Predicted(row, one) for row, one in zip(part.rows, predictions, strict=True)]

    def _together(self, rows: list[tuple[Row, Any]]) -> list[Part | BadRow]:
        """Tokenize rows with their inputs, together or, if that fails, in halves."""
        if not rows:
            return []
        try:
            request = self._request([given for _, given in rows])
            with panics_as_errors():
                prepared = self._handler.prepare(self._model, request)
            return [Part([row for row, _ in rows], request, prepared)]
        except Exception as error:
            if len(rows) == 1:
                return [self._failed(rows[0][0], error)]
            if isinstance(error, ValidationError):
                return self._together_if_valid(rows)
        middle = len(rows) // 2
        return [*self._together(rows[:middle]), *self._together(rows[middle:])]

    def _together_if_valid(self, rows: list[tuple[Row, Any]]) -> list[Part | BadRow]:
        """Tokenize those of some rows together whose inputs are valid: halves would be many small parts where many are not."""
        bad: list[Part | BadRow] = []
        valid: list[tuple[Row, Any]] = []
        for row, given in rows:
            try:
                self._request([given])
                valid.append((row, given))
            except ValidationError as error:
                bad.append(self._failed(row, error))
        return bad + self._together(valid)

    def _request(self, inputs: list[Any]) -> Any:  # noqa: ANN401 - the handler's own
        return self._handler.request.model_validate({"inputs": inputs, **self._parameters})

    def _failed(self, row: Row, error: Exception) -> BadRow:
        """Return a row that failed alone."""
        if isinstance(error, ValidationError):
            error = explain(error, form=self._handler.request)
        if isinstance(error, ServiceError):
            return _bad(row, _PLACE.sub(self._column, error.message))
        log.error("row %d failed alone", row.number, exc_info=unquoted(error))
        return _bad(row, "could not be predicted; the log has the cause")

    def _column(self, found: re.Match[str]) -> str:
        """Return the column of a place in a request."""
        return self._columns.column_of(found[1] or "text") or "the row"


def _number(outcome: Outcome) -> int:
    return outcome.row.number if isinstance(outcome, Predicted) else outcome.number


def _bad(row: Row, error: str) -> BadRow:
    return BadRow(row.number, row.line, error, row.cells)
