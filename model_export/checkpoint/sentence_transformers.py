"""Read the files that sentence-transformers adds to a checkpoint: pooling, normalization and how texts are prepared.

`modules.json` lists the modules of a model, in order, and where each keeps its files. Only those that the server implements
are accepted; others are refused by name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from app.bundle.manifest import Pooling
from model_export.checkpoint.cross_encoder import is_cross_encoder
from model_export.checkpoint.json_files import read_json
from model_export.errors import ExportError

MODULES_FILE: Final = "modules.json"
POOLING_FILES: Final = "*_Pooling/config.json"
"""Pattern of the files that are read in subfolders."""

_SETTINGS_FILE: Final = "sentence_bert_config.json"
_VERSIONS_FILE: Final = "config_sentence_transformers.json"
_STRIPS_BEFORE: Final = (5, 4)
"""Releases before this one call `str.strip` on each text before they tokenize it; later ones do not."""
_ORDERS: Final = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
_POOLINGS: Final[Mapping[str, Pooling]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "mean": "mean",
    "cls": "cls",
}


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """How a checkpoint's embeddings are made. `max_length` is None if these files do not name it.

    `strips_whitespace` is whether whitespace around a text is removed before it is tokenized.
    """

    pooling: Pooling
    normalizes: bool = False
    strips_whitespace: bool = False
    max_length: int | None = None
    lowercases: bool = False


def read_embedding_settings(folder: Path, pooling: Pooling | Literal["auto"]) -> EmbeddingSettings:
    """Return the settings of the checkpoint in `folder`; the default pooling is the mean.

    Args:
        folder: The checkpoint.
        pooling: The requested pooling; `auto` is the folder's own.

    Raises:
        ExportError: the model has other modules or another pooling, or its files are damaged.
    """
    if not (folder / MODULES_FILE).is_file() or is_cross_encoder(folder):
        return EmbeddingSettings("mean" if pooling == "auto" else pooling)
    modules = _modules(folder / MODULES_FILE)
    settings = read_json(folder / _SETTINGS_FILE) if (folder / _SETTINGS_FILE).is_file() else {}
    max_length = settings.get("max_seq_length")
    if not isinstance(max_length, int | None):
        raise ExportError(f"max_seq_length in {folder / _SETTINGS_FILE} is not a number of tokens. Correct it.")
    return EmbeddingSettings(
        pooling=_pooling(folder / modules["Pooling"] / "config.json") if pooling == "auto" else pooling,
        normalizes="Normalize" in modules,
        strips_whitespace=_strips_whitespace(folder / _VERSIONS_FILE),
        max_length=max_length,
        lowercases=bool(settings.get("do_lower_case")),
    )


def _modules(path: Path) -> dict[str, str]:
    """Return the folder of each module, by the last part of its type."""
    listed = read_json(path, list)
    try:
        modules = {str(module["type"]).rpartition(".")[2]: str(module["path"]) for module in listed}
    except (KeyError, TypeError) as error:
        raise ExportError(
            f"{path} is not a list of modules with type and path. Download the checkpoint again."
        ) from error
    if list(modules) not in _ORDERS or len(listed) != len(modules):
        raise ExportError(
            f"{path} lists {', '.join(modules) or 'no modules'}; only Transformer, Pooling and an optional Normalize, in this "
            "order, can be exported. Choose a model made of these."
        )
    if modules["Transformer"]:
        raise ExportError(
            f"{path} has its Transformer in the folder {modules['Transformer']}, not next to it. "
            "Load the model with sentence-transformers and save it again."
        )
    return modules


def _pooling(path: Path) -> Pooling:
    settings = read_json(path)
    named = settings.get("pooling_mode")
    modes = (
        [named]
        if isinstance(named, str)
        else [mode for mode, is_on in settings.items() if is_on is True and mode.startswith("pooling_mode_")]
    )
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise ExportError(
            f"{path} has the pooling {' and '.join(modes) or 'none'}; only the mean of all tokens or the first token's "
            "vector can be exported. Choose another model."
        )
    return _POOLINGS[modes[0]]


def _strips_whitespace(path: Path) -> bool:
    """Return whether the release that saved the folder strips texts, as it did in training.

    Folders saved before release 2.0 have no such file.
    """
    if not path.is_file():
        return True
    versions = read_json(path).get("__version__")
    version = versions.get("sentence_transformers") if isinstance(versions, Mapping) else None
    if version is None:
        return True
    if not isinstance(version, str) or (found := re.match(r"(\d+)\.(\d+)", version)) is None:
        raise ExportError(f"{path} has no valid sentence-transformers release in __version__. Correct it.")
    return (int(found[1]), int(found[2])) < _STRIPS_BEFORE
