"""Long texts in windows: the same that the tokenizers library makes, and no more than a server takes."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bundle.files import load_bundle
from app.errors import ValidationFailed
from app.tasks.windows import MAX_WINDOWS, count_windows, prepared_windows, refuse_many, spread, window
from app.text.tokenizer import Direction, Tokenizer
from tests.app import library
from tests.conftest import BundleOf

LONG = " ".join(["The cat sat on the mat, and it was late."] * 12)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 50), st.data())
def test_windows_share_the_stride_and_leave_nothing_out(
    first: int, tokens: int, room: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(0, room - 1))
    text = range(first, first + tokens)
    parts = spread(text, room, stride)
    assert len(parts) == count_windows(tokens, room, stride)
    assert parts[0].start == text.start
    assert parts[-1].stop == text.stop
    assert all(len(part) == room for part in parts[:-1])
    assert len(parts[-1]) <= room
    assert all(last.stop - following.start == stride for last, following in pairwise(parts))


@given(st.integers(0, 99), st.integers(0, 200), st.integers(1, 50), st.data())
def test_windows_from_the_end_mirror_those_from_the_start(
    first: int, tokens: int, room: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(0, room - 1))
    text = range(first, first + tokens)
    parts = spread(text, room, stride, "left")
    assert [len(part) for part in parts] == [len(part) for part in spread(text, room, stride)]
    assert all(part.step == 1 for part in parts)
    assert (parts[-1].start, parts[0].stop) == (text.start, text.stop)
    assert all(following.stop - last.start == stride for last, following in pairwise(parts))


@pytest.mark.parametrize("direction", ["right", "left"])
@pytest.mark.parametrize("stride", [0, 3, 17, 37])
@pytest.mark.parametrize("name", ["bert-entities", "roberta-entities", "xlm-roberta-entities"])
def test_windows_equal_the_tokenizers_librarys(
    bundle_of: BundleOf, name: str, stride: int, direction: Direction
) -> None:
    bundle = load_bundle(bundle_of(name))
    tokenizer = Tokenizer(bundle)
    encoding = library.cutting(bundle, direction, stride).encode(LONG)
    [whole] = tokenizer.encode_located([LONG], cut=None)
    [text] = whole.texts
    before, after = np.arange(text.start), np.arange(text.stop, len(whole.input_ids))
    room = tokenizer.max_length - len(before) - len(after)
    mine = [window(whole, before, part, after) for part in spread(text, room, stride, direction)]
    assert len(mine) > 3
    for one, other in zip(mine, [encoding, *encoding.overflowing], strict=True):
        assert one.sequence.input_ids.tolist() == other.ids
        assert one.sequence.token_type_ids.tolist() == other.type_ids
        inner = slice(one.begin, one.begin + len(one.offsets))
        assert [tuple(pair) for pair in one.offsets.tolist()] == other.offsets[inner]
        assert one.words.tolist() == other.word_ids[inner]
        assert set(other.word_ids[: one.begin] + other.word_ids[one.begin + len(one.offsets) :]) == {None}


def test_too_many_windows_are_refused() -> None:
    refuse_many(MAX_WINDOWS)
    with pytest.raises(
        ValidationFailed, match=rf"make {MAX_WINDOWS + 1} windows; at most {MAX_WINDOWS} are allowed.*stride"
    ):
        refuse_many(MAX_WINDOWS + 1)


def test_sequences_are_those_of_all_windows_in_order(bundle_of: BundleOf) -> None:
    wholes = Tokenizer(load_bundle(bundle_of("bert-entities"))).encode_located(["The cat", "sat on the mat"], cut=None)
    none = np.empty(0, np.int64)
    windows = [[window(one, none, part, none) for part in spread(one.texts[0], 2, 1)] for one in wholes]
    prepared = prepared_windows(windows, 1)
    assert prepared.sequences == [one.sequence for some in windows for one in some]
    assert (prepared.tokens, prepared.truncated) == (2 * len(prepared.sequences), 1)
