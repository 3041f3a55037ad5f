"""Frames survive however the stream is cut."""

from hypothesis import given
from hypothesis import strategies as st

from app.ipc.frames import FrameReader, frame

FRAMES = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=60)), max_size=8)


@given(frames=FRAMES, cuts=st.lists(st.integers(1, 40), min_size=1))
def test_frames_come_out_as_they_went_in(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(frame(kind, body) for kind, body in frames)
    reader, out, at = FrameReader(), [], 0
    sizes = iter(cuts * (len(stream) + 1))
    while at < len(stream):
        size = next(sizes)
        out += reader.feed(stream[at : at + size])
        at += size
    assert out == frames
