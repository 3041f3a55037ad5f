"""Two versions of one model, and a models folder in which one takes the place of the other, as deployments do it."""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.support import CHECKPOINTS

CHECKPOINT = CHECKPOINTS / "bert-single-label"


def turned_round(folder: Path) -> Path:
    """Write the same model with its labels, and the rows of its classifier, in the other order."""
    shutil.copytree(CHECKPOINT, folder)
    tensors = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = np.ascontiguousarray(tensors[name][::-1])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    labels = list(reversed(config["id2label"].values()))
    config["id2label"] = {str(i): label for i, label in enumerate(labels)}
    config["label2id"] = {label: i for i, label in enumerate(labels)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def deploy(models: Path, version: Path, name: str = "a") -> None:
    """As `ln -sfn` does."""
    link = models / f".{name}"
    link.symlink_to(version)
    link.replace(models / name)
