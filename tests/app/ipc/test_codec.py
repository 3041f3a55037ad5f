"""Requests and replies are the same on both sides of the socket."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import errors
from app.bundle.sequences import MaskScores, SequenceResult, TokenSequence
from app.engine.messages import BatchRan, Timeline
from app.ipc.codec import WireReply, WireRequest, decode_replies, decode_requests, encode_replies, encode_requests

IDS = st.lists(st.integers(0, 250_000), min_size=1, max_size=20)


@st.composite
def requests(draw: st.DrawFn) -> WireRequest:
    top_k = draw(st.integers(0, 1000))
    targets = draw(st.none() | st.lists(st.integers(0, 250_000), max_size=4).map(lambda ids: np.array(ids, np.int32)))
    sequences = []
    for ids in draw(st.lists(IDS, min_size=1, max_size=4)):
        masks = draw(st.lists(st.integers(0, len(ids) - 1), unique=True, max_size=3))
        sequences.append(
            TokenSequence(
                np.array(ids, np.int32),
                np.array([draw(st.integers(0, 1)) for _ in ids], np.int32),
                np.array(sorted(masks), np.int32),
                top_k,
                targets,
            )
        )
    return WireRequest(draw(st.integers(0, 2**62)), draw(st.integers(0, 9)), sequences, draw(st.booleans()))


@given(st.lists(requests(), min_size=1, max_size=5))
def test_requests(sent: list[WireRequest]) -> None:
    received = decode_requests(encode_requests(sent))
    assert [(one.id, one.model, len(one.sequences), one.is_timed) for one in received] == [
        (one.id, one.model, len(one.sequences), one.is_timed) for one in sent
    ]
    for one, other in zip(sent, received, strict=True):
        for mine, theirs in zip(one.sequences, other.sequences, strict=True):
            assert theirs.input_ids.dtype == np.int32
            assert theirs.input_ids.tolist() == mine.input_ids.tolist()
            assert theirs.token_type_ids.tolist() == mine.token_type_ids.tolist()
            assert theirs.masks.tolist() == mine.masks.tolist()
            assert theirs.top_k == mine.top_k
            assert (theirs.targets is None) == (mine.targets is None)
            if theirs.targets is not None and mine.targets is not None:
                assert theirs.targets.tolist() == mine.targets.tolist()


def of(lengths: list[int], masks: list[int] | None = None) -> list[TokenSequence]:
    """Sequences of so many tokens, with so many masks."""
    return [
        TokenSequence(np.arange(length, dtype=np.int32), np.zeros(length, np.int32), np.arange(count, dtype=np.int32))
        for length, count in zip(lengths, masks or [0] * len(lengths), strict=True)
    ]


def arrays(outcome: Sequence[SequenceResult] | errors.ServiceError) -> list[Any]:
    assert not isinstance(outcome, errors.ServiceError)
    return [one.tolist() for one in outcome if isinstance(one, np.ndarray)]


def test_replies_of_every_kind_in_one_frame() -> None:
    logits = [np.array([0.1, -2.5], np.float32), np.array([7.0, 1e-9], np.float32)]
    masks = [
        MaskScores(np.array([[3, 2]]), np.array([[0.5, 0.25]], np.float32)),
        MaskScores(np.array([[9, 8], [7, 6]]), np.array([[0.1, 0.2], [0.3, 0.4]], np.float32)),
    ]
    overloaded = errors.Overloaded("full", 7)
    rows = [np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), np.array([[5.0, 6.0]], np.float32)]
    sent = [
        WireReply(5, logits),
        WireReply(6, overloaded),
        WireReply(7, masks),
        WireReply(9, rows),
        WireReply(8, logits[:1]),
    ]
    asked = {5: of([3, 3]), 6: of([3]), 7: of([4, 4], masks=[1, 2]), 8: of([3]), 9: of([2, 1])}
    received = list(decode_replies(encode_replies(sent), asked.get))
    assert [reply.id for reply in received] == [5, 6, 7, 9, 8]
    several, refused, filled, of_tokens, one = (reply.outcome for reply in received)
    assert arrays(one) == [logits[0].tolist()]
    assert arrays(of_tokens) == [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]]]
    assert arrays(several) == [row.tolist() for row in logits]
    assert isinstance(refused, errors.Overloaded)
    assert (refused.message, refused.retry_after_s) == ("full", 7)
    assert not isinstance(filled, errors.ServiceError)
    for mine, theirs in zip(masks, filled, strict=True):
        assert isinstance(theirs, MaskScores)
        assert theirs.tokens.tolist() == mine.tokens.tolist()
        assert theirs.scores.tolist() == mine.scores.tolist()


def test_replies_nobody_waits_for_are_passed_over() -> None:
    masks = [MaskScores(np.array([[3, 2]]), np.array([[0.5, 0.25]], np.float32))]
    logits = [np.array([1.0], np.float32)]
    rows = [np.ones((3, 2), np.float32)]
    outcomes: list[Sequence[SequenceResult] | errors.ServiceError] = [
        masks,
        errors.Internal("no"),
        logits,
        rows,
        logits,
    ]
    sent = [WireReply(i, outcome) for i, outcome in enumerate(outcomes)]
    assert [reply.id for reply in decode_replies(encode_replies(sent), {4: of([3])}.get)] == [4]


@pytest.mark.parametrize("error", [errors.DeadlineExceeded, errors.EngineLost, errors.Internal, errors.NotReady])
def test_errors_keep_their_kind(error: type[errors.ServiceError]) -> None:
    [reply] = decode_replies(encode_replies([WireReply(1, error("what happened"))]), lambda _: of([3]))
    assert type(reply.outcome) is error
    assert reply.outcome.message == "what happened"


TIMES = st.floats(0, 1e9)
RUNS = st.builds(BatchRan, st.integers(1, 1000), st.integers(1, 65536), st.integers(1, 512), TIMES, TIMES)
TIMELINES = st.builds(Timeline, TIMES, st.none() | TIMES, st.lists(RUNS, max_size=4))


@given(st.lists(st.none() | TIMELINES, min_size=1, max_size=5))
def test_timelines_go_with_their_replies_whatever_these_are(timelines: list[Timeline | None]) -> None:
    outcomes: list[Sequence[SequenceResult] | errors.ServiceError] = [
        [np.array([1.0], np.float32)],
        errors.Internal("no"),
        [MaskScores(np.array([[3, 2]]), np.array([[0.5, 0.25]], np.float32))],
    ]
    sent = [WireReply(i, outcomes[i % 3], timeline) for i, timeline in enumerate(timelines)]
    asked = {i: of([3], masks=[1]) for i in range(len(sent)) if i != 1}  # nobody waits for the second
    received = list(decode_replies(encode_replies(sent), asked.get))
    assert {reply.id: reply.timeline for reply in received} == {i: timelines[i] for i in asked}
