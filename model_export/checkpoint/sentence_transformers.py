"""Read the files that sentence-transformers adds to a checkpoint: its modules, prompts, and how texts are prepared.

`modules.json` lists the modules of a model, in order, and where each keeps its files. Only those that the export implements
are accepted; others are refused by name.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from app.bundle.manifest import Pooling
from model_export.checkpoint.cross_encoder import is_cross_encoder
from model_export.checkpoint.dense import DenseModule, read_dense, refuse_other_features
from model_export.checkpoint.json_files import read_json, read_json_if_there
from model_export.checkpoint.transformer_module import read_transformer_module
from model_export.errors import ExportError, few, shown

MODULES_FILE: Final = "modules.json"
FILES_OF_MODULES: Final = (
    "*_Pooling/config.json",
    "*_Normalize/config.json",
    "*_Dense/config.json",
    "*_Dense/model.safetensors",
    "*_Dense/pytorch_model.bin",
)
"""Patterns of the files that are read in subfolders."""

_MODEL_FILE: Final = "config_sentence_transformers.json"
_STRIPS_BEFORE: Final = (5, 4)
"""Releases before this one call `str.strip` on each text before they tokenize it; later ones do not."""
_FIRST: Final = ("Transformer", "Pooling")
_LATER: Final = ("Dense", "Normalize")
_INSIDE: Final = re.compile(r"(?!.*\.\.)[\w. -]{0,100}")
"""Names of modules' folders: never a path that leaves the checkpoint's."""
_PROMPTS_OF_EVERY_MODEL: Final = ("query", "document")
"""Names of prompts that sentence-transformers adds, as empty prompts, to those of a folder."""
_POOLINGS: Final[Mapping[str, Pooling]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "mean": "mean",
    "cls": "cls",
}


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """How a checkpoint's embeddings are made. `max_length` is None if these files do not name it.

    `after_pooling` are the modules that follow the pooling, without a normalization at the end, which `normalizes` tells.
    `dimensions` is how many numbers of an embedding are returned by default, None for all. `strips_whitespace` is whether
    whitespace around a text is removed before it is tokenized. `prompts` may be put before a text, by name; there are none
    if all of them are empty.
    """

    pooling: Pooling
    after_pooling: tuple[DenseModule | Literal["normalize"], ...] = ()
    normalizes: bool = False
    dimensions: int | None = None
    strips_whitespace: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    max_length: int | None = None
    lowercases: bool = False

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files with weights of its own that it is made with."""
        return tuple(file for module in self.after_pooling if module != "normalize" for file in module.weights.files)


