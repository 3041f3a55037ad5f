"""Every message between a front end and the engine's process, declared once and encoded by msgspec.

    front end to engine     Requests, Withdrawal, Done, Administer
    engine to front end     Hello (first, and whenever other models are served), Prepare, Statistics (now and then), Replies,
                            Administered

A frame of requests or replies has a header for each of them and one blob with the numbers of all, end to end, which takes half as
long as a blob for each array. Arrays are decoded as views into it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeVar, cast

import msgspec
import numpy as np
import numpy.typing as npt

from app import errors
from app.bundle.sequences import NO_MASKS, FloatArray, MaskScores, SequenceResult, TokenArray, TokenSequence
from app.engine.callers import Caller
from app.engine.messages import ModelState, QueueStatistics, Serving, Timeline
from app.engine.rates import Bucket
from app.ipc.frames import DamagedFrame

Number = TypeVar("Number", bound=np.generic)
Message = TypeVar("Message")
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Width = Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]

_ERRORS: Final[dict[str, type[errors.ServiceError]]] = {
    error.__name__: error
    for error in (
        errors.BadBundle,
        errors.DeadlineExceeded,
        errors.EngineLost,
        errors.Internal,
        errors.NoRoom,
        errors.NotFound,
        errors.NotReady,
        errors.ValidationFailed,
    )
}

_REPLACED: Final = errors.Replaced.__name__


@dataclass(slots=True)
class EngineRequest:
    """A request to the engine. Its sequences share one `top_k` and one array of targets."""

    id: int
    model: str
    sequences: Sequence[TokenSequence]
    is_timed: bool = False
    caller: Caller | None = None


@dataclass(slots=True)
class EngineReply:
    """The results of a request or its error; with a timeline if the request is timed and was admitted."""

    id: int
    outcome: Sequence[SequenceResult] | errors.ServiceError | errors.Replaced
    timeline: Timeline | None = None


class RequestHeader(msgspec.Struct, array_like=True):
    """A request without its arrays; `lengths` has the tokens and the masks of each sequence."""

    id: int
    model: str
    lengths: list[tuple[Count, Count]]
    top_k: int
    targets: Count | None
    is_timed: bool
    caller: Caller | None


class Requests(msgspec.Struct, array_like=True, tag=True):
    """Requests that were made in one iteration of a front end's event loop.

    `numbers` is int32: for each request its targets, then for each of its sequences input_ids, token_type_ids, masks.
    """

    headers: list[RequestHeader]
    numbers: bytes

    @classmethod
    def pack(cls, requests: Iterable[EngineRequest]) -> "Requests":
        """Return the message that holds these requests; each has at least one sequence."""
        headers = []
        arrays: list[TokenArray] = []
        for request in requests:
            first = request.sequences[0]
            if first.targets is not None:
                arrays.append(first.targets)
            lengths = []
            for sequence in request.sequences:
                arrays += (sequence.input_ids, sequence.token_type_ids, sequence.masks)
                lengths.append((len(sequence.input_ids), len(sequence.masks)))
            targets = None if first.targets is None else len(first.targets)
            headers.append(
                RequestHeader(
                    request.id, request.model, lengths, first.top_k, targets, request.is_timed, request.caller
                )
            )
        return cls(headers, np.concatenate(arrays, dtype=np.int32, casting="same_kind").tobytes())

    def unpack(self) -> list[EngineRequest]:
        """Return the requests.

        Raises:
            DamagedFrame: the lengths are not those of the arrays.
        """
        numbers = _view(self.numbers, np.int32)
        requests = []
        at = 0
        for header in self.headers:
            targets = None
            if header.targets is not None:
                targets = numbers[at : at + header.targets]
                at += header.targets
            sequences = []
            for tokens, masks in header.lengths:
                types = at + tokens
                mask = types + tokens
                end = mask + masks
                positions = numbers[mask:end] if masks else NO_MASKS
                sequences.append(
                    TokenSequence(numbers[at:types], numbers[types:mask], positions, header.top_k, targets)
                )
                at = end
            requests.append(EngineRequest(header.id, header.model, sequences, header.is_timed, header.caller))
        _refuse_other_size(len(numbers), at)
        return requests


class Withdrawal(msgspec.Struct, array_like=True, tag=True):
    """Ids of requests whose callers are gone."""

    ids: list[int]


class Rows(msgspec.Struct, array_like=True, tag=True):
    """One row for each sequence."""

    sequences: Count
    columns: Width


class TokenRows(msgspec.Struct, array_like=True, tag=True):
    """One row for each token; `tokens` counts those of each sequence."""

    tokens: list[Count]
    columns: Count


class MaskRows(msgspec.Struct, array_like=True, tag=True):
    """The best tokens of each mask; `masks` counts those of each sequence. `tokens` is int64[masks, columns]."""

    masks: list[Count]
    columns: Count
    tokens: bytes


class Failure(msgspec.Struct, array_like=True, tag=True):
    """An error of the catalogue; `retry_after_s` is set if it has one."""

    error: str
    message: str
    retry_after_s: int | None


class ReplyHeader(msgspec.Struct, array_like=True):
    """A reply without its floats."""

    id: int
    outcome: Rows | TokenRows | MaskRows | Failure
    timeline: Timeline | None


class Replies(msgspec.Struct, array_like=True, tag=True):
    """Replies that were ready in one iteration of the engine's event loop. `numbers` is float32: the rows of all, in order."""

    headers: list[ReplyHeader]
    numbers: bytes

    @classmethod
    def pack(cls, replies: Iterable[EngineReply]) -> "Replies":
        """Return the message that holds these replies."""
        arrays: list[FloatArray] = []
        headers = [ReplyHeader(reply.id, _pack_outcome(reply.outcome, arrays), reply.timeline) for reply in replies]
        return cls(headers, b"".join([array.tobytes() for array in arrays]))

    def unpack(self) -> list[EngineReply]:
        """Return the replies.

        Raises:
            DamagedFrame: the lengths are not those of the arrays.
        """
        numbers = _view(self.numbers, np.float32)
        replies = []
        at = 0
        for header in self.headers:
            outcome: list[SequenceResult] | errors.ServiceError | errors.Replaced
            match form := header.outcome:
                case Rows():
                    start, at = at, at + form.sequences * form.columns
                    _refuse_other_size(len(numbers[start:at]), at - start)
                    # Not the rows of a reshaped array: for one row, which most replies have, they take twice as long.
                    outcome = [numbers[row : row + form.columns] for row in range(start, at, form.columns)]
                case TokenRows():
                    start, at = at, at + sum(form.tokens) * form.columns
                    outcome = list(_split(numbers[start:at], form.tokens, form.columns))
                case MaskRows():
                    start, at = at, at + sum(form.masks) * form.columns
                    tokens = _split(_view(form.tokens, np.int64), form.masks, form.columns)
                    outcome = list(map(MaskScores, tokens, _split(numbers[start:at], form.masks, form.columns)))
                case Failure():
                    outcome = errors.Replaced() if form.error == _REPLACED else unpack_error(form)
            replies.append(EngineReply(header.id, outcome, header.timeline))
        _refuse_other_size(len(numbers), at)
        return replies


