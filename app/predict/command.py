"""The command line of `python -m app predict`."""

import asyncio
import logging
import os
import signal
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import uvloop
from pydantic_core import from_json

from app.errors import EngineLost, StartupError
from app.flags import add_settings, parser_for, read_settings, tell
from app.predict.faults import CannotPredict, Stopped, WrongUse
from app.predict.file_output import files_of
from app.predict.results import SUFFIXES as OUTPUT_SUFFIXES
from app.predict.results import OutputFormat
from app.predict.rows import SUFFIXES as INPUT_SUFFIXES
from app.predict.rows import InputFormat
from app.predict.run import Options, Run, run
from app.processes.core_dumps import leave_no_core
from app.processes.signals import stop_on_signals
from app.settings import Settings
from app.tasks import TASKS
from app.telemetry.logs import configure

log = logging.getLogger(__name__)

COMPRESSED: Final = ".gz"
STREAM: Final = "-"
"""The name of stdin and stdout."""
_SETTINGS: Final = (
    *("device", "precision", "threads", "gpu_memory_mib", "batch_tokens", "tuning_cache", "tuning_cache_dir"),
    "log_level",
)
"""What a run has in common with a server."""

F = TypeVar("F", bound=str)


class Status(IntEnum):
    """How a run ended, if no signal stopped it."""

    DONE = 0
    FAILED = 1
    """The model cannot be loaded, or a file cannot be read or written."""
    WRONG_USE = 2
    BAD_ROWS = 3
    """All rows were read, and some have no prediction."""
    LOST = 70
    """The device failed. The same command goes on."""


def predict(arguments: Sequence[str]) -> int:
    """Predict as the arguments say, and return the exit status."""
    given = vars(make_parser().parse_args(arguments))
    settings = read_settings({name: given[name] for name in _SETTINGS if name in given})
    if settings is None:
        return Status.WRONG_USE
    configure(settings.log_level, "text")
    leave_no_core()
    try:
        # Outside of the event loop, which would keep a signal from ending what waits for a pipe. Nothing can be lost yet.
        with Run(_options(given), settings) as one:
            return uvloop.run(_predict(one, settings))
    except WrongUse as error:
        tell(f"error: {error}")
        return Status.WRONG_USE
    except (CannotPredict, StartupError) as error:
        log.critical("%s", error)
        return Status.FAILED
    except EngineLost as error:
        log.critical("the device failed: %s. The same command goes on", error.__cause__ or error)
        return Status.LOST


async def _predict(one: Run, settings: Settings) -> int:
    stopped_by: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def stop(name: str) -> None:
        if not stopped_by.done():
            stopped_by.set_result(name)

    stop_on_signals(stop, lambda number: os._exit(128 + number))
    try:
        counts = await run(one, settings, stopped_by)
    except Stopped:
        return 128 + signal.Signals[stopped_by.result()]
    return Status.BAD_ROWS if counts.bad else Status.DONE


def make_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = parser_for(
        "python -m app predict",
        "python -m app predict --model FOLDER --input FILE --output FILE [OPTIONS]",
        "Write what a model says of each row of a file, in the order of the rows. After a kill the same command goes on where "
        "it was. Exit status: 0 all rows are predicted, 3 some are bad, 1 the model or a file fails, 2 wrong use, 70 the device "
        "fails.",
    )
    files = parser.add_argument_group("model, input and output")
    files.add_argument("--model", required=True, type=Path, metavar="FOLDER", help="a bundle, as in models/sentiment")
    files.add_argument(
        "--input",
        required=True,
        metavar="FILE",
        help="CSV with a header, JSON lines, or lines of text, also compressed (.gz); - for stdin",
    )
    files.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="JSON lines or CSV; - for stdout, which does not go on after a kill",
    )
    files.add_argument(
        "--bad-rows",
        type=Path,
        metavar="FILE",
        help="JSON lines of the rows without a prediction, with the reasons [default: as OUTPUT, with .bad.jsonl]",
    )
    files.add_argument(
        "--overwrite",
        action="store_true",
        default=False,
        help="replace an output that is there, and begin anew what was begun with other options",
    )
    rows = parser.add_argument_group("rows")
    rows.add_argument(
        "--column",
        nargs="+",
        metavar="NAME",
        help="columns of the task's input, in its order: --column question context [default: those of the same names]",
    )
    rows.add_argument(
        "--keep",
        nargs="*",
        metavar="NAME",
        help="columns to copy to the output; none if no name follows [default: all]",
    )
    rows.add_argument("--input-format", choices=get_args(InputFormat), help="[default: by the name of the file]")
    rows.add_argument("--output-format", choices=get_args(OutputFormat), help="[default: by the name of the file]")
    rows.add_argument("--delimiter", metavar="CHARACTER", help="between the cells of a CSV input [default: a comma]")
    rows.add_argument("--encoding", default="utf-8", metavar="NAME", help="of the input [default: utf-8]")
    task = parser.add_argument_group("task")
    task.add_argument("--task", choices=sorted(TASKS), help="one that the model can do [default: its own]")
    task.add_argument("--parameters", metavar="JSON", help="of the task, as in a request: '{\"top_k\": 1}'")
    add_settings(parser.add_argument_group("device"), _SETTINGS)
    return parser


