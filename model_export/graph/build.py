"""Choose the graph builder by target and precision."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from app.bundle.manifest import Precision, Target
from model_export.checkpoint.network import FloatArray, Network
from model_export.graph.builder import Graph
from model_export.graph.cpu import CpuBuilder
from model_export.graph.cuda import CudaBuilder
from model_export.graph.int8 import QuantizedBuilder

_UNKNOWN: Final[Mapping[str, FloatArray]] = MappingProxyType({})


def build_graph(
    network: Network, *, target: Target, precision: Precision, ranges: Mapping[str, FloatArray] = _UNKNOWN
) -> Graph:
    """Return the graph of a network.

    Args:
        network: The weights.
        target: The kind of device.
        precision: Not every target has every precision.
        ranges: For int8, the largest magnitude of each channel, by activation; see `model_export.graph.int8`.

    Raises:
        ExportError: the weights do not fit into the precision.
    """
    if target == "cuda":
        return CudaBuilder(network, precision).build()
    if precision == "int8":
        return QuantizedBuilder(network, ranges).build()
    return CpuBuilder(network).build()
