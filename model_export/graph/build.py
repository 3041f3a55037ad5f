"""Choose the graph builder by target and precision."""

from collections.abc import Mapping

from app.bundle.manifest import Precision, Target
from app.bundle.sequences import FloatArray
from model_export.checkpoint.network import Network
from model_export.graph.builder import Graph
from model_export.graph.cpu import CpuBuilder
from model_export.graph.cuda import CudaBuilder
from model_export.graph.int8 import QuantizedBuilder


def build_graph(
    network: Network, *, target: Target, precision: Precision, ranges: Mapping[str, FloatArray] | None = None
) -> Graph:
    """Return the graph of a network.

    Args:
        network: The weights.
        target: The kind of device.
        precision: For CUDA fp16 or fp32, for a CPU fp32 or int8.
        ranges: For int8, the largest magnitude of each channel, by activation; see `model_export.graph.int8`.

    Raises:
        InaccurateVariant: the weights do not fit into the precision.
    """
    if target == "cuda":
        return CudaBuilder(network, precision).build()
    if precision == "int8":
        return QuantizedBuilder(network, ranges or {}).build()
    return CpuBuilder(network).build()
