"""How a batch's inputs get into a session and its outputs back: in host memory, or through the device's.

A batch runs in two steps: `launch` returns the function that finishes it. On a device all its work is on the stream by then, so
that the device goes from one batch to the next by itself. Typed by what is used of an `onnxruntime.InferenceSession`; imports nothing of it.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from app.bundle.graph_inputs import Feeds
from app.runtime.cuda import Cuda
from app.runtime.staging import StagingBuffers, Tensor

Values = list[npt.NDArray[Any]]
Finish = Callable[[], Values]
RunOptions = Any
"""An `onnxruntime.RunOptions`, or None."""

_DTYPES: Final[Mapping[str, np.dtype[np.generic]]] = MappingProxyType(
    {"tensor(int64)": np.dtype(np.int64), "tensor(int32)": np.dtype(np.int32), "tensor(float)": np.dtype(np.float32)}
)
_READ_ON_THE_HOST: Final = frozenset({"k"})
"""TopK takes its `k` from host memory."""


class Execution(Protocol):
    """Runs batches of one graph."""

    launches_ahead: bool
    """Whether a batch may be launched before the one before it is finished, and is worth it."""

    @property
    def outputs(self) -> Sequence[str]:
        """The names of all outputs that the graph has."""

    @property
    def threads(self) -> Sequence[int]:
        """How many CPU threads a run may have, from the fewest; empty where another device runs."""

    def launch(self, feeds: Feeds, outputs: Sequence[str], options: RunOptions = None, *, threads: int = 0) -> Finish:
        """Begin to run a batch, and return a function that waits for the outputs, in host memory. Call that once.

        `threads` is one of those that a run may have; 0 is the most.
        """

    def keep(self, threads: Sequence[int]) -> None:
        """Run with no others from now on."""


class HostExecution:
    """Inputs are read where NumPy has them; `launch` does nothing, and the returned function runs the session."""

    launches_ahead = False

    def __init__(self, sessions: Mapping[int, Any], files: object = None) -> None:
        """Take a session for each number of threads, of the same graph, and what holds the files that they have mapped."""
        self.threads: Sequence[int] = sorted(sessions)
        self._sessions = dict(sessions)
        self._files: Final = files
        one = sessions[self.threads[0]]
        self._dtypes: Final = _input_dtypes(one)
        self.outputs = _outputs(one)

    def launch(self, feeds: Feeds, outputs: Sequence[str], options: RunOptions = None, *, threads: int = 0) -> Finish:
        session = self._sessions[threads or self.threads[-1]]
        inputs = {name: feeds[name].astype(dtype, copy=False) for name, dtype in self._dtypes.items()}
        return lambda: list(session.run(list(outputs), inputs, options))

    def keep(self, threads: Sequence[int]) -> None:
        self.threads = sorted(threads)
        self._sessions = {count: self._sessions[count] for count in self.threads}


class DeviceExecution:
    """Inputs go to the device in one copy from page-locked memory; only the requested outputs come back."""

    launches_ahead = True
    threads: Sequence[int] = ()

    def __init__(self, session: Any, memory: Cuda) -> None:  # noqa: ANN401
        """Bind nothing yet.

        Args:
            session: Computes on the stream of `memory`.
            memory: The session's device.
        """
        dtypes = _input_dtypes(session)
        self._session: Final = session
        self.outputs = _outputs(session)
        self._memory: Final = memory
        self._staged: Final = {name: dtype for name, dtype in dtypes.items() if name not in _READ_ON_THE_HOST}
        self._on_host: Final = {name: dtype for name, dtype in dtypes.items() if name in _READ_ON_THE_HOST}
        self._buffers: Final = StagingBuffers(memory)
        self._binding: Final = session.io_binding()

    @property
    def card(self) -> str:
        """The name and the compute capability of the device."""
        return self._memory.card

    def launch(self, feeds: Feeds, outputs: Sequence[str], options: RunOptions = None, *, threads: int = 0) -> Finish:
        """Put a batch on the stream: its inputs' copy, its kernels and its outputs' copies.

        Call it from one thread. `options` must tell ONNX Runtime not to wait for the device. The returned function may be
        called in another thread.
        """
        assert not threads
        buffer = self._buffers.take()
        try:
            inputs = buffer.write(feeds, self._staged)
            buffer.upload()
            results = buffer.download(self._run(feeds, inputs, outputs, options))
        except BaseException:
            try:
                self._memory.wait()  # something may still read the buffer
            finally:
                self._buffers.give_back(buffer)
            raise

        def finish() -> Values:
            try:
                buffer.wait()
                return [result.copy() for result in results]
            finally:
                self._buffers.give_back(buffer)

        return finish

    def keep(self, threads: Sequence[int]) -> None:
        assert not threads

    def _run(
        self, feeds: Feeds, inputs: Mapping[str, Tensor], outputs: Sequence[str], options: RunOptions
    ) -> list[Tensor]:
        """Run the session and return where its outputs are on the device, until something else runs on the stream."""
        binding, device = self._binding, self._memory.name
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        for name, one in inputs.items():
            binding.bind_input(name, device, 0, one.dtype.type, one.shape, one.address)
        on_host = {name: feeds[name].astype(dtype, copy=False) for name, dtype in self._on_host.items()}
        for name, values in on_host.items():
            binding.bind_cpu_input(name, values)
        for name in outputs:
            binding.bind_output(name, device)
        self._session.run_with_iobinding(binding, options)
        return [
            Tensor(value.data_ptr(), _DTYPES[value.data_type()], tuple(value.shape()))
            for value in binding.get_outputs()
        ]


def _input_dtypes(session: Any) -> dict[str, np.dtype[np.generic]]:  # noqa: ANN401
    return {node.name: _DTYPES[node.type] for node in session.get_inputs()}


def _outputs(session: Any) -> list[str]:  # noqa: ANN401
    return [node.name for node in session.get_outputs()]
