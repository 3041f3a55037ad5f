"""Find tensors of a checkpoint that no network of its family has: they would be left out of the graph silently."""

import re
from collections.abc import Sequence
from typing import Final

from model_export.checkpoint.config import CONFIG_FILE, Config
from model_export.checkpoint.tensors import tensor_specs
from model_export.checkpoint.weights import Weights
from model_export.errors import ExportError, few

_OTHER_HEADS: Final = ("discriminator_predictions.",)
"""Heads of a family's architectures that no task reads."""
_BUFFERS: Final = re.compile(r"embeddings\.(position_ids|token_type_ids)")


def find_unused(name: str, config: Config, weights: Weights) -> list[str]:
    """Return the tensors outside the encoder that belong to no known head.

    Known heads, the pooler and the buffers of positions are not among them: the answers do not depend on those.

    Args:
        name: The checkpoint, for messages.
        config: Its config.
        weights: Its weights.

    Raises:
        ExportError: a part of the encoder would be left out, which would change every answer.
    """
    family = config.family
    specs = [tensor_specs(config, head) for head in (*family.heads.values(), None)]
    known = {spelling for by_part in specs for spec in by_part.values() for spelling in spec.names}
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


def _layer(stored: str, layers: str) -> int:
    """Return the number of the layer that a tensor of the encoder is in, -1 for a tensor outside the layers."""
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
