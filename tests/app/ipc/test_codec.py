"""A message arrives as it was sent, and damage ends in one error."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from app import errors
from app.bundle.sequences import MaskScores, SequenceResult, TokenSequence
from app.engine.messages import BatchRan, Loaded, QueueStatistics, Timeline
from app.ipc import codec
from app.ipc.codec import (
    EngineReply,
    EngineRequest,
    FromEngine,
    FromFrontEnd,
    Hello,
    Replies,
    Requests,
    Statistics,
    Withdrawal,
    decode_from_engine,
    decode_from_front_end,
    encode,
)
from app.ipc.frames import DamagedFrame

IDS = st.integers(0, 2**62)
NAMES = st.text(min_size=1, max_size=20)
TIMES = st.floats(0, 1e9)
TOKENS = st.integers(0, 250_000)
RUNS = st.builds(BatchRan, st.integers(1, 1000), st.integers(1, 65536), st.integers(1, 512), TIMES, TIMES)
TIMELINES = st.builds(Timeline, TIMES, st.none() | TIMES, st.lists(RUNS, max_size=4))
LOADED = st.builds(Loaded)  # every field by its type
QUEUES = st.builds(QueueStatistics, IDS, IDS, TIMES, TIMES, TIMES)
FLOATS = st.floats(width=32)
ERRORS = st.builds(errors.Overloaded, st.text(), st.integers(1, 3600)) | st.one_of(
    *(
        st.builds(error, st.text())
        for error in (errors.DeadlineExceeded, errors.EngineLost, errors.Internal, errors.NotReady)
    )
)


def token_arrays(size: int) -> st.SearchStrategy[Any]:
    return npst.arrays(np.int32, size, elements=TOKENS)


@st.composite
def requests(draw: st.DrawFn) -> EngineRequest:
    top_k = draw(st.integers(0, 1000))
    targets = draw(st.none() | st.integers(0, 4).flatmap(token_arrays))
    sequences = []
    for tokens in draw(st.lists(st.integers(1, 20), min_size=1, max_size=4)):
        masks = draw(st.integers(0, min(3, tokens)).flatmap(token_arrays))
        sequences.append(TokenSequence(draw(token_arrays(tokens)), draw(token_arrays(tokens)), masks, top_k, targets))
    return EngineRequest(draw(IDS), draw(NAMES), sequences, draw(st.booleans()))


@st.composite
def results(draw: st.DrawFn) -> Sequence[SequenceResult]:
    columns = draw(st.integers(1, 5))
    counts = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))

    def floats(*shape: int) -> Any:
        return draw(npst.arrays(np.float32, shape, elements=FLOATS))

    match draw(st.sampled_from(["texts", "tokens", "masks"])):
        case "texts":
            return [floats(columns) for _ in counts]
        case "tokens":
            return [floats(count, columns) for count in counts]
        case _:
            tokens = [draw(npst.arrays(np.int64, (count, columns), elements=TOKENS)) for count in counts]
            return [MaskScores(one, floats(*one.shape)) for one in tokens]


REQUESTS = st.lists(requests(), min_size=1, max_size=5)
REPLIES = st.lists(
    st.builds(EngineReply, IDS, st.one_of(results(), ERRORS), st.none() | TIMELINES), min_size=1, max_size=5
)


def plain(value: Any) -> Any:
    """Return a value that compares by content: arrays with their type and shape, errors with their fields."""
    match value:
        case np.ndarray():
            return str(value.dtype), value.shape, value.tobytes()
        case errors.ServiceError():
            return type(value), vars(value)
        case EngineRequest() | EngineReply() | TokenSequence() | MaskScores():
            return type(value), [plain(getattr(value, field.name)) for field in fields(value)]
        case list():
            return [plain(one) for one in value]
    return value


@given(REQUESTS)
def test_requests_arrive_as_they_were_sent(sent: list[EngineRequest]) -> None:
    message = decode_from_front_end(encode(Requests.pack(sent)))
    assert isinstance(message, Requests)
    assert plain(message.unpack()) == plain(sent)


@given(REPLIES)
def test_replies_arrive_as_they_were_sent(sent: list[EngineReply]) -> None:
    message = decode_from_engine(encode(Replies.pack(sent)))
    assert isinstance(message, Replies)
    assert plain(message.unpack()) == plain(sent)


def test_results_of_any_layout_arrive_as_they_were_sent() -> None:
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    tokens = np.arange(12).reshape(3, 4)
    sent = [
        EngineReply(0, [table.T[0], table.T[1]]),
        EngineReply(1, [table[:, :2], table[:1, 2:]]),
        EngineReply(2, [MaskScores(tokens[:, 1:3], table.T[:3, :2])]),
    ]
    assert plain(Replies.pack(sent).unpack()) == plain(sent)


def test_an_error_that_the_engine_has_no_business_with_is_internal() -> None:
    [reply] = Replies.pack([EngineReply(1, errors.NotFound("no such model"))]).unpack()
    assert plain(reply.outcome) == plain(errors.Internal("no such model"))


@given(st.lists(IDS))
def test_withdrawals_arrive_as_they_were_sent(ids: list[int]) -> None:
    assert decode_from_front_end(encode(Withdrawal(ids))) == Withdrawal(ids)


@given(st.dictionaries(NAMES, LOADED, max_size=3))
def test_a_hello_arrives_as_it_was_sent(models: dict[str, Loaded]) -> None:
    message = decode_from_engine(encode(Hello(models)))
    assert isinstance(message, Hello)
    assert list(message.models) == list(models)
    assert msgspec.to_builtins(message) == msgspec.to_builtins(Hello(models))
    assert all(isinstance(one, Loaded) for one in message.models.values())


@given(st.dictionaries(NAMES, QUEUES, max_size=3))
def test_statistics_arrive_as_they_were_sent(models: dict[str, QueueStatistics]) -> None:
    assert decode_from_engine(encode(Statistics(models))) == Statistics(models)


def read(decode: Callable[[bytes], FromFrontEnd | FromEngine], body: bytes) -> None:
    """Read a message to the last array; damage must not end in any other error."""
    try:
        message = decode(body)
        if isinstance(message, Requests | Replies):
            message.unpack()
    except DamagedFrame:
        pass


MESSAGES = st.one_of(
    REQUESTS.map(Requests.pack),
    REPLIES.map(Replies.pack),
    st.lists(IDS, max_size=5).map(Withdrawal),
    st.dictionaries(NAMES, QUEUES, max_size=3).map(Statistics),
    st.dictionaries(NAMES, LOADED, max_size=3).map(Hello),
)


@given(MESSAGES, st.data())
def test_a_shortened_message_is_refused(message: FromFrontEnd | FromEngine, data: st.DataObject) -> None:
    body = encode(message)
    shortened = body[: data.draw(st.integers(0, len(body) - 1))]
    for decode in (decode_from_front_end, decode_from_engine):
        with pytest.raises(DamagedFrame):
            decode(shortened)


@given(MESSAGES, st.data())
def test_a_message_with_wrong_bytes_is_read_or_refused(message: FromFrontEnd | FromEngine, data: st.DataObject) -> None:
    body = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    for decode in (decode_from_front_end, decode_from_engine):
        read(decode, bytes(body))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for decode in (decode_from_front_end, decode_from_engine):
        read(decode, body)


@pytest.mark.parametrize(
    "message",
    [
        Requests([codec.RequestHeader(0, "model", [(2, 0)], 0, None, False)], bytes(4 * 3)),
        Requests([codec.RequestHeader(0, "model", [(2, 0)], 0, None, False)], bytes(4 * 5)),
        Requests([codec.RequestHeader(0, "model", [(2, 1)], 0, None, False)], bytes(4 * 4)),
        Requests([codec.RequestHeader(0, "model", [(2, 0)], 1, 1, False)], bytes(4 * 4)),
        Requests([], bytes(3)),
        Replies([codec.ReplyHeader(0, codec.Rows(2**31 - 1, 1), None)], bytes(4)),
        Replies([codec.ReplyHeader(0, codec.Rows(1, 1), None)], bytes(8)),
        Replies([codec.ReplyHeader(0, codec.TokenRows([2], 2), None)], bytes(4 * 3)),
        Replies([codec.ReplyHeader(0, codec.MaskRows([2], 1, bytes(8)), None)], bytes(4 * 2)),
        Replies([codec.ReplyHeader(0, codec.MaskRows([1], 1, bytes(9)), None)], bytes(4)),
        Replies([], bytes(3)),
    ],
)
def test_arrays_of_other_sizes_than_the_headers_say_are_refused(message: Requests | Replies) -> None:
    with pytest.raises(DamagedFrame):
        message.unpack()


@pytest.mark.parametrize(
    "header",
    [
        codec.ReplyHeader(0, codec.Rows(2**31, 1), None),
        codec.ReplyHeader(0, codec.Rows(-1, 1), None),
        codec.ReplyHeader(0, codec.Rows(1, 0), None),
        codec.ReplyHeader(0, codec.TokenRows([-1], 1), None),
    ],
)
def test_sizes_that_no_array_has_are_refused(header: codec.ReplyHeader) -> None:
    with pytest.raises(DamagedFrame, match="int"):
        decode_from_engine(encode(Replies([header], b"")))
