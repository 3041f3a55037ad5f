"""The products of a CPU graph in 8-bit integers.

Weights have one scale per output, computed here. Activations have one scale per token, computed in the graph at run time, as
in ZeroQuant (Yao et al., 2022, section 3.2). Therefore an answer does not depend on the other sequences of the batch, as it
would with DynamicQuantizeMatMul's scale for the whole tensor. Sums of integers are exact, so answers are bit-identical alone
and in a batch.

A few channels of BERT's normalized activations are ten times as large as the others, which leaves few of the 256 steps for
the rest. These channels are scaled down before they are quantized, and their weights scaled up by the same factors, so that
the product does not change: SmoothQuant (Xiao et al., 2023, section 4), with the square root of the ratio of a channel's range
to the median. Ranges are measured on sentences. A text unlike these only loses precision, as values are never clipped.

Embeddings, attention, normalizations and heads stay in fp32.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from app.bundle.sequences import FloatArray
from model_export.checkpoint.families import Activation
from model_export.checkpoint.network import Network
from model_export.graph.builder import CONTRIB
from model_export.graph.cpu import CpuBuilder

LARGEST: Final = 127
TINY: Final = np.float32(1e-30)
"""The smallest scale, for a row of zeros."""

# Activations are unsigned: ONNX Runtime has fast kernels for unsigned by signed integers only.
MIDDLE: Final = 128
# GELU is never below -0.171 and goes far up, ReLU is never below 0: nearly all of the range can be above zero.
LOW: Final = 16
LEAST_ACTIVATION: Final = 0.171


def quantize_weight(weight: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Return int8[inputs, outputs] and the scales float32[outputs] of weights float32[outputs, inputs]."""
    scale = np.maximum(np.abs(weight).max(axis=1) / np.float32(LARGEST), TINY)
    return np.ascontiguousarray(np.rint(weight / scale[:, None]).astype(np.int8).T), scale


def smoothing(largest: FloatArray) -> FloatArray:
    """Return the factors float32[channels] to divide activations by and to multiply their weights with."""
    median = np.median(largest)
    return np.sqrt(np.maximum(largest / median, np.float32(1))) if median > 0 else np.ones_like(largest)


@dataclass(frozen=True, slots=True)
class _Quantized:
    """Tokens in uint8, their scales float32[tokens, 1], their zero point, and what their channels were divided by."""

    tokens: str
    scale: str
    zero_point: str
    factors: FloatArray | None


class QuantizedBuilder(CpuBuilder):
    """Builds graphs in int8. Activations in `ranges` are smoothed by their largest magnitudes, float32[channels]."""

    def __init__(self, network: Network, ranges: Mapping[str, FloatArray]) -> None:
        super().__init__(network)
        self._ranges = ranges
        self._activations: set[str] = set()
        self._quantized: dict[str, _Quantized] = {}

    def _inner(self, x: str, module: str, activation: Activation) -> str:
        out = super()._inner(x, module, activation)
        self._activations.add(out)
        return out

    def _project(self, x: str, module: str) -> str:
        return super()._dense(x, module)  # one small product before the layers, not worth the error

    def _dense(self, x: str, module: str) -> str:
        return self._op("Add", [self._product(x, module), self._bias(module)], f"{module}.biased")

    def _product(self, x: str, module: str) -> str:
        if x not in self._quantized:  # three products of a layer read the same tokens
            self._quantized[x] = self._quantize(x)
        quantized = self._quantized[x]
        weight = self._network.tensors[f"{module}.weight"]
        rounded, scale = quantize_weight(weight if quantized.factors is None else weight * quantized.factors)
        self._initializers[f"{module}.weight"] = rounded
        inputs = [
            quantized.tokens,
            f"{module}.weight",
            self._constant("one", np.ones((), np.float32)),
            self._constant(f"{module}.weight.scale", scale),
            quantized.zero_point,
        ]
        return self._op(
            "Mul", [self._op("MatMulIntegerToFloat", inputs, f"{module}.rows", CONTRIB), quantized.scale], module
        )

    def _quantize(self, x: str) -> _Quantized:
        factors = smoothing(self._ranges[x]) if x in self._ranges else None
        is_activation = x in self._activations
        if factors is not None:
            x = self._op("Mul", [x, self._constant(f"{x}.smoothing", np.reciprocal(factors))], f"{x}.smooth")
        largest = self._op("ReduceMax", [x, self._axis()], f"{x}.max", keepdims=0)
        if is_activation:
            zero_point, name, steps, least = LOW, "low", 255 - LOW, np.float32(LEAST_ACTIVATION / LOW)
        else:
            smallest = self._op("ReduceMin", [x, self._axis()], f"{x}.min", keepdims=0)
            largest = self._op("Max", [largest, self._op("Neg", [smallest], f"{x}.minus_min")], f"{x}.abs_max")
            zero_point, name, steps, least = MIDDLE, "middle", LARGEST, TINY
        self._initializers[name] = np.array(zero_point, np.uint8)
        step = self._constant(f"{name}.step", np.array([1 / steps], np.float32))
        scale = self._op("Mul", [largest, step], f"{x}.range")
        scale = self._op("Max", [scale, self._constant(f"{name}.least", np.array([least]))], f"{x}.scale")
        zero_points = self._op("Expand", [name, self._op("Shape", [scale], f"{x}.tokens")], f"{x}.zero_points")
        tokens = self._op("QuantizeLinear", [x, scale, zero_points], f"{x}.quantized", axis=0)
        return _Quantized(tokens, self._op("Unsqueeze", [scale, self._axis()], f"{x}.row_scale"), name, factors)

    def _axis(self) -> str:
        self._initializers["last_axis"] = np.array([1], np.int64)
        return "last_axis"
