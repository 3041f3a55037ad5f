"""Read what sentence-transformers' Transformer module says of texts, in `sentence_bert_config.json` or a file with an older name.

Only what the server implements is accepted; the rest is refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from model_export.checkpoint.json_files import read_json_if_there
from model_export.errors import ExportError, shown

SETTINGS_FILE: Final = "sentence_bert_config.json"
_OLDER_NAMES: Final = tuple(
    f"sentence_{name}_config.json" for name in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Read where there is no `sentence_bert_config.json`, in this order, as by sentence-transformers."""

_EXPECTED: Final[Mapping[str, Mapping[str, Any]]] = {
    "embedding": {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        "module_output_name": "token_embeddings",
    },
    "score": {
        "transformer_task": "sequence-classification",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
        "module_output_name": "scores",
    },
}
_NEVER: Final = ("processing_kwargs", "query_length", "document_length", "query_expansion")
_ARGUMENTS: Final[Mapping[str, frozenset[str]]] = {
    "tokenizer_args": frozenset({"model_max_length", "padding_side", "trust_remote_code", "use_fast"}),
    "model_args": frozenset(
        {"add_pooling_layer", "attn_implementation", "dtype", "torch_dtype", "trust_remote_code", "use_safetensors"}
    ),
    "config_args": frozenset({"trust_remote_code"}),
}
"""Arguments that change no answer, but for `model_max_length`, which is honoured."""
_NEWER_NAMES: Final = {
    "tokenizer_args": "processor_kwargs",
    "model_args": "model_kwargs",
    "config_args": "config_kwargs",
}


@dataclass(frozen=True, slots=True)
class TransformerSettings:
    """`max_length` in tokens goes before the tokenizer's own; None if the file does not name one."""

    max_length: int | None
    lowercases: bool


def read_transformer_module(folder: Path, result: Literal["embedding", "score"]) -> TransformerSettings:
    """Return the settings of the Transformer in `folder`; the defaults if there is no file.

    Raises:
        ExportError: it needs what the server does not have, or its file is damaged.
    """
    names = (SETTINGS_FILE, *_OLDER_NAMES)
    path = next((folder / name for name in names if read_json_if_there(folder / name)), folder / SETTINGS_FILE)
    settings = read_json_if_there(path)
    for key, expected in (*_EXPECTED[result].items(), *((key, None) for key in _NEVER)):
        if settings.get(key) not in (None, {}, expected):
            raise ExportError(
                f"{path} has the {key} {shown(settings[key])}; a model can be exported without it"
                f"{'' if expected is None else f', or with {expected!r}'}. Choose another model."
            )
    length = _arguments(path, settings).get("model_max_length", settings.get("max_seq_length"))
    if length is not None and (type(length) is not int or length < 1):
        raise ExportError(f"max_seq_length in {path} is not a number of tokens. Correct it.")
    return TransformerSettings(length, bool(settings.get("do_lower_case")))


def _arguments(path: Path, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of the tokenizer."""
    for old, known in _ARGUMENTS.items():
        for key in (old, _NEWER_NAMES[old]):
            given = settings.get(key) or {}
            if not isinstance(given, Mapping):
                raise ExportError(
                    f"{path} has the {key} {shown(given)}; it must be an object of arguments. Correct it."
                )
            others = sorted(given.keys() - known)
            if others:
                raise ExportError(
                    f"{path} has {', '.join(others)} among its {key}, which may change answers and cannot be exported. "
                    "Take it out if it does not matter, or choose another model."
                )
    return settings.get("processor_kwargs") or settings.get("tokenizer_args") or {}
