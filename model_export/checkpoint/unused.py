"""Tensors of a checkpoint that no task of its family has: what would be left out of the graph without a word."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from model_export.checkpoint.config import CONFIG_FILE, Config
from model_export.checkpoint.tensors import tensor_specs
from model_export.checkpoint.weights import Weights
from model_export.errors import ExportError, few

_OTHER_HEADS: Final = ("discriminator_predictions.",)
"""Of the architectures in the table of families, but of no task."""
_BUFFERS: Final = re.compile(r"embeddings\.(position_ids|token_type_ids)")


def find_unused(name: str, config: Config, weights: Weights) -> list[str]:
    """Return the tensors outside the encoder that no known head has.

    Heads of other tasks, the pooler and the buffers of positions are none of them: who does not use them loses nothing.

    Args:
        name: The checkpoint, for messages.
        config: Its config.
        weights: Its weights.

    Raises:
        ExportError: some of the encoder would be left out, so that every answer would be another.
    """
    family = config.family
    known = {spelling for spec in _every_spec(config) for spelling in spec}
    # A model that was saved without a head has no prefix; elsewhere a name without it is not the encoder's.
    is_bare = not any(stored.startswith(family.prefix) for stored in weights.tensors)
    layers = family.layer_prefix.removeprefix(family.prefix).partition("{i}")[0]
    parts = ("embeddings", layers, "pooler.")
    unused: list[str] = []
    inner: list[str] = []
    for stored in sorted(weights.tensors):
        part = stored.removeprefix(family.prefix)
        is_inner = part.startswith(parts) if is_bare else stored.startswith(family.prefix)
        if stored in known or (is_inner and (part.startswith("pooler.") or _BUFFERS.fullmatch(part))):
            continue
        if is_inner:
            inner.append(stored)
        elif not stored.startswith(_OTHER_HEADS):
            unused.append(stored)
    _refuse_layers(name, config, [stored for stored in inner if _layer(stored, layers) >= config.layers], layers)
    if inner:
        raise ExportError(
            f"{name} has tensors in its encoder that {config.model_type} does not have there: {few(inner)}. "
            "Without them it would answer otherwise. Export a checkpoint of the plain architecture."
        )
    return unused


def _every_spec(config: Config) -> Iterator[tuple[str, ...]]:
    for task in (*config.family.heads, "embed"):
        for spec in tensor_specs(config, task).values():
            yield spec.names


def _layer(stored: str, layers: str) -> int:
    """Return the number of the layer that a tensor of the encoder is in, -1 of one in none."""
    found = re.search(rf"(?:^|\.){re.escape(layers)}(\d+)\.", stored)
    return int(found[1]) if found else -1


def _refuse_layers(name: str, config: Config, beyond: Sequence[str], layers: str) -> None:
    if not beyond:
        return
    count = max(_layer(stored, layers) for stored in beyond) + 1
    raise ExportError(
        f"{name} has weights of {count} layers, {CONFIG_FILE} counts {config.layers}: {few(beyond)} would be left "
        "out. Correct num_hidden_layers; if fewer are meant, load the model and save it again with save_pretrained()."
    )
