"""Choose the builder of a graph by target and precision."""

from app.bundle import Precision, Target
from model_export.builder import Graph
from model_export.cpu_graph import CpuBuilder
from model_export.cuda_graph import CudaBuilder
from model_export.network import Network
from model_export.quantize import QuantizedBuilder


def build_graph(network: Network, *, target: Target, precision: Precision) -> Graph:
    """Return the graph of a network.

    Raises:
        ExportError: the weights do not fit into the precision.
    """
    if target == "cuda":
        return CudaBuilder(network, precision).build()
    return (QuantizedBuilder if precision == "int8" else CpuBuilder)(network).build()
