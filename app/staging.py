"""Where a batch's inputs lie on their way to the device: end to end in page-locked memory, copied over in one piece.

A batch is laid out (`lay`) while another one runs, so there are several places, and each is used again. Knows no
runtime and no graph; `app.cuda` has the memory of a GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from app.packing import Feeds

ALIGNMENT: Final = 256
"""Of every input in bytes, which is what cudaMalloc aligns to: no kernel asks for more."""


class DeviceMemory(Protocol):
    """A device's memory, and the host memory that it reads fastest."""

    @property
    def name(self) -> str:
        """As ONNX Runtime calls the device."""

    def allocate_host(self, size: int) -> npt.NDArray[np.uint8]: ...

    def free_host(self, memory: npt.NDArray[np.uint8]) -> None: ...

    def allocate_device(self, size: int) -> int: ...

    def free_device(self, address: int) -> None: ...

    def upload(self, source: npt.NDArray[np.uint8], address: int) -> None:
        """Copy in the order of the stream; `source` must stay as it is until `wait`."""

    def wait(self) -> None:
        """Wait for everything that was asked of the device."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a laid out batch: where it will be on the device, and what it is."""

    address: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


class Place:
    """Room for one batch's inputs, on the host and on the device. It grows to the largest batch and stays."""

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory: Final = memory
        self._host = memory.allocate_host(ALIGNMENT)
        self._address = memory.allocate_device(ALIGNMENT)
        self._used = 0

    def lay(self, feeds: Feeds, dtypes: Mapping[str, np.dtype[np.generic]]) -> dict[str, Input]:
        """Copy inputs into the host memory, in the types that are asked for, and return where each will be.

        Whoever calls it has the place to themselves: nothing that was uploaded from it still runs.
        """
        offsets: dict[str, int] = {}
        end = 0
        for name, dtype in dtypes.items():
            offsets[name] = end
            end += -(-feeds[name].size * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self._make_room(end)
        inputs: dict[str, Input] = {}
        for name, offset in offsets.items():
            values, dtype = feeds[name], dtypes[name]
            room = self._host[offset : offset + values.size * dtype.itemsize]
            np.copyto(room.view(dtype).reshape(values.shape), values, casting="same_kind")
            inputs[name] = Input(self._address + offset, dtype, values.shape)
        self._used = end
        return inputs

    def upload(self) -> None:
        """Copy what was laid out to the device."""
        self._memory.upload(self._host[: self._used], self._address)

    def _make_room(self, size: int) -> None:
        if size <= len(self._host):
            return
        size = 1 << (size - 1).bit_length()
        # One after the other, so that a failure leaves the place as it was.
        host = self._memory.allocate_host(size)
        try:
            address = self._memory.allocate_device(size)
        except Exception:
            self._memory.free_host(host)
            raise
        self._memory.free_host(self._host)
        self._memory.free_device(self._address)
        self._host, self._address = host, address


class Places:
    """The places of one session: one is run from while the other is laid out."""

    def __init__(self, memory: DeviceMemory, count: int = 2) -> None:
        self._free: SimpleQueue[Place] = SimpleQueue()
        for _ in range(count):
            self._free.put(Place(memory))

    def take(self) -> Place:
        """Return a place that nobody uses, once there is one."""
        return self._free.get()

    def give_back(self, place: Place) -> None:
        """Let others have it."""
        self._free.put(place)
