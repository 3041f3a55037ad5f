"""One run: the bundle, the input and the output are opened and fitted to each other, then the rows go through the engine."""

import asyncio
import logging
import math
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final, Self

from tqdm import tqdm

from app import __version__
from app.bundle.files import Bundle, by_name, load_bundle
from app.engine.local import LocalEngine
from app.engine.messages import Loaded
from app.predict.columns import Columns
from app.predict.faults import Stopped, WrongUse
from app.predict.file_output import FileOutput
from app.predict.output import Counts, Output, StreamOutput
from app.predict.pipeline import Pipeline
from app.predict.prediction import Predictor
from app.predict.progress_bar import ProgressBar
from app.predict.results import JsonResults, OutputFormat, Results, TableResults, added_columns
from app.predict.rows import InputFormat, Rows, read_rows
from app.predict.source import Source
from app.processes.models.loading import load_models, load_unless_stopped
from app.settings import Settings
from app.tasks import TASKS, tasks_of
from app.tasks.catalog import Handler, load_model
from app.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """What is predicted, and how. A path that is None is stdin or stdout; other values that are None have a default."""

    model: Path
    source: Path | None
    output: Path | None
    bad_rows: Path | None
    overwrite: bool
    columns: list[str] | None
    keep: list[str] | None
    input_format: InputFormat
    output_format: OutputFormat
    delimiter: str | None
    encoding: str
    task: str | None
    parameters: dict[str, Any] | None


async def run(one: "Run", settings: Settings, stopped: asyncio.Future[Any]) -> Counts:
    """Predict all rows, and return how many there were.

    Args:
        one: What and how.
        settings: The device.
        stopped: Done when the run is to end early.

    Raises:
        Stopped: it ended early.
        StartupError: the model cannot be loaded.
        CannotRead, CannotWrite: the input or the output fails.
        EngineLost: the device failed.
    """
    before = one.output.progress
    if before is not None:
        log.info(
            "%s after %s rows of the run before",
            "nothing is left" if before.is_complete else "going on",
            f"{before.counts.rows:,}",
        )
        if before.is_complete:
            return before.counts
    # There is no queue of callers: nothing is refused, and no row is late.
    settings = settings.model_copy(update={"max_queue_s": math.inf, "request_timeout_s": math.inf})
    engine = LocalEngine()
    try:
        loaded = await load_unless_stopped(load_models(settings, [one.bundle], engine, Metrics()), stopped)
        if loaded is None:
            raise Stopped
        return await one.predict(engine, loaded[one.bundle.name], stopped)
    finally:
        await engine.close()


class Run:
    """A bundle, an input and an output that fit each other."""

    def __init__(self, options: Options, settings: Settings) -> None:
        """Open them, and go on where the run before was.

        Raises:
            WrongUse: they do not fit.
            CannotRead, CannotWrite, BundleError: one of them cannot be opened.
        """
        self.bundle: Final = load_bundle(by_name(options.model))
        handler = _handler(self.bundle, options.task)
        columns = Columns(handler, options.columns, options.keep)
        self._predictor = Predictor(load_model(self.bundle), handler, columns, options.parameters)
        with ExitStack() as files:
            self._source, self._rows = _rows(options, files)
            columns.check(self._rows.columns, self._source.name, added_columns(options.output_format, handler.best))
            self.output: Final = files.enter_context(_output(options, settings, self.bundle, handler))
            progress = self.output.progress
            if progress is not None and not progress.is_complete and not self._source.skip_to(progress.position):
                if not options.overwrite:
                    raise WrongUse(
                        f"{options.output}.part was begun with another input: the first {progress.position.offset} bytes of "
                        f"{self._source.name} are others now. Go on with the same, or begin anew with --overwrite."
                    )
                self.output.begin_anew()
                if self._source.size is None:
                    raise WrongUse(
                        f"{self._source.name} is another input, and what was read to see that cannot be read again. What was begun "
                        "is removed: send the input once more."
                    )
                self._source, self._rows = _rows(options, files)
            self._results = _results(options, columns, handler, self._rows, self.output)
            self._files = files.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    async def predict(self, engine: LocalEngine, loaded: Loaded, stopped: asyncio.Future[Any]) -> Counts:
        """Predict the rows that are left with the engine that has loaded the bundle. Raises as `run`."""
        bar = ProgressBar(self._source.size, self._source.done_bytes, self._source.rows)
        pipeline = Pipeline(
            self._source, self._rows, self._predictor, results=self._results, output=self.output, bar=bar
        )
        started_at, rows_before = monotonic(), pipeline.counts.rows
        try:
            await pipeline.run(engine, loaded, stopped)
        except Stopped:
            log.info("stopped after %s rows%s", f"{pipeline.counts.rows:,}", self.output.hint)
            raise
        finally:
            bar.close()
        self._tell(pipeline.counts, pipeline.counts.rows - rows_before, monotonic() - started_at)
        return pipeline.counts

    def _tell(self, counts: Counts, rows: int, seconds: float) -> None:
        rate = rows / max(seconds, 1e-9)
        text = f"{counts.predicted:,} rows are predicted; this run read {rows:,} in {tqdm.format_interval(seconds)}, {rate:,.0f} rows/s"
        if counts.truncated:
            text += f"; {counts.truncated:,} were cut to {self.bundle.manifest.max_length} tokens"
        log.info("%s", text)
        if counts.bad:
            log.warning("%s rows are bad and have no prediction%s", f"{counts.bad:,}", self.output.where_bad)


def _handler(bundle: Bundle, task: str | None) -> Handler:
    able = tasks_of(bundle.manifest)
    task = bundle.manifest.task if task is None else task
    if task not in able:
        raise WrongUse(
            f"{bundle.folder} does not do {task}; it does {', '.join(able) or 'nothing that this release has'}."
        )
    return TASKS[task]


def _output(options: Options, settings: Settings, bundle: Bundle, handler: Handler) -> Output:
    """Open the output, which goes on if what decides over its rows is the same."""
    if options.output is None:
        return StreamOutput(options.bad_rows, overwrite=options.overwrite)
    assert options.bad_rows is not None
    same = {
        "model": bundle.identity,
        "task": handler.task,
        "parameters": options.parameters,
        "columns": options.columns,
        "keep": options.keep,
        "input format": options.input_format,
        "output format": options.output_format,
        "delimiter": options.delimiter,
        "encoding": options.encoding,
        "device": settings.device,
        "precision": settings.precision,
        "release": __version__,
        # Also from another working directory.
        "file of bad rows": ascii(os.path.relpath(options.bad_rows, options.output.parent)),
    }
    return FileOutput(options.output, options.bad_rows, same, overwrite=options.overwrite)


def _rows(options: Options, files: ExitStack) -> tuple[Source, Rows]:
    source = files.enter_context(Source.open(options.source))
    return source, read_rows(source, options.input_format, options.encoding, options.delimiter)


def _results(options: Options, columns: Columns, handler: Handler, rows: Rows, output: Output) -> Results:
    if options.output_format == "jsonl":
        return JsonResults(columns)
    before = None if output.progress is None else output.progress.header
    known = before or (None if rows.columns is None else list(columns.kept(dict.fromkeys(rows.columns))))
    delimiter = "\t" if options.output_format == "tsv" else ","
    return TableResults(columns, handler.best, delimiter, known, is_begun=before is not None)