class Hello(msgspec.Struct, array_like=True, tag=True):
    """The engine serves these models. A front end that makes requests for them, and for no others, says that it is `Done`."""

    serving: Serving
    number: int


class Prepare(msgspec.Struct, array_like=True, tag=True):
    """The bundle of this key may be served soon. A front end that is ready for it, or cannot be, says that it is `Done`."""

    key: str
    number: int


class Done(msgspec.Struct, array_like=True, tag=True):
    """A front end has done what the engine asked for, or could not, for this reason."""

    number: int
    error: str | None = None


class Administer(msgspec.Struct, array_like=True, tag=True):
    """An operator asks for the states of all models, or to load or unload one."""

    number: int
    action: Literal["states", "load", "unload"]
    name: str


class Administered(msgspec.Struct, array_like=True, tag=True):
    """The answer to an operator: the states that were asked for, or why there are none."""

    number: int
    states: list[ModelState]
    failure: Failure | None = None


class Statistics(msgspec.Struct, array_like=True, tag=True):
    """What waits for each model, by the key of its bundle, and the buckets of the callers that are over their rate, by name."""

    models: Mapping[str, QueueStatistics]
    debts: Mapping[str, Bucket]


FromFrontEnd = Requests | Withdrawal | Done | Administer
FromEngine = Hello | Prepare | Statistics | Replies | Administered

