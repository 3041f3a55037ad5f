"""Export a result, by the command line of `model_export`."""

from collections.abc import Sequence
from pathlib import Path

from model_export.__main__ import main
from training.errors import TrainingError


def export(checkpoint: Path, bundle: Path, task: str, options: Sequence[str] = ()) -> None:
    """Export a checkpoint to a bundle.

    Raises:
        TrainingError: the export failed; it has said why.
    """
    if main(["export", "--checkpoint", str(checkpoint), "--output", str(bundle), "--task", task, *options]) != 0:
        raise TrainingError(f"the export of {checkpoint} failed.")
