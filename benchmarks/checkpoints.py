"""Checkpoints to measure with. Weights are random where speed is all that is asked: it does not depend on them.

    python -m benchmarks.checkpoints NAME CACHE

Runs in the environment of the export.
"""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save_file

from benchmarks.bundles import ROOT, SMALL

DEMO: Final = ROOT / "model_export" / "demo_checkpoint"
_LABELS: Final = ("NEGATIVE", "POSITIVE")
_TYPES: Final = 2


@dataclass(frozen=True, slots=True)
class Size:
    """The architecture of a BERT."""

    layers: int
    hidden: int
    heads: int
    vocabulary: int = 30522
    positions: int = 512


SIZES: Final = {
    "base": Size(layers=12, hidden=768, heads=12),
    "large": Size(layers=24, hidden=1024, heads=16),
    # Small enough that everything but the model is what is measured.
    "tiny": Size(layers=2, hidden=128, heads=2),
    # Attention's kernels take heads whose size is a multiple of 8, up to 256. Others are padded: 26 is that of TinyBERT's.
    "heads-of-26": Size(layers=2, hidden=312, heads=12),
    "heads-of-100": Size(layers=2, hidden=300, heads=3),
    "heads-of-160": Size(layers=2, hidden=320, heads=2),
}


def checkpoint(name: str, cache: Path) -> Path:
    """Return the folder of a checkpoint; one of `SIZES` is made when it is not there."""
    if name == "demo":
        return DEMO
    if (SMALL / name).is_dir():
        return SMALL / name
    folder = cache / "checkpoints" / name
    if not (folder / "config.json").exists():
        _make(SIZES[name], folder)
    return folder


def _make(size: Size, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / file, folder)
    save_file(_weights(size), folder / "model.safetensors")
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": 4 * size.hidden,
        "vocab_size": size.vocabulary,
        "max_position_embeddings": size.positions,
        "type_vocab_size": _TYPES,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "id2label": dict(enumerate(_LABELS)),
        "label2id": {label: i for i, label in enumerate(_LABELS)},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _weights(size: Size) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    hidden, wide = size.hidden, 4 * size.hidden
    tables = {"word": size.vocabulary, "position": size.positions, "token_type": _TYPES}
    shapes = {f"bert.embeddings.{name}_embeddings": (rows, hidden) for name, rows in tables.items()}
    dense = {"bert.pooler.dense": (hidden, hidden), "classifier": (len(_LABELS), hidden)}
    norms = ["bert.embeddings.LayerNorm"]
    for layer in (f"bert.encoder.layer.{i}" for i in range(size.layers)):
        parts = ("self.query", "self.key", "self.value", "output.dense")
        dense |= {f"{layer}.attention.{part}": (hidden, hidden) for part in parts}
        dense |= {f"{layer}.intermediate.dense": (wide, hidden), f"{layer}.output.dense": (hidden, wide)}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    # The spread that BERT starts its training from.
    weights = {
        f"{name}.weight": random.standard_normal(shape, np.float32) * np.float32(0.02)
        for name, shape in (shapes | dense).items()
    }
    weights |= {f"{name}.bias": np.zeros(outputs, np.float32) for name, (outputs, _) in dense.items()}
    weights |= {f"{name}.weight": np.ones(hidden, np.float32) for name in norms}
    return weights | {f"{name}.bias": np.zeros(hidden, np.float32) for name in norms}


if __name__ == "__main__":
    print(checkpoint(sys.argv[1], Path(sys.argv[2])))
