"""A second implementation of BERT, in NumPy, one sequence at a time. Every exported graph is compared with it.

It follows the papers' formulas, without batches, fusion or packing, and shares only the weights with `graph`:
attention and the position-wise feed-forward from "Attention Is All You Need" (Vaswani et al., 2017, sections 3.2, 3.3),
embeddings, pooler and heads from BERT (Devlin et al., 2018), RoBERTa (Liu et al., 2019), DistilBERT (Sanh et al., 2019)
and ELECTRA (Clark et al., 2020), mean pooling from Sentence-BERT (Reimers and Gurevych, 2019, section 3), GELU and its
approximation from Hendrycks and Gimpel (2016).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from app.bundle.sequences import FloatArray, TokenArray, TokenSequence
from model_export.checkpoint.families import Activation
from model_export.checkpoint.network import Network
from model_export.errors import ExportError

_STEPS: Final = 1024
_REACH: Final = 6  # beyond 4, erf is 1 in fp32
_GRID: Final = np.arange(-_REACH * _STEPS, _REACH * _STEPS + 1) / _STEPS
_ERF: Final = np.array([math.erf(x) for x in _GRID], np.float32)
_SLOPE: Final = (2 / math.sqrt(math.pi) * np.exp(-(_GRID**2))).astype(np.float32)


def erf(x: FloatArray) -> FloatArray:
    """Return the error function: the second-order Taylor polynomial around the nearest 1/1024, exact to fp32."""
    clipped = np.clip(x, -_REACH, _REACH)
    nearest = np.rint(clipped * np.float32(_STEPS))
    point = nearest / np.float32(_STEPS)
    step = clipped - point
    with np.errstate(invalid="ignore"):  # a NaN has no nearest point; its step makes the result NaN at any
        index = nearest.astype(np.int32) + _REACH * _STEPS
    value, slope = (table.take(index, mode="clip") for table in (_ERF, _SLOPE))
    return np.asarray(value + slope * step * (1 - point * step))


def gelu(x: FloatArray) -> FloatArray:
    """Return x times the standard normal distribution function of x."""
    return np.asarray(x * (0.5 * (1 + erf(x / math.sqrt(2)))))


def gelu_tanh(x: FloatArray) -> FloatArray:
    """Return the paper's approximation of GELU."""
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


ACTIVATIONS: Final[Mapping[Activation, Callable[[FloatArray], FloatArray]]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
}


def softmax(x: FloatArray) -> FloatArray:
    """Return the softmax along the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def sigmoid(x: FloatArray) -> FloatArray:
    """Return 1 / (1 + exp(-x)), written with tanh so that nothing overflows."""
    return np.asarray((1 + np.tanh(x / 2)) / 2)


def reference_answers(network: Network, batch: Sequence[TokenSequence], *, is_exact: bool = False) -> list[FloatArray]:
    """Return what a network answers to each sequence; the shapes are those of `tasks.ResultKind`.

    Args:
        network: The network.
        batch: The sequences.
        is_exact: Whether to compute in fp64, of which fp32 rounds every result. It takes several times as long.

    Raises:
        ExportError: an answer is not finite.
    """
    reference = _Reference(network, np.float64 if is_exact else np.float32)
    with np.errstate(all="ignore"):  # an overflow ends as infinity or NaN
        answers = [reference.answer(sequence) for sequence in batch]
    if not all(np.isfinite(answer).all() for answer in answers):
        raise ExportError(
            "The checkpoint's answers contain infinity or NaN: its weights are damaged. Train or download it again."
        )
    return answers


class _Reference:
    """The network of a checkpoint, for one sequence at a time."""

    def __init__(self, network: Network, precision: type[np.floating[Any]]) -> None:
        self._network = network
        self._precision = precision
        self._config = network.config
        self._tensors = network.tensors

    def answer(self, sequence: TokenSequence) -> FloatArray:
        hidden = self._encode(sequence.input_ids, sequence.token_type_ids)
        match self._network.task.result:
            case "labels":
                return self._dense(self._transformed(hidden[0]), "head.output")
            case "token-labels" | "span":
                return self._dense(hidden, "head.output")
            case "masked-tokens":
                transformed = self._norm(self._transformed(hidden[sequence.masks]), "head.norm")
                return softmax(self._dense(transformed, "head.output"))
            case "embedding":
                return self._after_pooling(hidden[0] if self._network.pooling == "cls" else hidden.mean(axis=0))

    def _after_pooling(self, pooled: FloatArray) -> FloatArray:
        x = pooled
        for layer in self._network.after_pooling:
            if layer == "normalize":
                x = x / np.maximum(np.linalg.norm(x), 1e-12)  # a row of zeros stays as it is
            else:
                x = self._dense(x, layer.name)
                x = ACTIVATIONS[layer.activation](x) if layer.activation else x
        return np.asarray(x)

    def _transformed(self, hidden: FloatArray) -> FloatArray:
        return ACTIVATIONS[self._network.head_activation](self._dense(hidden, "head.dense"))

    def _encode(self, input_ids: TokenArray, token_type_ids: TokenArray) -> FloatArray:
        x = self._embed(input_ids, token_type_ids)
        activation = ACTIVATIONS[self._config.activation]
        for i in range(self._config.layers):
            layer = f"layer.{i}."
            attended = self._dense(self._attend(x, layer), f"{layer}attention_output")
            x = self._norm(x + attended, f"{layer}attention_norm")
            inner = activation(self._dense(x, f"{layer}intermediate"))
            x = self._norm(x + self._dense(inner, f"{layer}output"), f"{layer}output_norm")
        return x

    def _embed(self, input_ids: TokenArray, token_type_ids: TokenArray) -> FloatArray:
        tensors, offset = self._tensors, self._config.position_offset
        positions = np.arange(len(input_ids))
        if offset:  # a pad token has its own position and is not counted
            counts = input_ids != offset - 1
            positions = np.cumsum(counts) * counts + offset - 1
        x = tensors["word_embeddings.weight"][input_ids] + tensors["position_embeddings.weight"][positions]
        if "token_type_embeddings.weight" in tensors:
            types = token_type_ids if self._network.uses_token_types else np.zeros_like(input_ids)
            x = x + tensors["token_type_embeddings.weight"][types]
        x = self._norm(x.astype(self._precision, copy=False), "embeddings_norm")  # what follows keeps the precision
        return self._dense(x, "embeddings_projection") if "embeddings_projection.weight" in tensors else x

    def _attend(self, x: FloatArray, layer: str) -> FloatArray:
        heads = self._config.attention_heads

        def split(part: str) -> FloatArray:
            return self._dense(x, layer + part).reshape(len(x), heads, -1).transpose(1, 0, 2)

        q, k, v = split("query"), split("key"), split("value")
        weights = softmax(q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]))
        return (weights @ v).transpose(1, 0, 2).reshape(len(x), -1)

    def _dense(self, x: FloatArray, name: str) -> FloatArray:
        return x @ self._tensors[f"{name}.weight"].T + self._tensors[f"{name}.bias"]

    def _norm(self, x: FloatArray, name: str) -> FloatArray:
        centered = x - x.mean(axis=-1, keepdims=True)
        variance = (centered**2).mean(axis=-1, keepdims=True)
        normed = centered / np.sqrt(variance + np.float32(self._config.norm_epsilon))
        return np.asarray(normed * self._tensors[f"{name}.weight"] + self._tensors[f"{name}.bias"])
