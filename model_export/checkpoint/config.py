"""Read what the export needs of a checkpoint's config, with transformers' defaults for its family.

Features that the graph does not support are refused here, as ignoring them would give wrong answers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from app.bundle.manifest import ProblemType
from model_export.checkpoint.families import ACTIVATIONS, FAMILIES, Activation, Family
from model_export.checkpoint.json_files import read_json
from model_export.errors import ExportError, one_line, shown

CONFIG_FILE: Final = "config.json"

_MOST_LAYERS: Final = 1000
"""More than any encoder has. The names of all their tensors are listed before one is found to be missing."""
_MOST_LABELS: Final = 1_000_000
"""More than any classifier has. transformers lists them before it looks at anything else."""


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
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ExportError(f"{path} has the activation {shown(activation)}; {', '.join(ACTIVATIONS)} can be exported.")
    labels = _labels(path, source.id2label)
    hidden_size, heads = _count(path, source, "hidden_size"), _count(path, source, "num_attention_heads")
    if hidden_size % heads:
        raise ExportError(
            f"{path} has a hidden size of {hidden_size}, which {heads} attention heads cannot share equally."
        )
    return Config(
        model_type=model_type,
        architectures=_architectures(path, source.architectures),
        hidden_size=hidden_size,
        layers=_count(path, source, "num_hidden_layers", most=_MOST_LAYERS),
        attention_heads=heads,
        intermediate_size=_count(path, source, family.intermediate_size),
        embedding_size=_count(path, source, "embedding_size") if family.embeddings_projection else hidden_size,
        vocab_size=_count(path, source, "vocab_size"),
        positions=_count(path, source, "max_position_embeddings"),
        position_offset=_position_offset(path, source, family),
        token_types=_count(path, source, "type_vocab_size", least=0) if family.has_token_types else 0,
        activation=ACTIVATIONS[activation],
        norm_epsilon=_norm_epsilon(path, source) if family.norm_epsilon is None else family.norm_epsilon,
        is_tied=_flag(path, source, "tie_word_embeddings"),
        labels=labels,
        entailment=_entailment(path, source.label2id or {}, len(labels)),
        problem_type=_problem_type(path, source.problem_type)
        or ("single_label_classification" if len(labels) > 1 else None),
    )


def _model_type(path: Path) -> str:
    stored = read_json(path)
    model_type, labels = stored.get("model_type"), stored.get("num_labels")
    if not isinstance(model_type, str):
        raise ExportError(f"{path} is not a JSON object with a model_type. Download the checkpoint again.")
    if model_type not in FAMILIES:
        raise ExportError(
            f"{path} is of the model type {shown(model_type)}; {', '.join(FAMILIES)} can be exported. "
            "Choose a checkpoint of one of these."
        )
    if labels is not None and (type(labels) is not int or not 0 <= labels <= _MOST_LABELS):
        raise ExportError(f"{path} has the num_labels {shown(labels)}, which is no number of labels. Correct it.")
    return model_type


def _refuse_variations(path: Path, source: Any) -> None:  # noqa: ANN401  # transformers has no types
    positions = getattr(source, "position_embedding_type", None) or "absolute"
    if positions != "absolute":
        raise ExportError(f"{path} has {shown(positions)} position embeddings; only absolute ones can be exported.")
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


def _position_offset(path: Path, source: Any, family: Family) -> int:  # noqa: ANN401
    if not family.positions_follow_padding:
        return 0
    if source.pad_token_id is None:
        raise ExportError(f"{path} has no pad_token_id, after which positions count in this family. Add it.")
    return _count(path, source, "pad_token_id", least=0) + 1


def _count(path: Path, source: Any, name: str, *, least: int = 1, most: float = math.inf) -> int:  # noqa: ANN401
    value = getattr(source, name, None)
    if type(value) is not int or not least <= value <= most:
        raise ExportError(
            f"{path} has the {name} {shown(value)}; it must be a whole number from {least} up"
            f"{'' if most == math.inf else f' to {most}'}. Correct it."
        )
    return value


def _flag(path: Path, source: Any, name: str) -> bool:  # noqa: ANN401
    value = getattr(source, name, None)
    if type(value) is not bool:
        raise ExportError(f"{path} has the {name} {shown(value)}; it must be true or false. Correct it.")
    return value


def _norm_epsilon(path: Path, source: Any) -> float:  # noqa: ANN401
    value = source.layer_norm_eps
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ExportError(f"{path} has the layer_norm_eps {shown(value)}; it must be a small number. Correct it.")
    return float(value)


def _architectures(path: Path, value: object) -> tuple[str, ...]:
    names = [] if value is None else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise ExportError(
            f"{path} has the architectures {shown(value)}; it must be a list of the names of classes. Correct it, or take it out."
        )
    return tuple(names)


def _problem_type(path: Path, value: object) -> ProblemType | None:
    if value is None:
        return None
    for known in get_args(ProblemType):
        if value == known:
            return known  # type: ignore[no-any-return]  # of a Literal
    raise ExportError(
        f"{path} has the problem_type {shown(value)}; it must be {', '.join(get_args(ProblemType))} or null. Correct it."
    )


def _labels(path: Path, id2label: Mapping[int, str]) -> tuple[str, ...]:
    if not id2label or sorted(id2label) != list(range(len(id2label))):
        raise ExportError(f"id2label in {path} does not number the labels from 0 up without a gap. Correct it.")
    labels = [id2label[i] for i in range(len(id2label))]
    if not all(isinstance(label, str | int | float) for label in labels):
        raise ExportError(f"id2label in {path} has a label that is no text. Correct it.")
    return tuple(map(str, labels))


def _entailment(path: Path, label2id: object, labels: int) -> int | None:
    if not isinstance(label2id, Mapping):
        raise ExportError(f"label2id in {path} is not a JSON object of numbers by label. Correct it, or take it out.")
    numbers = [number for label, number in label2id.items() if str(label).lower().startswith("entail")]
    return next((number for number in numbers if type(number) is int and 0 <= number < labels), None)
