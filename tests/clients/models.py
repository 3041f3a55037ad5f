"""Export the models that the clients ask: `python -m tests.clients.models FOLDER`, in the development environment."""

import sys
from pathlib import Path
from typing import Final

from model_export.export import ExportOptions, export
from tests.support import CHECKPOINTS, DEMO_CHECKPOINT

SERVED: Final = (
    "bert-single-label",
    "bert-multi-label",
    "bert-next-sentence",
    "bert-fill-mask",
    "bert-entities",
    "bert-answer",
    "bert-embed",
    "bert-embed-dense",
    "roberta-rerank",
    "bert-nli",
)
"""Fixtures; each is served by its own name."""
DEMO: Final = ("classify", "fill-mask")
"""Tasks of the demo, which is served as `demo-TASK`."""


def main(folder: Path) -> None:
    """Write a bundle for each."""
    for name in SERVED:
        write(CHECKPOINTS / name, folder / name, "auto")
    for task in DEMO:
        write(DEMO_CHECKPOINT, folder / f"demo-{task}", task)


def write(checkpoint: Path, bundle: Path, task: str) -> None:
    """Write one bundle."""
    export(ExportOptions(str(checkpoint), bundle, task, variants=("cpu-fp32",)), lambda _: None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
