"""NumPy implementations of the CUDA graphs' operators, for `onnx.reference` on machines without a GPU.

Written from the operators' specifications (docs/ContribOperators.md in ONNX Runtime's repository). As on tensor cores,
sums are computed in fp32 and each result is rounded to the graph's type.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx.reference.op_run import OpRun

from model_export.check.reference import gelu, gelu_tanh, softmax
from model_export.graph.builder import CONTRIB

Array = npt.NDArray[Any]
Result = tuple[Array]


def _wide(x: Array) -> Array:
    return x.astype(np.float32, copy=False)


class PackedMultiHeadAttention(OpRun):
    """Attention over packed tokens.

    `token_offset` holds the positions of the tokens in the padded batch, then those of the padding; `cu_seqlens` holds the
    cumulative lengths of the rows. Some GPU kernels read the first, others the second, so this checks that they agree.
    """

    op_domain = CONTRIB

    def _run(  # noqa: PLR0917  # the operator's inputs
        self,
        query: Array,
        key: Array,
        value: Array,
        bias: Array | None,
        token_offset: Array,
        cu_seqlens: Array,
        num_heads: int | None = None,
        scale: float | None = None,
    ) -> Result:
        assert num_heads is not None
        tokens, hidden = query.shape
        rows, columns = token_offset.shape
        positions, padding = np.split(token_offset.ravel(), [tokens])
        is_token = np.arange(columns) < np.diff(cu_seqlens)[:, None]
        if not (np.array_equal(positions, np.flatnonzero(is_token)) and set(padding) == set(np.flatnonzero(~is_token))):
            raise ValueError("token_offset and cu_seqlens do not describe one batch.")
        padded = np.full((3, rows * columns, hidden), np.nan, np.float32)  # so that reading padding shows
        for part, packed in enumerate((query, key, value)):
            padded[part, positions] = _wide(packed)
            if bias is not None:
                padded[part, positions] += _wide(bias[part * hidden : (part + 1) * hidden])
        q, k, v = padded.reshape(3, rows, columns, num_heads, -1).transpose(0, 1, 3, 2, 4)
        scale = scale or float(q.shape[-1]) ** -0.5
        out = np.full((rows, columns, hidden), np.nan, np.float32)
        for row, length in enumerate(np.diff(cu_seqlens)):
            weights = softmax(q[row, :, :length] @ k[row, :, :length].transpose(0, 2, 1) * np.float32(scale))
            out[row, :length] = (weights @ v[row, :, :length]).transpose(1, 0, 2).reshape(length, hidden)
        return (out.reshape(-1, hidden)[positions].astype(query.dtype),)


class SkipLayerNormalization(OpRun):
    """Layer normalization of the sum of the input, the skip and the bias."""

    op_domain = CONTRIB

    def _run(  # noqa: PLR0917
        self, x: Array, skip: Array, gamma: Array, beta: Array, bias: Array | None = None, epsilon: float | None = None
    ) -> Result:
        total = _wide(x) + _wide(skip)
        if bias is not None:
            total = total + _wide(bias)
        centered = total - total.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centered**2).mean(axis=-1, keepdims=True) + np.float32(epsilon))
        return ((centered / deviation * _wide(gamma) + _wide(beta)).astype(x.dtype),)


class BiasGelu(OpRun):
    """The exact GELU of the sum."""

    op_domain = CONTRIB

    def _run(self, x: Array, bias: Array) -> Result:
        return (gelu(_wide(x) + _wide(bias)).astype(x.dtype),)


class FastGelu(OpRun):
    """The tanh approximation of GELU, of the sum."""

    op_domain = CONTRIB

    def _run(self, x: Array, bias: Array) -> Result:
        return (gelu_tanh(_wide(x) + _wide(bias)).astype(x.dtype),)


class MatMul(OpRun):
    """The product through BLAS, which NumPy does not use for fp16."""

    op_domain = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self._narrow: Array | None = None
        self._weight: Array | None = None

    def _run(self, x: Array, weight: Array) -> Result:
        if self._narrow is not weight:  # widened once: it is the same array in every run
            self._narrow, self._weight = weight, _wide(weight)
        return ((_wide(x) @ self._weight).astype(x.dtype),)


OPERATORS: Final = (PackedMultiHeadAttention, SkipLayerNormalization, BiasGelu, FastGelu, MatMul)
