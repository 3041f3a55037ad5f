"""A message arrives as it was sent, and damage ends in one error."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import errors
from app.bundle.sequences import MaskScores, SequenceResult, TokenSequence
from app.engine.callers import Caller
from app.engine.messages import Backlog, BatchRan, Faster, Loaded, QueueStatistics, Serving, Speed, Timeline
from app.engine.rates import Bucket
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
RUNS = st.builds(BatchRan, st.integers(1, 1000), st.integers(1, 65536), st.integers(1, 512), TIMES, TIMES)
TIMELINES = st.builds(Timeline, TIMES, st.none() | TIMES, st.lists(RUNS, max_size=4))
SPEEDS = st.builds(Speed, IDS, TIMES, st.lists(st.tuples(IDS, TIMES), max_size=3))
LOADED = st.builds(Loaded, threads=st.lists(IDS, max_size=3), lanes=IDS, speed=SPEEDS)
BACKLOGS = st.dictionaries(NAMES, st.builds(Backlog, TIMES, IDS, IDS, IDS), max_size=3)
QUEUES = st.builds(QueueStatistics, IDS, IDS, TIMES, TIMES, TIMES, BACKLOGS)
DEBTS = st.dictionaries(NAMES, st.builds(Bucket, TIMES, TIMES, TIMES), max_size=3)
CALLERS = st.none() | st.builds(Caller, NAMES, TIMES, st.none() | TIMES, TIMES)
KINDS = (errors.DeadlineExceeded, errors.EngineLost, errors.Internal, errors.NotReady, errors.ValidationFailed)
ERRORS = st.one_of(
    *(st.builds(kind, st.text(), st.integers(1, 3600)) for kind in (errors.Overloaded, errors.RateLimited)),
    *(st.builds(kind, st.text()) for kind in KINDS),
)


def arrays(dtype: Any, *shape: int) -> st.SearchStrategy[Any]:
    """Arrays of any bits."""
    size = np.dtype(dtype).itemsize * math.prod(shape)
    return st.binary(min_size=size, max_size=size).map(lambda bits: np.frombuffer(bits, dtype).reshape(shape))


@st.composite
def requests(draw: st.DrawFn) -> EngineRequest:
    top_k = draw(st.integers(0, 1000))
    targets = draw(st.none() | st.integers(0, 4).flatmap(lambda count: arrays(np.int32, count)))
    sequences = []
    for tokens, masks in draw(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=4)):
        ids, types, positions = (draw(arrays(np.int32, size)) for size in (tokens, tokens, masks))
        sequences.append(TokenSequence(ids, types, positions, top_k, targets))
    return EngineRequest(draw(IDS), draw(NAMES), sequences, draw(st.booleans()), draw(CALLERS))


@st.composite
def results(draw: st.DrawFn) -> Sequence[SequenceResult]:
    columns = draw(st.integers(1, 5))
    counts = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    match draw(st.sampled_from(["texts", "tokens", "masks"])):
        case "texts":
            return [draw(arrays(np.float32, columns)) for _ in counts]
        case "tokens":
            return [draw(arrays(np.float32, count, columns)) for count in counts]
        case _:
            tokens = [draw(arrays(np.int64, count, columns)) for count in counts]
            return [MaskScores(one, draw(arrays(np.float32, *one.shape))) for one in tokens]


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
    [reply] = Replies.pack([EngineReply(1, errors.PayloadTooLarge("no such model"))]).unpack()
    assert plain(reply.outcome) == plain(errors.Internal("no such model"))


@given(st.lists(IDS))
def test_withdrawals_arrive_as_they_were_sent(ids: list[int]) -> None:
    assert decode_from_front_end(encode(Withdrawal(ids))) == Withdrawal(ids)


@given(st.dictionaries(NAMES, LOADED, max_size=3))
def test_a_hello_arrives_as_it_was_sent(models: dict[str, Loaded]) -> None:
    serving = Serving(models, ["broken"], ["unloaded"], ["loading"])
    message = decode_from_engine(encode(Hello(serving, 3)))
    assert isinstance(message, Hello)
    assert (message.serving.models, list(message.serving.models)) == (models, list(models))
    assert plain(message.serving) == plain(serving)


@given(st.dictionaries(NAMES, QUEUES, max_size=3), DEBTS)
def test_statistics_arrive_as_they_were_sent(models: dict[str, QueueStatistics], debts: dict[str, Bucket]) -> None:
    assert decode_from_engine(encode(Statistics(models, debts))) == Statistics(models, debts)


def read(decode: Callable[[bytes], FromFrontEnd | FromEngine], body: bytes) -> None:
    """Read a message to the last array; damage must not end in any other error."""
    try:
        message = decode(body)
        if isinstance(message, Requests | Replies):
            message.unpack()
    except DamagedFrame:
        pass


def row(*values: float) -> Any:
    return np.array(values, np.float32)


THREE = np.arange(3, dtype=np.int32)
MESSAGES: list[FromFrontEnd | FromEngine] = [
    Requests.pack(
        [
            EngineRequest(7, "sentiment", [TokenSequence(np.arange(9, dtype=np.int32), np.zeros(9, np.int32))]),
            EngineRequest(
                8,
                "masked-token",
                [TokenSequence(THREE, THREE, THREE, 2, THREE)],
                is_timed=True,
                caller=Caller("search", 2.0, 1000.0, 4000.0),
            ),
        ]
    ),
    Replies.pack(
        [
            EngineReply(7, [row(1, 2)], Timeline(1.0, 2.0, [BatchRan(1, 9, 9, 2.0, 0.5)])),
            EngineReply(8, [MaskScores(np.array([[3, 2]]), np.array([[0.5, 0.25]], np.float32))]),
            EngineReply(9, [np.ones((3, 2), np.float32), np.ones((1, 2), np.float32)]),
            EngineReply(10, errors.Overloaded("The queue is full.", 7)),
        ]
    ),
    Withdrawal([7, 300, 70_000]),
    Statistics(
        {"sentiment": QueueStatistics(3, 90, 0.1, 0.2, 0.3, {"search": Backlog(2.0, 90, 30, 600)})},
        {"search": Bucket(-70.0, 12.5, 10.0)},
    ),
    Hello(
        Serving(
            {
                "sentiment": Loaded(
                    identity="a1",
                    variant="cpu-fp32",
                    provider="CPUExecutionProvider",
                    threads=[1, 2],
                    lanes=2,
                    speed=Speed(512, 1e-5, [(8, 1e-3), (512, 5e-3)]),
                    instruction_sets=("AVX2", "VNNI"),
                    faster=(Faster("cpu-int8", "BERT_PRECISION=int8", None, "changes some answers"),),
                )
            }
        ),
        1,
    ),
]
BODIES = [encode(message) for message in MESSAGES]


@pytest.mark.parametrize("body", BODIES, ids=[type(message).__name__ for message in MESSAGES])
def test_a_shortened_message_is_refused(body: bytes) -> None:
    for size in range(len(body)):
        for decode in (decode_from_front_end, decode_from_engine):
            with pytest.raises(DamagedFrame):
                decode(body[:size])


@given(st.sampled_from(BODIES), st.data())
def test_a_message_with_wrong_bytes_is_read_or_refused(body: bytes, data: st.DataObject) -> None:
    places = st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255))
    damaged = bytearray(body)
    for place, value in data.draw(st.lists(places, min_size=1, max_size=3)):
        damaged[place] = value
    for decode in (decode_from_front_end, decode_from_engine):
        read(decode, bytes(damaged))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for decode in (decode_from_front_end, decode_from_engine):
        read(decode, body)


@pytest.mark.parametrize(
    "message",
    [
        Requests([codec.RequestHeader(0, "model", [(2, 0)], 0, None, False, None)], bytes(4 * 3)),
        Requests([codec.RequestHeader(0, "model", [(2, 0)], 0, None, False, None)], bytes(4 * 5)),
        Requests([codec.RequestHeader(0, "model", [(2, 1)], 0, None, False, None)], bytes(4 * 4)),
        Requests([codec.RequestHeader(0, "model", [(2, 0)], 1, 1, False, None)], bytes(4 * 4)),
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
