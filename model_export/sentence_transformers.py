"""What sentence-transformers keeps beside a checkpoint: how a text's vectors are pooled, and whether the result is normalized.

`modules.json` lists the modules of a model, in their order, and where each keeps its files. Those that the server stands
in for are understood; what a model does besides is refused by name.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from app.bundle import Pooling
from model_export.errors import ExportError
from model_export.readable import check_readable

MODULES_FILE: Final = "modules.json"
POOLING_FILES: Final = "*_Pooling/config.json"
"""A pattern of the files in subfolders that are read."""

_SETTINGS_FILE: Final = "sentence_bert_config.json"
_VERSIONS_FILE: Final = "config_sentence_transformers.json"
_STRIPS_BEFORE: Final = (5, 4)
"""Releases before this one call `str.strip` on each text before they tokenize it. This one dropped it."""
_ORDERS: Final = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
_POOLINGS: Final[Mapping[str, Pooling]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "mean": "mean",
    "cls": "cls",
}


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """How a checkpoint's embeddings are made. `max_length` is None where only the checkpoint itself says.

    `strips_whitespace` is whether whitespace around a text is removed before it is tokenized.
    """

    pooling: Pooling
    normalizes: bool = False
    strips_whitespace: bool = False
    max_length: int | None = None
    lowercases: bool = False


def read_embedding_settings(folder: Path, pooling: Pooling | Literal["auto"]) -> EmbeddingSettings:
    """Return the settings of the checkpoint in `folder`; a plain one is pooled by the mean.

    Args:
        folder: The checkpoint.
        pooling: What is asked for; `auto` does as the folder says.

    Raises:
        ExportError: it is of a model with other modules or another pooling, or its files are damaged.
    """
    if not (folder / MODULES_FILE).is_file():
        return EmbeddingSettings("mean" if pooling == "auto" else pooling)
    modules = _modules(folder / MODULES_FILE)
    settings = _read(folder / _SETTINGS_FILE) if (folder / _SETTINGS_FILE).is_file() else {}
    max_length = settings.get("max_seq_length")
    if not isinstance(max_length, int | None):
        raise ExportError(f"max_seq_length in {folder / _SETTINGS_FILE} is no number of tokens. Correct it.")
    return EmbeddingSettings(
        pooling=_pooling(folder / modules["Pooling"] / "config.json") if pooling == "auto" else pooling,
        normalizes="Normalize" in modules,
        strips_whitespace=_strips_whitespace(folder / _VERSIONS_FILE),
        max_length=max_length,
        lowercases=bool(settings.get("do_lower_case")),
    )


def _modules(path: Path) -> dict[str, str]:
    """Return the folder of each module, by the last part of its type."""
    listed = _read(path, list)
    try:
        modules = {str(module["type"]).rpartition(".")[2]: str(module["path"]) for module in listed}
    except (KeyError, TypeError) as error:
        raise ExportError(
            f"{path} is not a list of modules with type and path. Download the checkpoint again."
        ) from error
    if list(modules) not in _ORDERS or len(listed) != len(modules):
        raise ExportError(
            f"{path} lists the modules {', '.join(modules) or 'of nothing'}; only Transformer, Pooling and, after "
            "them, Normalize can be exported. Choose a model made of these."
        )
    if modules["Transformer"]:
        raise ExportError(
            f"{path} has its Transformer in {modules['Transformer']}, not beside it. "
            "Load the model with sentence-transformers and save it again."
        )
    return modules


def _pooling(path: Path) -> Pooling:
    settings = _read(path)
    named = settings.get("pooling_mode")
    modes = (
        [named]
        if isinstance(named, str)
        else [mode for mode, is_on in settings.items() if is_on is True and mode.startswith("pooling_mode_")]
    )
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise ExportError(
            f"{path} pools by {' and '.join(modes) or 'nothing'}; only the mean of all tokens or the first one's can "
            "be exported. Choose another model."
        )
    return _POOLINGS[modes[0]]


def _strips_whitespace(path: Path) -> bool:
    """Return whether the release that saved the folder strips texts: what the model was trained with.

    Folders saved before release 2.0 have no such file.
    """
    if not path.is_file():
        return True
    versions = _read(path).get("__version__")
    version = versions.get("sentence_transformers") if isinstance(versions, Mapping) else None
    if version is None:
        return True
    if not isinstance(version, str) or (found := re.match(r"(\d+)\.(\d+)", version)) is None:
        raise ExportError(f"{path} names no release of sentence-transformers in __version__. Correct it.")
    return (int(found[1]), int(found[2])) < _STRIPS_BEFORE


def _read(path: Path, kind: type[Mapping[str, Any]] | type[Sequence[Any]] = dict) -> Any:  # noqa: ANN401  # JSON
    check_readable(path)
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ExportError(f"{path} is missing. Download the checkpoint again, whole.") from error
    except ValueError as error:
        raise ExportError(f"{path} is not JSON. Download the checkpoint again.") from error
    if not isinstance(content, kind):
        raise ExportError(f"{path} holds something else than it should. Download the checkpoint again.")
    return content
