"""Read the files that sentence-transformers adds to a CrossEncoder: a classifier that scores pairs of texts.

Since release 5.4 they are `modules.json`, which lists its modules, `config_sentence_transformers.json` and
`sentence_bert_config.json`. Older releases wrote only the name of the activation, into `config.json`. Only what the server
implements is accepted; the rest is refused by name.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from app.bundle.manifest import ScoreFunction
from model_export.checkpoint.config import CONFIG_FILE
from model_export.checkpoint.json_files import read_json, read_json_if_there
from model_export.checkpoint.transformer_module import read_transformer_module
from model_export.errors import ExportError, shown

_MODULES_FILE: Final = "modules.json"
_MODEL_FILE: Final = "config_sentence_transformers.json"
_SCORE_FUNCTIONS: Final[Mapping[str, ScoreFunction]] = {"Identity": "none", "Sigmoid": "sigmoid"}
"""By the last part of the name of torch's module, whose path is spelled in several ways."""


@dataclass(frozen=True, slots=True)
class CrossEncoderSettings:
    """How a CrossEncoder makes its scores. `max_length` is None if these files do not name it.

    `activation` is what it applies to the logits, None if that is sentence-transformers' default: the sigmoid for one label.
    """

    activation: str | None = None
    max_length: int | None = None
    lowercases: bool = False

    def score_function(self, name: str) -> ScoreFunction:
        """Return what makes the score of one label.

        Args:
            name: The checkpoint, for messages.

        Raises:
            ExportError: it is another function than the server has.
        """
        if self.activation is None:
            return "sigmoid"
        function = _SCORE_FUNCTIONS.get(self.activation.rpartition(".")[2])
        if function is None or not self.activation.startswith("torch."):
            raise ExportError(
                f"{name} makes its scores with the activation {self.activation}; only torch's Identity and Sigmoid can be "
                "exported. Export it with --task classify, ask for function_to_apply none and apply the activation yourself."
            )
        return function


def is_cross_encoder(folder: Path) -> bool:
    """Return whether sentence-transformers saved the checkpoint in `folder` as a CrossEncoder.

    Raises:
        ExportError: a file that says so is damaged.
    """
    if os.path.lexists(
        folder / _MODULES_FILE
    ):  # of a model of any kind, which may have been trained from a CrossEncoder
        return _is_of_now(folder)
    return _old_activation(folder) is not None


def read_cross_encoder(folder: Path) -> CrossEncoderSettings:
    """Return the settings of the checkpoint in `folder`; those of a plain checkpoint are the defaults.

    Raises:
        ExportError: its scores need what the server does not have, or its files are damaged.
    """
    if not _is_of_now(folder):
        return CrossEncoderSettings(_old_activation(folder))
    _check_modules(folder / _MODULES_FILE)
    model, transformer = read_json(folder / _MODEL_FILE), read_transformer_module(folder, "score")
    _check_prompts(folder / _MODEL_FILE, model)
    return CrossEncoderSettings(
        activation=str(model["activation_fn"]) if model.get("activation_fn") else _old_activation(folder),
        max_length=transformer.max_length,
        lowercases=transformer.lowercases,
    )


def _is_of_now(folder: Path) -> bool:
    return os.path.lexists(folder / _MODULES_FILE) and (
        read_json_if_there(folder / _MODEL_FILE).get("model_type") == "CrossEncoder"
    )


def _old_activation(folder: Path) -> str | None:
    """Return the activation in config.json: of releases 4.0 to 5.3, or of older ones."""
    config = read_json(folder / CONFIG_FILE)
    own = config.get("sentence_transformers")
    named = own.get("activation_fn") if isinstance(own, Mapping) else None
    activation = named or config.get("sbert_ce_default_activation_function")
    return None if activation is None else str(activation)


def _check_modules(path: Path) -> None:
    try:
        modules = [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in read_json(path, list)]
    except (KeyError, TypeError) as error:
        raise ExportError(
            f"{path} is not a list of modules with type and path. Download the checkpoint again."
        ) from error
    if modules != [("Transformer", "")]:
        listed = ", ".join(f"{kind} in {folder}" if folder else kind for kind, folder in modules) or "no modules"
        raise ExportError(
            f"{path} lists {listed}; a CrossEncoder can be exported if it is a Transformer alone, next to that file. "
            "Choose such a model."
        )


def _check_prompts(path: Path, model: Mapping[str, Any]) -> None:
    name, prompts = model.get("default_prompt_name"), model.get("prompts")
    named = prompts.get(name) if isinstance(prompts, Mapping) and isinstance(name, str) else None
    if name is not None and named != "":
        raise ExportError(
            f"{path} has the default prompt {shown(name)}, which the server would not put before each query. "
            "Set default_prompt_name to null, and let clients send the prompt as the beginning of the query."
        )
