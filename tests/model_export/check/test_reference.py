"""The parts of the reference and of the CUDA operators that have an answer of their own."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from model_export.check.reference import erf, gelu, gelu_tanh, sigmoid, softmax
from model_export.check.reference_operators import OPERATORS
from model_export.graph.builder import CONTRIB

Array = npt.NDArray[Any]


def run(kind: str, domain: str, inputs: list[Array], **attributes: Any) -> Array:
    """Run one operator in a graph of its own."""
    names = [f"x{i}" for i in range(len(inputs))]
    node = helper.make_node(kind, names, ["y"], domain=domain, **attributes)
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)
        for name, value in zip(names, inputs, strict=True)
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None)]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(CONTRIB, 1)]
    model = helper.make_model(helper.make_graph([node], "one", infos, outputs), opset_imports=opsets)
    [result] = ReferenceEvaluator(model, new_ops=list(OPERATORS)).run(None, dict(zip(names, inputs, strict=True)))
    return np.asarray(result)


def normal(*shape: int, dtype: type = np.float32) -> Array:
    return np.random.default_rng(7).normal(0, 2, shape).astype(dtype)


def test_erf_is_exact_to_fp32() -> None:
    x = np.concatenate([np.linspace(-7, 7, 20_001), [0.0, -100.0, 1e30, 1e-20]]).astype(np.float32)
    exact = np.array([math.erf(value) for value in x.astype(np.float64)])
    np.testing.assert_allclose(erf(x), exact, rtol=0, atol=1.2e-7)


def test_gelu_and_its_approximation_are_close_but_not_the_same() -> None:
    x = np.linspace(-6, 6, 1001).astype(np.float32)
    exact = np.array([value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x.astype(np.float64)])
    np.testing.assert_allclose(gelu(x), exact, rtol=0, atol=5e-7)
    difference = np.abs(gelu_tanh(x) - exact).max()
    assert 1e-4 < difference < 1e-3


def test_softmax_survives_large_numbers() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 1e4 - math.log(3)]], np.float32)), [[0.75, 0.25]], atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_operators_of_the_feed_forward(dtype: type) -> None:
    x, bias = normal(3, 8, dtype=dtype), normal(8, dtype=dtype)
    wide = x.astype(np.float32) + bias.astype(np.float32)
    for kind, expected in (("BiasGelu", gelu(wide)), ("FastGelu", gelu_tanh(wide))):
        result = run(kind, CONTRIB, [x, bias])
        assert result.dtype == dtype
        np.testing.assert_allclose(result, expected.astype(dtype), rtol=1e-3)


def test_product_in_fp16_sums_in_fp32() -> None:
    """4096 times one is beyond the integers of fp16, each of 4096 additions would be rounded."""
    x, weight = np.full((1, 4096), 1.0009765625, np.float16), np.ones((4096, 2), np.float16)
    np.testing.assert_array_equal(run("MatMul", "", [x, weight]), np.full((1, 2), 4100, np.float16))


def test_skip_layer_normalization_adds_skip_and_bias() -> None:
    x, skip, gamma, beta, bias = normal(4, 8), normal(4, 8) * 3, normal(8), normal(8) + 1, normal(8) * 2
    total = x + skip + bias
    normed = (total - total.mean(-1, keepdims=True)) / np.sqrt(total.var(-1, keepdims=True) + 0.1)
    result = run("SkipLayerNormalization", CONTRIB, [x, skip, gamma, beta, bias], epsilon=0.1)
    np.testing.assert_allclose(result, normed * gamma + beta, rtol=1e-5, atol=1e-5)


# --- com.microsoft.PackedMultiHeadAttention

LENGTHS = np.array([3, 1, 4])
HEADS, HEAD_SIZE = 2, 3
OFFSET = np.array([[0, 1, 2, 4], [8, 9, 10, 11], [3, 5, 6, 7]], np.int32)
CU_SEQLENS = np.array([0, 3, 4, 8], np.int32)


def attention(q: Array, k: Array, v: Array) -> Array:
    """Attend over one sequence, head by head."""
    out = np.empty_like(q)
    for head in range(HEADS):
        part = slice(head * HEAD_SIZE, (head + 1) * HEAD_SIZE)
        out[:, part] = softmax((q[:, part] @ k[:, part].T / math.sqrt(HEAD_SIZE)).astype(np.float32)) @ v[:, part]
    return out


def packed_inputs() -> list[Array]:
    tokens, hidden = LENGTHS.sum(), HEADS * HEAD_SIZE
    x = normal(3, tokens, hidden)
    return [x[0], x[1], x[2], normal(3 * hidden), OFFSET, CU_SEQLENS]


def test_packed_attention_keeps_sequences_apart() -> None:
    inputs = packed_inputs()
    q, k, v = (part + bias for part, bias in zip(inputs[:3], np.split(inputs[3], 3), strict=True))
    ends = np.cumsum(LENGTHS)
    expected = [attention(q[a:b], k[a:b], v[a:b]) for a, b in zip(ends - LENGTHS, ends, strict=True)]
    result = run("PackedMultiHeadAttention", CONTRIB, inputs, num_heads=HEADS)
    np.testing.assert_allclose(result, np.concatenate(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("token_offset", "cu_seqlens"),
    [
        (OFFSET, np.array([0, 3, 4, 7], np.int32)),  # one token too few
        (OFFSET.ravel()[::-1].reshape(3, 4), CU_SEQLENS),  # padding first
        (np.where(OFFSET == 11, 10, OFFSET), CU_SEQLENS),  # a position twice
        (OFFSET.ravel()[[1, 0, *range(2, 12)]].reshape(3, 4), CU_SEQLENS),  # tokens of a row exchanged
        (OFFSET, np.array([0, 2, 4, 8], np.int32)),  # rows of other lengths
    ],
)
def test_packed_attention_refuses_indices_that_contradict_each_other(token_offset: Array, cu_seqlens: Array) -> None:
    inputs = [*packed_inputs()[:4], token_offset, cu_seqlens]
    with pytest.raises(ValueError, match="do not describe one batch"):
        run("PackedMultiHeadAttention", CONTRIB, inputs, num_heads=HEADS)


def test_sigmoid_overflows_nowhere() -> None:
    x = np.array([-1e4, -2.0, 0.0, 2.0, 1e4], np.float32)
    np.testing.assert_allclose(sigmoid(x), [0, 1 / (1 + np.exp(2)), 0.5, 1 / (1 + np.exp(-2)), 1], atol=1e-7)
