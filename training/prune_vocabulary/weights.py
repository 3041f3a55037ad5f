"""The weights with fewer rows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from training.errors import TrainingError

_EMBEDDINGS: Final = "word_embeddings.weight"
_BY_TOKEN: Final = re.compile(
    r"(.*\.)?(word_embeddings|(predictions|lm_head)(\.decoder)?|vocab_projector|generator_lm_head)\.(weight|bias)"
)
"""The embeddings, and the last layer of each head that predicts tokens."""


@dataclass(frozen=True)
class Size:
    """Of weights."""

    parameters: int
    bytes: int


def read_weights(folder: Path) -> dict[str, Any]:
    """Return the tensors of a checkpoint.

    Raises:
        TrainingError: there are none, or no embeddings of tokens are among them.
    """
    tensors: dict[str, Any] = {}
    if files := sorted(folder.glob("model*.safetensors")):
        for file in files:
            tensors |= load_file(file)
    else:
        for file in sorted(folder.glob("pytorch_model*.bin")):
            tensors |= torch.load(file, map_location="cpu", weights_only=True)
    if not tensors:
        raise TrainingError(f"{folder} has no weights: neither model.safetensors nor pytorch_model.bin.")
    if len({len(tensor) for name, tensor in tensors.items() if name.endswith(_EMBEDDINGS)}) != 1:
        raise TrainingError(f"{folder} has not one {_EMBEDDINGS}, which BERT, RoBERTa and their kin have.")
    return tensors


def rows(tensors: dict[str, Any]) -> int:
    """Return how many tokens have an embedding."""
    return next(len(tensor) for name, tensor in tensors.items() if name.endswith(_EMBEDDINGS))


def size(tensors: dict[str, Any]) -> Size:
    """Return how large they are."""
    return Size(sum(one.numel() for one in tensors.values()), sum(one.nbytes for one in tensors.values()))


def keep_rows(tensors: dict[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """Return the tensors with the rows of the kept tokens, in this order."""
    before, index = rows(tensors), torch.tensor(kept)
    return {
        name: tensor[index] if _BY_TOKEN.fullmatch(name) and len(tensor) == before else tensor
        for name, tensor in tensors.items()
    }


def write_weights(folder: Path, tensors: dict[str, Any]) -> None:
    """Write them as one file."""
    # Two names of a pickled checkpoint can have the same memory, which this format does not take.
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    save_file(own, folder / "model.safetensors", metadata={"format": "pt"})
