"""An adapter that peft saved is refused, with the way to merge it into a model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_export.errors import ExportError
from model_export.export import ExportOptions, export
from tests.model_export.support import edit_tensors

Copy = Callable[..., Path]


def refusal(folder: Path, output: Path, task: str | None = None) -> str:
    with pytest.raises(ExportError) as caught:
        export(ExportOptions(str(folder), output, task=task or "auto"), lambda _: None)
    assert not output.exists()
    return str(caught.value)


@pytest.mark.parametrize("left_out", [["config.json"], ["model.safetensors"], ["config.json", "model.safetensors"]])
@pytest.mark.parametrize(
    ("content", "base"),
    [
        (json.dumps({"peft_type": "LORA", "base_model_name_or_path": "someone/mood"}), "someone/mood"),
        (json.dumps({"peft_type": "LORA", "base_model_name_or_path": None}), "the model it was trained on"),
        ("[]", "the model it was trained on"),
        ("{", "the model it was trained on"),
    ],
)
def test_adapter_alone(copy_of: Copy, tmp_path: Path, left_out: list[str], content: str, base: str) -> None:
    folder = copy_of("bert-single-label")
    for name in left_out:
        (folder / name).unlink()
    (folder / "adapter_config.json").write_text(content)
    (folder / "adapter_model.safetensors").write_bytes(b"")
    assert refusal(folder, tmp_path / "out") == (
        f"{folder} is an adapter (it has adapter_config.json), not a whole model. Merge it first: load {base} with its head "
        f"as base, run PeftModel.from_pretrained(base, '{folder}').merge_and_unload().save_pretrained('MERGED'), "
        "save the tokenizer there too, and export MERGED."
    )


def wrap(tensors: dict[str, Any]) -> None:
    """Rename tensors as a PeftModel has them."""
    for name in list(tensors):
        tensor = tensors.pop(name)
        if ".query." in name:
            tensors[f"base_model.model.{name.replace('.query.', '.query.base_layer.')}"] = tensor
        else:
            tensors[f"base_model.model.{name}"] = tensor


def add_lora(tensors: dict[str, Any]) -> None:
    """Name tensors as a model of transformers has them whose adapter is not merged."""
    module = "bert.encoder.layer.0.attention.self.query"
    tensors[f"{module}.base_layer.weight"] = tensors.pop(f"{module}.weight")
    for part in ("lora_A", "lora_B"):
        tensors[f"{module}.{part}.default.weight"] = np.zeros((4, 32), np.float32)


@pytest.mark.parametrize("task", [None, "classify"])
@pytest.mark.parametrize(
    ("change", "first"),
    [
        (wrap, "base_model.model.bert.embeddings.LayerNorm.bias"),
        (add_lora, "bert.encoder.layer.0.attention.self.query.base_layer.weight"),
    ],
)
def test_model_with_adapters_around_it(
    copy_of: Copy, tmp_path: Path, change: Callable[[dict[str, Any]], None], first: str, task: str | None
) -> None:
    folder = copy_of("bert-single-label")
    edit_tensors(folder, change)
    message = refusal(folder, tmp_path / "out", task)
    assert f"{folder} holds a model wrapped by an adapter: {first}, " in message
    assert "run model.merge_and_unload().save_pretrained('MERGED')" in message


def test_merged_model_that_kept_the_adapters_settings_is_exported(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("bert-single-label")
    (folder / "adapter_config.json").write_text("{}")
    options = ExportOptions(str(folder), tmp_path / "out", variants=["cpu-fp32"])
    assert export(options, lambda _: None).task == "classify"
