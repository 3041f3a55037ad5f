"""Export a result, by the command line of `model_export`."""

import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from model_export.__main__ import main
from model_export.checkpoint.config import read_config
from model_export.checkpoint.tokenizer import read_tokenizer
from model_export.errors import ExportError
from model_export.export import VARIANTS
from model_export.output.place import check_output
from training.errors import Stopped, TrainingError


def check_export(
    bundle: Path, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, variants: str | None = None
) -> None:
    """Check, before anything is learnt, what an export checks of all but the weights.

    Args:
        bundle: Where it goes.
        config: Of the network that learns.
        tokenizer: Its tokenizer.
        variants: Their names, as the command line has them.

    Raises:
        TrainingError: the export would fail.
    """
    if unknown := [name for name in (variants or "cpu-fp32").split(",") if name.strip() not in VARIANTS]:
        raise TrainingError(f"--variants has {', '.join(unknown) or 'no name'}: choose from {','.join(VARIANTS)}.")
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        try:
            check_output(bundle)
            read_config(Path(folder))
            read_tokenizer(Path(folder))
        except ExportError as error:
            told = str(error).replace("--output", "--export").replace(folder, config.name_or_path)
            raise TrainingError(f"the result could not be exported: {told}") from None


def export(checkpoint: Path, bundle: Path, task: str, options: Sequence[str] = ()) -> None:
    """Export a checkpoint to a bundle.

    Raises:
        TrainingError: the export failed; it has said why.
        KeyboardInterrupt: it was stopped; the message says how to go on.
        Stopped: so it was.
    """
    going_on = "Stopped in the export. The same command goes on with it."
    try:
        status = main(["export", "--checkpoint", str(checkpoint), "--output", str(bundle), "--task", task, *options])
    except Stopped:
        raise Stopped(going_on) from None
    if status == 128 + signal.SIGINT:
        raise KeyboardInterrupt(going_on)
    if status != 0:
        raise TrainingError(f"the export of {checkpoint} failed.")
