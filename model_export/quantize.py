"""The products of a CPU graph in 8-bit integers.

Weights have a scale for each output, found here. Activations have a scale for each token, found in the graph by each run:
a token's answer then depends on no calibration data, and not on its neighbours in the batch. (Per-tensor scales, such
as DynamicQuantizeMatMul's, change with the company.) Sums of integers are exact, so answers are the same to the last
bit alone and in company. Tokens and outputs are those of ZeroQuant (Yao et al., 2022), section 3.2.

Embeddings, attention, normalizations and heads stay in fp32.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from model_export.builder import CONTRIB
from model_export.cpu_graph import CpuBuilder
from model_export.families import Activation
from model_export.network import FloatArray, Network

LARGEST: Final = 127
TINY: Final = np.float32(1e-30)
"""The least scale: a row of zeros has one too."""

# Activations are unsigned: ONNX Runtime has fast kernels for unsigned by signed integers only.
MIDDLE: Final = 128
# GELU is never below -0.171 and goes far up, ReLU is never below 0: nearly all of the range can be above zero.
LOW: Final = 16
LEAST_ACTIVATION: Final = 0.171


def quantize_weight(weight: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Return int8[inputs, outputs] and the scales float32[outputs] of weights float32[outputs, inputs]."""
    scale = np.maximum(np.abs(weight).max(axis=1) / LARGEST, TINY)
    return np.ascontiguousarray(np.rint(weight / scale[:, None]).astype(np.int8).T), scale


class QuantizedBuilder(CpuBuilder):
    """Builds graphs in int8."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self._activations: set[str] = set()
        self._quantized: dict[str, tuple[str, str, str]] = {}

    def _inner(self, x: str, module: str, activation: Activation) -> str:
        out = super()._inner(x, module, activation)
        self._activations.add(out)
        return out

    def _project(self, x: str, module: str) -> str:
        return super()._dense(x, module)  # one small product before all layers: not worth its error

    def _dense(self, x: str, module: str) -> str:
        return self._op("Add", [self._product(x, module), self._bias(module)], f"{module}.biased")

    def _product(self, x: str, module: str) -> str:
        quantized, scale, zero_point = self._quantize(x)
        weight, weight_scale = quantize_weight(self._network.tensors[f"{module}.weight"])
        self._initializers[f"{module}.weight"] = weight
        inputs = [
            quantized,
            f"{module}.weight",
            self._constant("one", np.ones((), np.float32)),
            self._constant(f"{module}.weight.scale", weight_scale),
            zero_point,
        ]
        rows = self._op("MatMulIntegerToFloat", inputs, f"{module}.rows", CONTRIB)
        return self._op("Mul", [rows, scale], module)

    def _quantize(self, x: str) -> tuple[str, str, str]:
        """Return the tokens in uint8, their scales float32[tokens, 1], and the zero point. Each tensor is quantized once."""
        if x not in self._quantized:
            largest = self._op("ReduceMax", [x, self._axis()], f"{x}.max", keepdims=0)
            if x in self._activations:
                zero_point, name, steps, least = LOW, "low", 255 - LOW, np.float32(LEAST_ACTIVATION / LOW)
            else:
                smallest = self._op("ReduceMin", [x, self._axis()], f"{x}.min", keepdims=0)
                largest = self._op("Max", [largest, self._op("Neg", [smallest], f"{x}.minus_min")], f"{x}.abs_max")
                zero_point, name, steps, least = MIDDLE, "middle", LARGEST, TINY
            self._initializers[name] = np.array(zero_point, np.uint8)
            step = self._constant(f"{name}.step", np.array([1 / steps], np.float32))
            scale = self._op("Mul", [largest, step], f"{x}.range")
            scale = self._op("Max", [scale, self._constant(f"{name}.least", np.array([least]))], f"{x}.scale")
            points = self._op("Expand", [name, self._op("Shape", [scale], f"{x}.tokens")], f"{x}.zero_points")
            quantized = self._op("QuantizeLinear", [x, scale, points], f"{x}.quantized", axis=0)
            self._quantized[x] = quantized, self._op("Unsqueeze", [scale, self._axis()], f"{x}.row_scale"), name
        return self._quantized[x]

    def _axis(self) -> str:
        self._initializers["last_axis"] = np.array([1], np.int64)
        return "last_axis"
