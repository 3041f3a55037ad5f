"""Read a Dense module of a sentence-transformers folder: a layer after the pooling, with weights of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from model_export.checkpoint.families import Activation
from model_export.checkpoint.json_files import read_json
from model_export.checkpoint.weights import Weights, open_weights
from model_export.errors import ExportError, few, shown

EMBEDDING: Final = "sentence_embedding"
"""The name under which modules pass the embedding on."""

_DEFAULT_ACTIVATION: Final = "torch.nn.modules.activation.Tanh"
_ACTIVATIONS: Final[Mapping[str, Activation | None]] = {
    "Identity": None,
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
}
"""Classes of torch.nn. Their names are stored with their module, which is not the same in every release."""


@dataclass(frozen=True, slots=True)
class DenseModule:
    """A dense layer: `linear.weight` [outputs, inputs] and `linear.bias`, if it has one. `activation` is None for none."""

    weights: Weights
    activation: Activation | None


def read_dense(folder: Path) -> DenseModule:
    """Return the Dense module in `folder`; its tensors are not read yet.

    Raises:
        ExportError: it does more than a dense layer with a known activation, or its files are missing or damaged.
    """
    path = folder / "config.json"
    config = read_json(path)
    refuse_other_features(path, config)
    if config.get("use_residual"):
        raise ExportError(f"{path} sets use_residual; only layers without it can be exported. Choose another model.")
    named = config.get("activation_function", _DEFAULT_ACTIVATION)
    module, _, activation = str(named).rpartition(".")
    if activation not in _ACTIVATIONS or not module.startswith("torch.nn"):
        raise ExportError(
            f"{path} has the activation {shown(named)}; {', '.join(_ACTIVATIONS)} of torch.nn can be exported. "
            "Choose another model."
        )
    weights = open_weights(folder)
    expected = {"linear.weight", "linear.bias"} if config.get("bias", True) else {"linear.weight"}
    if weights.tensors.keys() != expected:
        raise ExportError(
            f"{folder} has the tensors {few(sorted(weights.tensors)) or 'none'}, but by its config.json it should have "
            f"{' and '.join(sorted(expected))}. Download the checkpoint again."
        )
    return DenseModule(weights, _ACTIVATIONS[activation])


def refuse_other_features(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a module that reads or writes something else than the embedding.

    Raises:
        ExportError: it does.
    """
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, EMBEDDING):
            raise ExportError(
                f"{path} has the {key} {shown(config[key])}; only {EMBEDDING} can be exported. Choose another model."
            )
