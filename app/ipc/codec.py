"""Requests and replies as flat arrays.

One frame holds many requests: a table with a row for each, then all their numbers end to end, so that the work in
Python is per frame but for a few slices per sequence.

    requests   int64[4]             how many requests, sequences, tokens and masks follow
               int64[requests, 6]   id, model, sequences, top_k, targets (-1: none were named), is_timed
               int64[sequences, 2]  tokens, masks
               int32[tokens] input_ids, int32[tokens] token_type_ids, int32[masks] masks, int32[targets] targets
    replies    int64[1]             how many follow
               int64[replies, 5]    id, kind, rows, columns, runs (-1: no timeline); then for each its body and timeline
               float64[2] admitted_at, started_at (NaN: it was not); float64[runs, 5] the fields of BatchRan
"""

import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import chain, islice
from typing import Final, TypeVar, cast

import numpy as np

from app import errors
from app.bundle.sequences import FloatArray, IntArray, MaskScores, SequenceResult, TokenArray, TokenSequence
from app.engine.messages import BatchRan, Timeline

Rows = TypeVar("Rows", IntArray, FloatArray)

_ROWS: Final = 0
_MASKS: Final = 1
_ERROR: Final = 2
_TOKENS: Final = 3
_NO_TARGETS: Final = -1
_NO_TIMELINE: Final = -1
_ERRORS: Final[dict[str, type[errors.ServiceError]]] = {
    error.__name__: error for error in (errors.DeadlineExceeded, errors.EngineLost, errors.Internal, errors.NotReady)
}


@dataclass(slots=True)
class WireRequest:
    """One request on its way to the engine. Its sequences share one top_k and one list of targets."""

    id: int
    model: int
    sequences: Sequence[TokenSequence]
    is_timed: bool = False


@dataclass(slots=True)
class WireReply:
    """The results of one request, or why there are none; with its timeline if it was to be timed and was admitted."""

    id: int
    outcome: Sequence[SequenceResult] | errors.ServiceError
    timeline: Timeline | None = None


def encode_requests(requests: Sequence[WireRequest]) -> bytes:
    """Return the body of a REQUESTS frame."""
    table: list[int] = []
    targets: list[TokenArray] = []
    for request in requests:
        first = request.sequences[0]
        count = _NO_TARGETS if first.targets is None else len(first.targets)
        table += (request.id, request.model, len(request.sequences), first.top_k, count, request.is_timed)
        if first.targets is not None:
            targets.append(first.targets)
    sequences = [sequence for request in requests for sequence in request.sequences]
    tokens = [len(sequence.input_ids) for sequence in sequences]
    masks = [len(sequence.masks) for sequence in sequences]
    return b"".join(
        (
            _int64(len(requests), len(sequences), sum(tokens), sum(masks)),
            _int64(*table),
            _int64(*chain(*zip(tokens, masks, strict=True))),
            _flat([sequence.input_ids for sequence in sequences]),
            _flat([sequence.token_type_ids for sequence in sequences]),
            _flat([sequence.masks for sequence in sequences]),
            _flat(targets),
        )
    )


def decode_requests(body: bytes) -> list[WireRequest]:
    """Return the requests of a REQUESTS frame."""
    reader = _Reader(body)
    size, sequence_count, tokens, masks = reader.int64(4)
    table, counts = reader.rows(size, 6), reader.rows(sequence_count, 2)
    numbers = reader.ints()
    token, mask, target = 0, 2 * tokens, 2 * tokens + masks
    requests = []
    for id_, model, length, top_k, target_count, is_timed in table:
        targets = None
        if target_count != _NO_TARGETS:
            targets = numbers[target : target + target_count]
            target += target_count
        sequences = []
        for token_count, mask_count in islice(counts, length):
            end, mask_end = token + token_count, mask + mask_count
            types = numbers[tokens + token : tokens + end]
            sequences.append(TokenSequence(numbers[token:end], types, numbers[mask:mask_end], top_k, targets))
            token, mask = end, mask_end
        requests.append(WireRequest(id_, model, sequences, bool(is_timed)))
    return requests


def encode_replies(replies: Sequence[WireReply]) -> bytes:
    """Return the body of a REPLIES frame."""
    table: list[int] = []
    bodies: list[bytes] = []
    for reply in replies:
        kind, rows, columns, body = _encode_outcome(reply.outcome)
        table += (reply.id, kind, rows, columns, _NO_TIMELINE if reply.timeline is None else len(reply.timeline.runs))
        bodies.append(body)
        if reply.timeline is not None:
            bodies.append(_encode_timeline(reply.timeline))
    return b"".join((_int64(len(replies)), _int64(*table), *bodies))


