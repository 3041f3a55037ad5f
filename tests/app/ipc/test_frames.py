"""Frames survive however the stream is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ipc.frames import HEADER, LARGEST, DamagedFrame, FrameReader, frame


@given(bodies=st.lists(st.binary(max_size=60), max_size=8), cuts=st.lists(st.integers(1, 40), min_size=1))
def test_frames_come_out_as_they_went_in(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(frame, bodies))
    reader, out, at = FrameReader(), [], 0
    sizes = iter(cuts * (len(stream) + 1))
    while at < len(stream):
        size = next(sizes)
        out += reader.feed(stream[at : at + size])
        at += size
    assert out == bodies


def test_a_length_that_no_frame_has_is_refused() -> None:
    reader = FrameReader()
    assert reader.feed(frame(b"whole")) == [b"whole"]
    with pytest.raises(DamagedFrame, match="bytes"):
        reader.feed(HEADER.pack(LARGEST + 1))
