"""Refuse what peft saves without merging: an adapter alone, or weights with adapters around them."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from model_export.checkpoint.json_files import read_json
from model_export.errors import ExportError, few

ADAPTER_FILE: Final = "adapter_config.json"

_WRAPPED: Final = ("base_model.model.", ".base_layer.", ".lora_", ".modules_to_save.", ".original_module.")
"""Parts of names that peft gives to tensors."""


def refuse_adapter_folder(folder: Path) -> None:
    """Refuse a folder without a config or weights that holds an adapter.

    Raises:
        ExportError: it does.
    """
    path = folder / ADAPTER_FILE
    if not path.is_file():
        return
    base = None
    with suppress(ExportError):
        base = read_json(path).get("base_model_name_or_path")
    raise ExportError(
        f"{folder} is an adapter (it has {ADAPTER_FILE}), not a whole model. Merge it first: load "
        f"{base if base and isinstance(base, str) else 'the model it was trained on'} with its head as base, run "
        f"PeftModel.from_pretrained(base, '{folder}').merge_and_unload().save_pretrained('MERGED'), save the tokenizer "
        "there too, and export MERGED."
    )


def refuse_wrapped(name: str, tensors: Iterable[str]) -> None:
    """Refuse a checkpoint whose tensors have names of a model with adapters around its layers.

    Raises:
        ExportError: they have.
    """
    wrapped = sorted(stored for stored in tensors if any(part in stored for part in _WRAPPED))
    if wrapped:
        raise ExportError(
            f"{name} holds a model wrapped by an adapter: {few(wrapped)}. Merge it first: load it with peft as it was "
            "made, run model.merge_and_unload().save_pretrained('MERGED'), save the tokenizer there too, and export MERGED."
        )