def _encode_outcome(outcome: Sequence[SequenceResult] | errors.ServiceError) -> tuple[int, int, int, bytes]:
    """Return kind, rows, columns and body."""
    if isinstance(outcome, errors.ServiceError):
        body = _encode_error(outcome)
        return _ERROR, len(body), 0, body
    if isinstance(outcome[0], MaskScores):
        results = cast("Sequence[MaskScores]", outcome)
        tokens = np.concatenate([result.tokens for result in results])
        scores = np.concatenate([result.scores for result in results])
        return _MASKS, *tokens.shape, tokens.tobytes() + scores.tobytes()
    arrays = cast("Sequence[FloatArray]", outcome)
    body = b"".join([array.tobytes() for array in arrays])
    if arrays[0].ndim == 1:
        return _ROWS, len(arrays), len(arrays[0]), body
    return _TOKENS, sum(map(len, arrays)), arrays[0].shape[1], body


def decode_replies(body: bytes, asked: Callable[[int], Sequence[TokenSequence] | None]) -> Iterator[WireReply]:
    """Yield the replies of a REPLIES frame that somebody waits for.

    Args:
        body: What `encode_replies` made.
        asked: The sequences of a request, by its id: how its rows are shared out. None if nobody waits for that request
            any more.
    """
    reader = _Reader(body)
    [size] = reader.int64(1)
    for id_, kind, rows, columns, runs in reader.rows(size, 5):
        outcome: list[SequenceResult] | errors.ServiceError
        sequences = asked(id_)
        if kind == _ERROR:
            outcome = _decode_error(reader.take(rows))
        elif kind == _ROWS:
            outcome = list(reader.floats(rows, columns))
        elif kind == _TOKENS:
            outcome = list(_shared_out(reader.floats(rows, columns), map(len, sequences or ())))
        else:
            tokens = np.array(reader.int64(rows * columns)).reshape(rows, columns)
            scores = reader.floats(rows, columns)
            counts = [len(sequence.masks) for sequence in sequences or ()]
            shares = zip(_shared_out(tokens, counts), _shared_out(scores, counts), strict=True)
            outcome = [MaskScores(some_tokens, some_scores) for some_tokens, some_scores in shares]
        timeline = None if runs == _NO_TIMELINE else _decode_timeline(reader, runs)
        if sequences is not None:
            yield WireReply(id_, outcome, timeline)


def _shared_out(rows: Rows, counts: Iterable[int]) -> Iterator[Rows]:
    end = 0
    for count in counts:
        start, end = end, end + count
        yield rows[start:end]


def _int64(*values: int) -> bytes:
    return array("q", values).tobytes()


def _flat(arrays: Sequence[TokenArray]) -> bytes:
    return np.concatenate(arrays, dtype=np.int32, casting="same_kind").tobytes() if arrays else b""


def _encode_timeline(timeline: Timeline) -> bytes:
    times = (math.nan if time is None else time for time in (timeline.admitted_at, timeline.started_at))
    return np.array([*times, *(value for run in timeline.runs for value in astuple(run))], np.float64).tobytes()


def _decode_timeline(reader: "_Reader", runs: int) -> Timeline:
    admitted_at, started_at = (None if math.isnan(time) else time for time in reader.doubles(2))
    return Timeline(
        admitted_at,
        started_at,
        [
            BatchRan(int(sequences), int(tokens), int(longest), run_started_at, duration_s)
            for sequences, tokens, longest, run_started_at, duration_s in (reader.doubles(5) for _ in range(runs))
        ],
    )


def _encode_error(error: errors.ServiceError) -> bytes:
    retry_after_s = error.retry_after_s if isinstance(error, errors.Overloaded) else None
    return json.dumps([type(error).__name__, error.message, retry_after_s]).encode()


def _decode_error(body: bytes) -> errors.ServiceError:
    name, message, retry_after_s = json.loads(body)
    if retry_after_s is not None:
        return errors.Overloaded(message, retry_after_s)
    return _ERRORS.get(name, errors.Internal)(message)


class _Reader:
    """Reads numbers off a body, one lot after the other."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def take(self, size: int) -> bytes:
        self._at += size
        return self._body[self._at - size : self._at]

    def int64(self, count: int) -> "array[int]":
        return array("q", self.take(8 * count))

    def rows(self, count: int, columns: int) -> Iterator[tuple[int, ...]]:
        return zip(*[iter(self.int64(count * columns))] * columns, strict=True)

    def ints(self) -> TokenArray:
        """Read all that is left."""
        return np.frombuffer(self._body, np.int32, offset=self._at)

    def doubles(self, count: int) -> list[float]:
        values: list[float] = np.frombuffer(self.take(8 * count), np.float64).tolist()
        return values

    def floats(self, rows: int, columns: int) -> FloatArray:
        return np.frombuffer(self.take(4 * rows * columns), np.float32).reshape(rows, columns)