_encoder: Final = msgspec.msgpack.Encoder()
_from_front_end: Final[msgspec.msgpack.Decoder[FromFrontEnd]] = msgspec.msgpack.Decoder(FromFrontEnd)
_from_engine: Final[msgspec.msgpack.Decoder[FromEngine]] = msgspec.msgpack.Decoder(FromEngine)


def encode(message: FromFrontEnd | FromEngine) -> bytes:
    """Return the body of the frame that carries a message."""
    return _encoder.encode(message)


def decode_from_front_end(body: bytes) -> FromFrontEnd:
    """Return the message in the body of a frame that a front end sent.

    Raises:
        DamagedFrame: it is none.
    """
    return _decode(_from_front_end, body)


def decode_from_engine(body: bytes) -> FromEngine:
    """Return the message in the body of a frame that the engine sent.

    Raises:
        DamagedFrame: it is none.
    """
    return _decode(_from_engine, body)


def _decode(decoder: msgspec.msgpack.Decoder[Message], body: bytes) -> Message:
    try:
        return decoder.decode(body)
    except ValueError as error:
        raise DamagedFrame(str(error)) from error


def _pack_outcome(
    outcome: Sequence[SequenceResult] | errors.ServiceError | errors.Replaced, arrays: list[FloatArray]
) -> Rows | TokenRows | MaskRows | Failure:
    """Describe an outcome, and append its floats to `arrays`."""
    if isinstance(outcome, errors.Replaced):
        return Failure(_REPLACED, "", None)
    if isinstance(outcome, errors.ServiceError):
        return pack_error(outcome)
    if isinstance(outcome[0], MaskScores):
        results = cast("Sequence[MaskScores]", outcome)
        arrays += [result.scores for result in results]
        tokens = b"".join([result.tokens.tobytes() for result in results])
        return MaskRows([len(result.scores) for result in results], results[0].scores.shape[1], tokens)
    rows = cast("Sequence[FloatArray]", outcome)
    arrays += rows
    if rows[0].ndim == 1:
        return Rows(len(rows), len(rows[0]))
    return TokenRows(list(map(len, rows)), rows[0].shape[1])


def pack_error(error: errors.ServiceError) -> Failure:
    """Describe an error of the catalogue."""
    retry_after_s = error.retry_after_s if isinstance(error, errors.Overloaded | errors.RateLimited) else None
    return Failure(type(error).__name__, error.message, retry_after_s)


def unpack_error(failure: Failure) -> errors.ServiceError:
    """Return the error that was described."""
    if failure.retry_after_s is not None:
        refused = errors.RateLimited if failure.error == errors.RateLimited.__name__ else errors.Overloaded
        return refused(failure.message, failure.retry_after_s)
    return _ERRORS.get(failure.error, errors.Internal)(failure.message)


def _view(blob: bytes, kind: type[Number]) -> npt.NDArray[Number]:
    try:
        return np.frombuffer(blob, kind)
    except ValueError as error:
        raise DamagedFrame(str(error)) from error


def _split(numbers: npt.NDArray[Number], counts: Sequence[int], columns: int) -> Iterator[npt.NDArray[Number]]:
    """Yield as many rows for each sequence as `counts` says."""
    _refuse_other_size(len(numbers), sum(counts) * columns)
    end = 0
    for count in counts:
        start, end = end, end + count * columns
        yield numbers[start:end].reshape(count, columns)


def _refuse_other_size(size: int, expected: int) -> None:
    if size != expected:
        raise DamagedFrame(f"the frame has {size} numbers, its headers say {expected}")
