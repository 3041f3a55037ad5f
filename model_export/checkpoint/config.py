"""Read what the export needs of a checkpoint's config, with transformers' defaults for its family.

Features that the graph does not support are refused here, as ignoring them would give wrong answers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from app.bundle.manifest import ProblemType
from model_export.checkpoint.families import ACTIVATIONS, FAMILIES, Activation, Family
from model_export.checkpoint.readable import check_readable
from model_export.checkpoint.unmerged_adapters import refuse_adapter_folder
from model_export.errors import ExportError, one_line

CONFIG_FILE: Final = "config.json"


@dataclass(frozen=True, slots=True)
class Config:
    """The architecture of a checkpoint, and its labels.

    `token_types` is 0 where the family has none. `position_offset` is the position id of the first token.
    `entailment` is the number of the label that means it, by label2id, as transformers' zero-shot pipeline looks it up.
    `problem_type` is None if there is one label and the checkpoint does not name the type: transformers' pipeline then
    applies a sigmoid, which it does not for a regression.
    """

    model_type: str
    architectures: tuple[str, ...]
    hidden_size: int
    layers: int
    attention_heads: int
    intermediate_size: int
    embedding_size: int
    vocab_size: int
    positions: int
    position_offset: int
    token_types: int
    activation: Activation
    norm_epsilon: float
    is_tied: bool
    labels: tuple[str, ...]
    entailment: int | None
    problem_type: ProblemType | None

    @property
    def family(self) -> Family:
        """The row of the table of families."""
        return FAMILIES[self.model_type]


def read_config(folder: Path) -> Config:
    """Return the config of the checkpoint in `folder`.

    Raises:
        ExportError: it is missing, damaged, or of a network that cannot be exported.
    """
    path = folder / CONFIG_FILE
    model_type = _model_type(path)
    family = FAMILIES[model_type]
    from transformers import AutoConfig  # noqa: PLC0415  # takes a second

    try:
        source: Any = AutoConfig.from_pretrained(folder)
    except Exception as error:
        raise ExportError(f"transformers cannot read {path} ({one_line(error)}). Correct it.") from error
    _refuse_variations(path, source)
    activation = getattr(source, family.activation)
    if activation not in ACTIVATIONS:
        raise ExportError(f"{path} has the activation {activation!r}; {', '.join(ACTIVATIONS)} can be exported.")
    return Config(
        model_type=model_type,
        architectures=tuple(source.architectures or ()),
        hidden_size=source.hidden_size,
        layers=source.num_hidden_layers,
        attention_heads=source.num_attention_heads,
        intermediate_size=getattr(source, family.intermediate_size),
        embedding_size=source.embedding_size if family.embeddings_projection else source.hidden_size,
        vocab_size=source.vocab_size,
        positions=source.max_position_embeddings,
        position_offset=_position_offset(path, source, family),
        token_types=source.type_vocab_size if family.has_token_types else 0,
        activation=ACTIVATIONS[activation],
        norm_epsilon=source.layer_norm_eps if family.norm_epsilon is None else family.norm_epsilon,
        is_tied=source.tie_word_embeddings,
        labels=_labels(path, source.id2label),
        entailment=_entailment(source.label2id or {}, len(source.id2label)),
        problem_type=source.problem_type or ("single_label_classification" if len(source.id2label) > 1 else None),
    )


def _model_type(path: Path) -> str:
    check_readable(path)
    if not path.is_file():
        refuse_adapter_folder(path.parent)
        raise ExportError(f"{path.parent} is not a checkpoint: it has no {CONFIG_FILE}.")
    try:
        model_type = json.loads(path.read_bytes())["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{path} is not a JSON object with a model_type. Download the checkpoint again.") from error
    if model_type not in FAMILIES:
        raise ExportError(
            f"{path} is of the model type {model_type!r}; {', '.join(FAMILIES)} can be exported. "
            "Choose a checkpoint of one of these."
        )
    return str(model_type)


def _refuse_variations(path: Path, source: Any) -> None:  # noqa: ANN401  # transformers has no types
    positions = getattr(source, "position_embedding_type", None) or "absolute"
    if positions != "absolute":
        raise ExportError(f"{path} has {positions} position embeddings; only absolute ones can be exported.")
    for flag in ("is_decoder", "add_cross_attention"):
        if getattr(source, flag, False):
            raise ExportError(f"{path} sets {flag}; only encoders can be exported.")
    for field, what in (
        ("pruned_heads", "heads taken out of single layers"),
        ("quantization_config", "quantized weights"),
    ):
        if getattr(source, field, None):
            raise ExportError(
                f"{path} sets {field}: {what} cannot be exported. Save the model without them, in full precision."
            )
    own_code = getattr(source, "auto_map", None) or {}
    if any(str(name).startswith("AutoModel") for name in own_code):
        raise ExportError(
            f"{path} names a network of the checkpoint's own (auto_map), whose code is not run. If transformers gives the same "
            "answers without trust_remote_code, take auto_map out of it; else choose another model."
        )
    if source.num_hidden_layers < 1:
        raise ExportError(f"{path} has no layers: num_hidden_layers is {source.num_hidden_layers}.")
    if source.hidden_size % source.num_attention_heads:
        raise ExportError(
            f"{path} has a hidden size of {source.hidden_size}, which {source.num_attention_heads} attention heads "
            "cannot share equally."
        )


def _position_offset(path: Path, source: Any, family: Family) -> int:  # noqa: ANN401
    if not family.positions_follow_padding:
        return 0
    if source.pad_token_id is None:
        raise ExportError(f"{path} has no pad_token_id, after which positions count in this family. Add it.")
    return int(source.pad_token_id) + 1


def _labels(path: Path, id2label: Mapping[int, str]) -> tuple[str, ...]:
    if not id2label or sorted(id2label) != list(range(len(id2label))):
        raise ExportError(f"id2label in {path} does not number the labels from 0 up without a gap. Correct it.")
    return tuple(str(id2label[i]) for i in range(len(id2label)))


def _entailment(label2id: Mapping[str, Any], labels: int) -> int | None:
    numbers = [number for label, number in label2id.items() if str(label).lower().startswith("entail")]
    return next((number for number in numbers if type(number) is int and 0 <= number < labels), None)
