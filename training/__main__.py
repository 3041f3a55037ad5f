"""`python -m training`: make a checkpoint for `python -m model_export`, from raw text to a smaller model."""

import argparse
import dataclasses
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Final

from training.errors import Stopped, TrainingError, tell

COMMANDS: Final[dict[str, str]] = {
    "pretrain": "a BERT from raw text: masked words and next sentences",
    "finetune": "a classifier, an entity finder or a question answerer, from labelled rows",
    "distill": "a smaller model that answers like a fine-tuned one, from texts without labels",
    "demo": "the demo checkpoint, from texts and weights that packages ship",
    "prune-vocabulary": "the same checkpoint without the tokens that a corpus never uses",
}
"""Each is a package of this name, with `arguments.add_arguments`, `arguments.Options` and `command.run`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Return 0, or print one line that says what went wrong and return 1; 128 and the signal's number if stopped."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = options.run
    signal.signal(signal.SIGTERM, _stop)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        run(options)
    except TrainingError as error:
        tell(f"error: {error}")
        return 1
    except OSError as error:
        tell(f"error: {error.filename or 'a file'} cannot be read or written: {error.strerror or error}")
        return 1
    except (Stopped, KeyboardInterrupt) as stop:
        tell(str(stop) or "Stopped.")
        return 128 + (signal.SIGTERM if isinstance(stop, Stopped) else signal.SIGINT)
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] in ("app", "model_export", "training"):
            raise
        tell(
            f"error: {sys.executable} has no package {missing.name}: run this with .venv-train/bin/python, which "
            "`make .venv-train/installed` makes"
        )
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, purpose in COMMANDS.items():
        package = f"training.{name.replace('-', '_')}"
        command = commands.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
        # What a command says of itself is there at once; torch takes seconds, and is imported only to run one.
        importlib.import_module(f"{package}.arguments").add_arguments(command)
        command.set_defaults(run=partial(_run, package))
    return parser


def _run(package: str, given: argparse.Namespace) -> None:
    options = importlib.import_module(f"{package}.arguments").Options
    names = [field.name for field in dataclasses.fields(options)]
    importlib.import_module(f"{package}.command").run(options(**{name: getattr(given, name) for name in names}))


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise Stopped


if __name__ == "__main__":
    sys.exit(main())
