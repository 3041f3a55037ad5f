"""Where a batch's inputs and outputs lie on their way to and from a device: end to end in page-locked host memory.

One batch is staged while another one runs, so there are two buffers, and each is used again. Knows no session and no graph.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from app.bundle.graph_inputs import Feeds
from app.runtime.cuda import Cuda

ALIGNMENT: Final = 256
"""Of every tensor in bytes, which is what cudaMalloc aligns to: no kernel asks for more."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in the device's memory."""

    address: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


class StagingBuffer:
    """Room for the inputs and outputs of one batch at a time. It grows to the largest batch and stays."""

    def __init__(self, memory: Cuda) -> None:
        self._memory: Final = memory
        self._host = memory.allocate_host(ALIGNMENT)
        self._address = memory.allocate_device(ALIGNMENT)
        self._outputs = memory.allocate_host(ALIGNMENT)
        self._downloaded: Final = memory.create_event()
        self._used = 0

    def __del__(self) -> None:
        """Free its memory, which is not ONNX Runtime's, when its model is replaced or unloaded."""
        with suppress(Exception):  # of a device that is lost, or memory that could not be had
            self._memory.free_device(self._address)
            self._memory.free_host(self._host)
            self._memory.free_host(self._outputs)

    def write(self, feeds: Feeds, dtypes: Mapping[str, np.dtype[np.generic]]) -> dict[str, Tensor]:
        """Copy inputs into the host memory, in the given types, and return where each will be on the device.

        No batch that was uploaded from this buffer may still run.
        """
        *offsets, end = _offsets(feeds[name].size * dtype.itemsize for name, dtype in dtypes.items())
        self._make_room(end)
        tensors: dict[str, Tensor] = {}
        for (name, dtype), offset in zip(dtypes.items(), offsets, strict=True):
            values = feeds[name]
            room = self._host[offset : offset + values.size * dtype.itemsize]
            np.copyto(room.view(dtype).reshape(values.shape), values, casting="same_kind")
            tensors[name] = Tensor(self._address + offset, dtype, values.shape)
        self._used = end
        return tensors

    def upload(self) -> None:
        """Copy the written inputs to the device."""
        self._memory.upload(self._host[: self._used], self._address)

    def download(self, tensors: Sequence[Tensor]) -> list[npt.NDArray[Any]]:
        """Copy tensors to the host behind what computes them, and return where they will be after `wait`.

        The device may use their memory for what comes later on the stream. The arrays are overwritten by the next batch.
        """
        *offsets, end = _offsets(tensor.size_bytes for tensor in tensors)
        if end > len(self._outputs):
            outputs = self._memory.allocate_host(_next_power_of_two(end))
            self._memory.free_host(self._outputs)
            self._outputs = outputs
        arrays: list[npt.NDArray[Any]] = []
        for tensor, offset in zip(tensors, offsets, strict=True):
            room = self._outputs[offset : offset + tensor.size_bytes]
            self._memory.download(tensor.address, room)
            arrays.append(room.view(tensor.dtype).reshape(tensor.shape))
        self._memory.record_event(self._downloaded)
        return arrays

    def wait(self) -> None:
        """Wait until the download is complete."""
        self._memory.synchronize_event(self._downloaded)

    def _make_room(self, size: int) -> None:
        if size <= len(self._host):
            return
        size = _next_power_of_two(size)
        # One after the other, so that a failure leaves the buffer as it was.
        host = self._memory.allocate_host(size)
        try:
            address = self._memory.allocate_device(size)
        except Exception:
            self._memory.free_host(host)
            raise
        self._memory.free_host(self._host)
        self._memory.free_device(self._address)
        self._host, self._address = host, address


class StagingBuffers:
    """The buffers of one session: while a batch runs from one, the next is written into the other."""

    def __init__(self, memory: Cuda, count: int = 2) -> None:
        self._free: SimpleQueue[StagingBuffer] = SimpleQueue()
        for _ in range(count):
            self._free.put(StagingBuffer(memory))

    def take(self) -> StagingBuffer:
        """Return a free buffer, waiting for one if need be."""
        return self._free.get()

    def give_back(self, buffer: StagingBuffer) -> None:
        """Make a buffer free again."""
        self._free.put(buffer)


def _offsets(sizes_bytes: Iterable[int]) -> Iterator[int]:
    """Yield where each of these begins if they are laid end to end, aligned, and where the last one ends."""
    end = 0
    yield end
    for size in sizes_bytes:
        end += -(-size // ALIGNMENT) * ALIGNMENT
        yield end


def _next_power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
