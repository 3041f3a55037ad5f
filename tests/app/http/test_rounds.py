"""Rounds within the time of a request, and what happens to those that the engine does not run."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from app.bundle.sequences import SequenceResult, TokenSequence
from app.engine.messages import BatchRan, Timeline
from app.errors import DeadlineExceeded, Overloaded, RateLimited, ServiceError, ValidationFailed
from app.http.rounds import run_in_time
from app.tasks.rounds import Results, Round, Rounds, prepare_rounds
from app.telemetry.record import RequestRecord

REFUSALS = [
    Overloaded("The queue is full.", retry_after_s=1),
    RateLimited("Too much.", retry_after_s=1),
    ValidationFailed("It would take too long."),
    DeadlineExceeded("No answer."),
]


def sequences(count: int) -> list[TokenSequence]:
    return [TokenSequence(np.zeros(3, np.int32), np.zeros(3, np.int32)) for _ in range(count)]


def asking(*rounds: tuple[int, bool]) -> Rounds:
    """Ask for rounds of so many sequences, which are needed or not, and predict how many results each had; None if it did not run."""
    got: list[int | None] = []
    for count, is_needed in rounds:
        results = yield Round(sequences(count), is_needed)
        got.append(None if results is None else len(results))
        if results is None:
            break
    return got


class Engine:
    """Answers every sequence, but for those of one round."""

    def __init__(self, fails_at: int = 0, error: Exception | None = None) -> None:
        self.rounds: list[int] = []
        self._fails_at = fails_at
        self._error = error

    async def infer(self, asked: list[TokenSequence], timeline: Timeline | None) -> list[SequenceResult]:
        self.rounds.append(len(asked))
        if len(self.rounds) == self._fails_at:
            if self._error is not None:
                raise self._error
            await asyncio.Event().wait()
        if timeline is not None:
            now = float(len(self.rounds))
            timeline.admitted_at, timeline.started_at = now, now + 0.5
            timeline.runs.append(BatchRan(len(asked), 3 * len(asked), 3, now, 0.1))
        return [np.zeros(2, np.float32)] * len(asked)


def run(
    engine: Engine,
    *inputs: Rounds,
    timeline: Timeline | None = None,
    timeout_s: float = 60.0,
    most_tokens: int | None = None,
    is_stopping: Callable[[], bool] = bool,
) -> tuple[list[Any], RequestRecord]:
    prepared = prepare_rounds(list(inputs), truncated=0)
    record = RequestRecord("id", "native", "explain")

    async def more(results: Results) -> Round | None:
        return prepared.more(results)

    asyncio.run(
        run_in_time(
            prepared,
            engine.infer,
            more,
            timeline=timeline,
            record=record,
            timeout_s=timeout_s,
            most_tokens=most_tokens,
            is_stopping=is_stopping,
        )
    )
    return prepared.predictions, record


def test_every_input_gets_the_results_of_its_own_sequences() -> None:
    engine = Engine()
    predictions, record = run(
        engine, asking((2, True), (3, False)), asking((4, True)), asking((1, True), (1, True), (5, False))
    )
    assert predictions == [[2, 3], [4], [1, 1, 5]]
    assert engine.rounds == [7, 4, 5]
    assert (record.sequences, record.tokens) == (16, 48)


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_a_round_that_is_not_needed_may_be_refused(error: ServiceError) -> None:
    predictions, record = run(Engine(2, error), asking((2, True), (9, False), (9, False)))
    assert predictions == [[2, None]]
    assert record.sequences == 2


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("number", [1, 2])
def test_a_round_that_is_needed_fails_the_request(error: ServiceError, number: int) -> None:
    # What the engine says of its sequences is told of as runs: the caller has sent fewer inputs.
    counted = isinstance(error, ValidationFailed | Overloaded) and not isinstance(error, RateLimited)
    says = f"need {(2, 9)[number - 1]} runs" if counted else error.message
    with pytest.raises(type(error), match=says):
        run(Engine(number, error), asking((2, True), (9, True)))


def test_a_needed_round_of_more_tokens_than_there_is_time_for_does_not_begin() -> None:
    engine = Engine()
    with pytest.raises(ValidationFailed, match=r"need 9 runs of the model, of 27 tokens in all"):
        run(engine, asking((2, True), (9, True)), most_tokens=27)
    assert engine.rounds == [2]
    run(engine, asking((2, True), (9, True), (100, False)), most_tokens=34)


def test_when_the_service_stops_only_rounds_that_are_needed_run() -> None:
    predictions, _ = run(Engine(), asking((2, True), (3, True), (9, False)), is_stopping=lambda: True)
    assert predictions == [[2, 3, None]]


def test_any_other_error_fails_the_request() -> None:
    with pytest.raises(RuntimeError):
        run(Engine(2, RuntimeError()), asking((2, True), (9, False)))


def test_a_round_that_is_not_needed_ends_before_the_time_of_the_request() -> None:
    predictions, _ = run(Engine(2), asking((2, True), (9, False)), timeout_s=0.2)
    assert predictions == [[2, None]]


def test_a_round_that_is_needed_has_the_time_of_the_request() -> None:
    with pytest.raises(DeadlineExceeded, match=r"0\.02 s"):
        run(Engine(1), asking((2, True)), timeout_s=0.02)


def test_a_timeline_has_the_batches_of_all_rounds() -> None:
    timeline = Timeline()
    run(Engine(), asking((2, True), (3, False)), timeline=timeline)
    assert (timeline.admitted_at, timeline.started_at) == (1.0, 1.5)
    assert [ran.sequences for ran in timeline.runs] == [2, 3]


def test_what_a_result_shows_to_be_wrong_is_the_callers_error() -> None:
    def refusing() -> Rounds:
        yield Round(sequences(1))
        raise ValidationFailed("inputs[0]: no entity.")

    with pytest.raises(ValidationFailed, match="no entity"):
        run(Engine(), refusing())
