"""How a session is given a batch's inputs and gives its outputs back: from host memory, or from the device's own.

Both take inputs in two steps: `prepare` may be called while another batch runs, `execute` in the device's thread. Typed
by what is used of an `onnxruntime.InferenceSession`; imports nothing of it.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from app.packing import Feeds
from app.staging import DeviceMemory, Places

Values = list[npt.NDArray[Any]]
Execute = Callable[[], Values]
RunOptions = Any
"""An `onnxruntime.RunOptions`, or None."""

_DTYPES: Final[Mapping[str, type[np.generic]]] = MappingProxyType(
    {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
)
_READ_ON_THE_HOST: Final = frozenset({"k"})
"""TopK takes its `k` from host memory."""


class Execution(Protocol):
    """Runs batches in one session."""

    packs_ahead: bool
    """Whether `prepare` while another batch runs is worth a thread."""

    def prepare(self, feeds: Feeds, outputs: Sequence[str], options: RunOptions = None) -> Execute:
        """Lay out a batch. What is returned runs it, once, and returns the outputs in host memory."""


class HostExecution:
    """Inputs are read where NumPy has them."""

    packs_ahead = False

    def __init__(self, session: Any) -> None:  # noqa: ANN401
        self._session: Final = session
        self._dtypes: Final = _input_dtypes(session)

    def prepare(self, feeds: Feeds, outputs: Sequence[str], options: RunOptions = None) -> Execute:
        inputs = {name: feeds[name].astype(dtype, copy=False) for name, dtype in self._dtypes.items()}
        return lambda: list(self._session.run(list(outputs), inputs, options))


class DeviceExecution:
    """Inputs go to the device in one copy from page-locked memory; only the outputs asked for come back."""

    packs_ahead = True

    def __init__(self, session: Any, memory: DeviceMemory) -> None:  # noqa: ANN401
        """Bind nothing yet.

        Args:
            session: Computes on the stream of `memory`.
            memory: The session's device.
        """
        dtypes = _input_dtypes(session)
        self._session: Final = session
        self._memory: Final = memory
        self._staged: Final = {name: dtype for name, dtype in dtypes.items() if name not in _READ_ON_THE_HOST}
        self._on_host: Final = {name: dtype for name, dtype in dtypes.items() if name in _READ_ON_THE_HOST}
        self._places: Final = Places(memory)
        self._binding: Final = session.io_binding()

    def prepare(self, feeds: Feeds, outputs: Sequence[str], options: RunOptions = None) -> Execute:
        place = self._places.take()
        try:
            inputs = place.lay(feeds, self._staged)
        except BaseException:
            self._places.give_back(place)
            raise

        def execute() -> Values:
            try:
                place.upload()
                binding = self._binding
                binding.clear_binding_inputs()
                binding.clear_binding_outputs()
                for name, one in inputs.items():
                    binding.bind_input(name, self._memory.name, 0, one.dtype.type, one.shape, one.address)
                for name, dtype in self._on_host.items():
                    binding.bind_cpu_input(name, feeds[name].astype(dtype, copy=False))
                for name in outputs:
                    binding.bind_output(name, "cpu")
                self._session.run_with_iobinding(binding, options)
                return list(binding.copy_outputs_to_cpu())
            except BaseException:
                self._memory.wait()  # whatever still reads the place
                raise
            finally:
                self._places.give_back(place)

        return execute


def _input_dtypes(session: Any) -> dict[str, np.dtype[np.generic]]:  # noqa: ANN401
    return {node.name: np.dtype(_DTYPES[node.type]) for node in session.get_inputs()}