def _options(given: Mapping[str, Any]) -> Options:
    """Return the options that are given, and the defaults of the others.

    Raises:
        WrongUse: they are not all there, or do not fit each other.
    """
    source, output = (None if given[name] == STREAM else Path(given[name]) for name in ("input", "output"))
    bad_rows = given.get("bad_rows")
    if output is not None:
        _check_replaceable(output)
        bad_rows = bad_rows or output.with_suffix(".bad.jsonl")
        _check_replaceable(bad_rows)
    written = [] if bad_rows is None else [bad_rows] if output is None else files_of(output, bad_rows)
    named = [os.path.realpath(path) for path in ([] if source is None else [source]) + written]
    if len(set(named)) < len(named):
        raise WrongUse("--input, --output (also with .part and .progress) and --bad-rows name one file twice.")
    try:
        "".join([*given.get("column", ()), *given.get("keep", ()), given.get("delimiter", "")]).encode()
    except UnicodeEncodeError:
        raise WrongUse("--column, --keep or --delimiter is not UTF-8.") from None
    plain = source.with_suffix("") if source is not None and source.suffix.lower() == COMPRESSED else source
    return Options(
        model=given["model"],
        source=source,
        output=output,
        bad_rows=bad_rows,
        overwrite=given["overwrite"],
        columns=given.get("column"),
        keep=given.get("keep"),
        input_format=given.get("input_format") or _format(plain, INPUT_SUFFIXES, "--input-format"),
        output_format=given.get("output_format") or _format(output, OUTPUT_SUFFIXES, "--output-format"),
        delimiter=given.get("delimiter"),
        encoding=given["encoding"],
        task=given.get("task"),
        parameters=_parameters(given.get("parameters")),
    )


def _format(path: Path | None, suffixes: Mapping[str, F], flag: str) -> F:
    """Return the format that a file's name tells."""
    if path is not None and (form := suffixes.get(path.suffix.lower())) is not None:
        return form
    name = "A stream" if path is None else path
    forms = ", ".join(dict.fromkeys(suffixes.values()))
    raise WrongUse(f"{name} does not tell its format by its name. Say it with {flag}: {forms}.")


def _check_replaceable(path: Path) -> None:
    """Pass if this is a file, or nothing is there.

    Raises:
        WrongUse: it is not.
    """
    if path.suffix.lower() == COMPRESSED:
        raise WrongUse(f"{path}: an output is not compressed. Name it without {COMPRESSED}.")
    with suppress(OSError):
        if path.exists() and not path.is_file():
            raise WrongUse(f"{path} is no file, and cannot be replaced by one. Name another, or - for stdout.")


def _parameters(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        parameters = from_json(os.fsencode(text), allow_inf_nan=False)
    except ValueError as error:
        raise WrongUse(f"--parameters is not JSON: {error}.") from error
    if not isinstance(parameters, dict):
        raise WrongUse("--parameters is no JSON object, as in '{\"top_k\": 1}'.")
    return parameters
