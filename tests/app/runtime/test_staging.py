"""How inputs are laid out for their way to a device, and outputs for their way back."""

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bundle.graph_inputs import Feeds
from app.runtime.staging import ALIGNMENT, StagingBuffer, StagingBuffers, Tensor
from tests.app.memory import HostMemory

INT32, INT64 = np.dtype(np.int32), np.dtype(np.int64)


def on_the_device(one: Tensor) -> Any:
    """Return what the device sees of an input."""
    size = int(np.prod(one.shape)) * one.dtype.itemsize
    return np.frombuffer(ctypes.string_at(one.address, size), one.dtype).reshape(one.shape)


def batch(*sizes: int) -> dict[str, np.ndarray[Any, Any]]:
    return {f"input{i}": np.arange(size) + 1000 * i for i, size in enumerate(sizes)}


@given(st.lists(st.lists(st.integers(0, 400), min_size=1, max_size=5), min_size=1, max_size=6))
def test_a_buffer_holds_one_batch_after_another(batches: list[list[int]]) -> None:
    memory = HostMemory()
    buffer = StagingBuffer(memory)
    for sizes in batches:
        feeds = batch(*sizes)
        dtypes: Mapping[str, Any] = {name: (INT32, INT64)[i % 2] for i, name in enumerate(feeds)}
        inputs = buffer.write(feeds, dtypes)
        buffer.upload()
        for name, one in inputs.items():
            assert (one.dtype, one.shape, one.address % ALIGNMENT) == (dtypes[name], feeds[name].shape, 0)
            np.testing.assert_array_equal(on_the_device(one), feeds[name])
    assert (len(memory.host), len(memory.device)) == (2, 1)
    assert len(memory.uploads) == len(batches)


def test_shapes_survive_staging() -> None:
    buffer = StagingBuffer(HostMemory())
    feeds: Feeds = {"token_offset": np.arange(12, dtype=np.int32).reshape(3, 4)}
    [one] = buffer.write(feeds, {"token_offset": INT32}).values()
    buffer.upload()
    np.testing.assert_array_equal(on_the_device(one), feeds["token_offset"])


def test_only_the_used_bytes_are_copied() -> None:
    memory = HostMemory()
    buffer = StagingBuffer(memory)
    assert list(buffer.write(batch(3, 5000), {"input0": INT64})) == ["input0"]
    buffer.upload()
    assert memory.uploads == [ALIGNMENT]


def test_a_buffer_that_cannot_grow_stays_as_it_was() -> None:
    memory = HostMemory(limit=1024)
    buffer = StagingBuffer(memory)
    with pytest.raises(MemoryError):
        buffer.write(batch(1000), {"input0": INT64})
    assert (len(memory.host), len(memory.device)) == (2, 1)
    [one] = buffer.write(batch(100), {"input0": INT64}).values()
    buffer.upload()
    np.testing.assert_array_equal(on_the_device(one), np.arange(100))


@given(st.lists(st.lists(st.integers(0, 400), min_size=1, max_size=3), min_size=1, max_size=6))
def test_outputs_are_there_after_waiting(batches: list[list[int]]) -> None:
    memory = HostMemory()
    buffer = StagingBuffer(memory)
    for sizes in batches:
        outputs = list(batch(*sizes).values())
        tensors = [Tensor(values.ctypes.data, INT64, values.shape) for values in outputs]
        arrays = buffer.download(tensors)
        expected = [values.copy() for values in outputs]
        for values in outputs:
            values[:] = -1  # as the device may use their memory for the next batch
        buffer.wait()
        for values, array in zip(expected, arrays, strict=True):
            np.testing.assert_array_equal(array, values)
    assert len(memory.host) == 2


def test_a_value_that_does_not_fit_its_type_is_refused() -> None:
    with pytest.raises(TypeError, match="same_kind"):
        StagingBuffer(HostMemory()).write({"input0": np.array([0.5])}, {"input0": INT64})


def test_each_buffer_is_used_by_one_at_a_time() -> None:
    buffers = StagingBuffers(HostMemory(), 2)
    first, second = buffers.take(), buffers.take()
    assert first is not second
    buffers.give_back(first)
    assert buffers.take() is first
