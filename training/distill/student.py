"""A student's network, which begins with weights of its teacher."""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from training.errors import TrainingError

Indices = Any
"""int64[kept]"""

# Of BERT's families and of DistilBERT.
_LAYER: Final = re.compile(r"\blayer\.(\d+)\.")
_INNER: Final = re.compile(r"(intermediate\.dense|ffn\.lin1)\.(weight|bias)$")
_FROM_INNER: Final = re.compile(r"((?<!attention\.)output\.dense|ffn\.lin2)\.weight$")
_HEADS: Final = re.compile(r"attention\.(self\.(query|key|value)|[qkv]_lin)\.(weight|bias)$")
_FROM_HEADS: Final = re.compile(r"attention\.(output\.dense|out_lin)\.weight$")


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a student."""

    layers: int
    width: int

    def __str__(self) -> str:
        return f"{self.layers}x{self.width}"


def check_shape(shape: Shape, teacher: PreTrainedModel) -> None:
    """Check that a student may have this shape.

    Raises:
        TrainingError: it is larger than its teacher, or its width is no multiple of the size of a head.
    """
    config = teacher.config
    layers, width, head = config.num_hidden_layers, config.hidden_size, config.hidden_size // config.num_attention_heads
    if shape.layers > layers or shape.width > width:
        raise TrainingError(f"a student of {shape} is larger than its teacher of {layers}x{width}.")
    if shape == Shape(layers, width):
        raise TrainingError(f"a student of {shape} is as large as its teacher.")
    if shape.width % head:
        raise TrainingError(f"a student's --hidden-size is a multiple of {head}, the size of its teacher's heads.")
    if getattr(config, "embedding_size", width) != width and shape.width != width:
        raise TrainingError(
            "a teacher whose embeddings are narrower than its layers has students of its own width only."
        )


def taught_layers(layers: int, of: int) -> list[int]:
    """Return the teacher's layers that a student starts from: the last one of each of as many groups.

    What a layer of the student answers is then what is asked of it: the hidden states behind that group.
    """
    return [round((i + 1) * of / layers) - 1 for i in range(layers)]


def make_student(teacher: PreTrainedModel, shape: Shape) -> PreTrainedModel:
    """Return a network of this shape with those weights of the teacher that it has room for."""
    config = copy.deepcopy(teacher.config)
    inner = "hidden_dim" if config.model_type == "distilbert" else "intermediate_size"
    head = config.hidden_size // config.num_attention_heads
    changes = {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.width,
        "num_attention_heads": shape.width // head,
        inner: getattr(config, inner) * shape.width // config.hidden_size,
    }
    for name, value in changes.items():
        setattr(config, name, value)
    student = type(teacher)(config)
    weights = teacher.state_dict()
    layers = taught_layers(shape.layers, teacher.config.num_hidden_layers)
    is_narrower = shape.width < teacher.config.hidden_size
    hidden = kept_dimensions(teacher, shape.width) if is_narrower else None
    for name, values in student.state_dict().items():
        source_name = _teachers_name(name, layers)
        source = weights[source_name]
        for axis, size in enumerate(values.shape):
            if source.shape[axis] != size:
                source = source.index_select(
                    axis, _kept(source_name, axis, size, head=head, weights=weights, hidden=hidden)
                )
        values.copy_(source)
    return student


def kept_dimensions(teacher: PreTrainedModel, width: int) -> Indices:
    """Return the dimensions of the hidden states that a narrower student keeps: those in which words differ most."""
    return _largest(teacher.get_input_embeddings().weight.detach().var(0), width)


def _kept(name: str, axis: int, size: int, *, head: int, weights: Mapping[str, Any], hidden: Indices) -> Indices:
    """Return which of the teacher's rows or columns of a tensor a narrower student keeps."""
    if found := _INNER.search(name) if axis == 0 else _FROM_INNER.search(name):
        made, taken = _pair(
            weights, name[: found.start()], ("intermediate.dense", "output.dense"), ("ffn.lin1", "ffn.lin2")
        )
        return _largest(made.norm(dim=1) * taken.norm(dim=0), size)
    if found := _HEADS.search(name) if axis == 0 else _FROM_HEADS.search(name):
        made, taken = _pair(
            weights,
            name[: found.start()],
            ("attention.self.value", "attention.output.dense"),
            ("attention.v_lin", "attention.out_lin"),
        )
        strength = (made.norm(dim=1) * taken.norm(dim=0)).reshape(-1, head).sum(1)
        heads = _largest(strength, size // head)
        return (heads[:, None] * head + torch.arange(head)).flatten()
    return hidden


def _pair(weights: Mapping[str, Any], layer: str, *names: tuple[str, str]) -> tuple[Any, Any]:
    """Return the weights of what makes and of what takes an inner state, by the names that the family has for them."""
    return next(
        (weights[f"{layer}{first}.weight"], weights[f"{layer}{second}.weight"])
        for first, second in names
        if f"{layer}{first}.weight" in weights
    )


def _largest(strength: Any, count: int) -> Indices:
    return strength.topk(count).indices.sort().values


def _teachers_name(name: str, layers: list[int]) -> str:
    """Return the teacher's name of a student's tensor, which has the number of a layer of its own."""
    return _LAYER.sub(lambda found: f"layer.{layers[int(found[1])]}.", name)
