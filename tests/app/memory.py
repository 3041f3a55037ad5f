"""A device whose memory is the host's, so that ONNX Runtime's CPU sessions can be run as those of a GPU are."""

import ctypes

import numpy as np

from app.runtime.cuda import Bytes, Cuda
from app.runtime.staging import ALIGNMENT


class HostMemory(Cuda):
    """Counts what is allocated and copied; fails to allocate over a limit. What was downloaded is there after the event only."""

    name = "cpu"
    stream = 77  # type: ignore[misc] # a constant here, as there is none
    card = "Host of compute capability 0.0"

    def __init__(self, limit: int = 1 << 30) -> None:
        self.limit = limit
        self.host: dict[int, Bytes] = {}
        self.device: dict[int, Bytes] = {}
        self.uploads: list[int] = []
        self.waits = 0
        self._marks = 0
        self._unrecorded: list[tuple[int, Bytes]] = []
        self._recorded: dict[int, list[tuple[int, Bytes]]] = {}

    def allocate_host(self, size: int) -> Bytes:
        memory = np.full(size, 0xEE, np.uint8)
        self.host[memory.ctypes.data] = memory
        return memory

    def free_host(self, memory: Bytes) -> None:
        del self.host[memory.ctypes.data]

    def allocate_device(self, size: int) -> int:
        if size > self.limit:
            raise MemoryError(f"out of memory: {size} bytes")
        memory = np.full(size + ALIGNMENT, 0xEE, np.uint8)
        address = int(-(-memory.ctypes.data // ALIGNMENT) * ALIGNMENT)
        self.device[address] = memory
        return address

    def free_device(self, address: int) -> None:
        del self.device[address]

    def upload(self, source: Bytes, address: int) -> None:
        ctypes.memmove(address, source.ctypes.data, source.nbytes)
        self.uploads.append(source.nbytes)

    def download(self, address: int, destination: Bytes) -> None:
        # The session may use its memory again at once, so it is read now; but nobody may look before the event.
        content = np.frombuffer(ctypes.string_at(address, destination.nbytes), np.uint8)
        self._unrecorded.append((destination.ctypes.data, content))

    def create_event(self) -> int:
        self._marks += 1
        return self._marks

    def record_event(self, event: int) -> None:
        self._recorded[event], self._unrecorded = self._unrecorded, []

    def synchronize_event(self, event: int) -> None:
        for address, content in self._recorded.pop(event):
            ctypes.memmove(address, content.ctypes.data, content.nbytes)

    def wait(self) -> None:
        self.waits += 1