def read_embedding_settings(folder: Path, pooling: Pooling | Literal["auto"]) -> EmbeddingSettings:
    """Return the settings of the checkpoint in `folder`; the default pooling is the mean.

    Args:
        folder: The checkpoint.
        pooling: The requested pooling; `auto` is the folder's own.

    Raises:
        ExportError: the model has other modules or another pooling, or its files are damaged.
    """
    if not os.path.lexists(folder / MODULES_FILE) or is_cross_encoder(folder):
        return EmbeddingSettings("mean" if pooling == "auto" else pooling)
    _, (_, pooling_folder), *later = _modules(folder)
    transformer = read_transformer_module(folder, "embedding")
    path = folder / _MODEL_FILE
    model = read_json_if_there(path)
    prompts, default_prompt_name = _prompts(path, model)
    after_pooling = [_after_pooling(kind, of_module) for kind, of_module in later]
    normalizes = after_pooling[-1:] == ["normalize"]
    while after_pooling[-1:] == ["normalize"]:
        after_pooling.pop()
    return EmbeddingSettings(
        pooling=_pooling(pooling_folder / "config.json", pooling),
        after_pooling=tuple(after_pooling),
        normalizes=normalizes,
        dimensions=_dimensions(path, model),
        strips_whitespace=_strips_whitespace(path, model),
        prompts=prompts,
        default_prompt_name=default_prompt_name,
        max_length=transformer.max_length,
        lowercases=transformer.lowercases,
    )


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Return the last part of the type of each module, and its folder."""
    path = folder / MODULES_FILE
    modules = []
    for module in read_json(path, kind=list):
        kind, name = (module.get(key) if isinstance(module, Mapping) else None for key in ("type", "path"))
        if not isinstance(kind, str) or not isinstance(name, str):
            raise ExportError(f"{path} is not a list of modules with type and path. Download the checkpoint again.")
        if not _INSIDE.fullmatch(name):
            raise ExportError(f"{path} names {shown(name)}, which is no folder in it. Download the checkpoint again.")
        modules.append((kind.rpartition(".")[2], name))
    kinds = [kind for kind, _ in modules]
    if tuple(kinds[:2]) != _FIRST or not set(kinds[2:]) <= set(_LATER):
        others = [kind for kind in kinds if kind not in _FIRST + _LATER]
        raise ExportError(
            f"{path} lists {', '.join(kinds) or 'no modules'}"
            f"{f', and {others[0]} is not implemented' if others else ''}; only {', '.join(_FIRST)} and any number of "
            f"{' and '.join(_LATER)} after them, in this order, can be exported. Choose a model made of these."
        )
    if modules[0][1]:
        raise ExportError(
            f"{path} has its Transformer in the folder {modules[0][1]}, not next to it. "
            "Load the model with sentence-transformers and save it again."
        )
    return [(kind, folder / name) for kind, name in modules]


def _after_pooling(kind: str, folder: Path) -> DenseModule | Literal["normalize"]:
    if kind == "Dense":
        return read_dense(folder)
    path = folder / "config.json"
    refuse_other_features(path, read_json_if_there(path))  # older releases write none
    return "normalize"


def _pooling(path: Path, requested: Pooling | Literal["auto"]) -> Pooling:
    settings = read_json(path) if requested == "auto" else read_json_if_there(path)
    if settings.get("include_prompt") is False:
        raise ExportError(
            f"{path} leaves the prompt's tokens out of the pooling (include_prompt); only pooling with them can be "
            "exported. Choose another model."
        )
    if requested != "auto":
        return requested
    named = settings.get("pooling_mode")
    if named is None:
        modes = [mode for mode, is_on in settings.items() if is_on is True and mode.startswith("pooling_mode_")]
    else:
        modes = [str(mode) for mode in named] if isinstance(named, list) else [str(named)]
    if not modes:
        return "mean"  # as sentence-transformers does
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise ExportError(
            f"{path} has the pooling {' and '.join(modes)}; only the mean of all tokens or the first token's "
            "vector can be exported. Choose another model."
        )
    return _POOLINGS[modes[0]]


def _prompts(path: Path, model: Mapping[str, Any]) -> tuple[dict[str, str], str | None]:
    """Return the prompts and the name of the default one; none if all of them are empty."""
    stored = model.get("prompts") or {}
    if not isinstance(stored, Mapping) or not all(isinstance(text, str | None) for text in stored.values()):
        raise ExportError(f"The prompts in {path} are not texts by name. Correct them.")
    prompts = {str(name): text or "" for name, text in stored.items()}
    default = model.get("default_prompt_name")
    if default is not None and default not in (*prompts, *_PROMPTS_OF_EVERY_MODEL):
        raise ExportError(
            f"default_prompt_name in {path} is {shown(default)}, but the prompts are {few(list(prompts)) or 'none'}. Correct it."
        )
    if not any(prompts.values()):
        return {}, None
    return prompts, default if default and prompts.get(default) else None


def _dimensions(path: Path, model: Mapping[str, Any]) -> int | None:
    dimensions = model.get("truncate_dim")
    if dimensions is None or (type(dimensions) is int and dimensions >= 1):
        return dimensions
    raise ExportError(f"truncate_dim in {path} is not a number of dimensions. Correct it.")


def _strips_whitespace(path: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether the release that saved the folder strips texts, as it did in training.

    Folders saved before release 2.0 have no such file.
    """
    versions = settings.get("__version__") or {}
    version = versions.get("sentence_transformers") if isinstance(versions, Mapping) else "unknown"
    if version is None:
        return True
    if not isinstance(version, str) or (found := re.match(r"(\d+)\.(\d+)", version)) is None:
        raise ExportError(f"{path} has no valid sentence-transformers release in __version__. Correct it.")
    return (int(found[1]), int(found[2])) < _STRIPS_BEFORE
