"""Rows per second of `python -m app predict`, beside those of the engine alone on the same rows, tokenized before."""

import asyncio
import csv
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Final

from app.bundle.files import Bundle
from app.engine.local import LocalEngine
from app.engine.messages import Loaded
from app.predict.run import Options, Run
from app.processes.models.loading import load_models
from app.settings import Settings
from app.tasks.base import prepare_whole
from app.tasks.catalog import load_model
from app.tasks.inputs import Truncation
from app.telemetry.metrics import Metrics
from benchmarks.bench import Bench
from benchmarks.report import Row, say
from benchmarks.texts import read_texts

AIM: Final = ">= 0.9 of the engine alone"
JOB: Final = 512
"""Rows that the engine alone gets at once."""


def bulk(bench: Bench, *, rows: dict[str, int]) -> Iterator[Row]:
    """Measure a CSV to JSON lines with a model that is loaded, and the engine alone, in turns.

    Args:
        bench: What is measured on.
        rows: How many, by model.
    """
    for model, count in rows.items():
        for precision in bench.precisions:
            say(f"bulk: {model} {precision}, {count} rows")
            for engine_s, predict_s in asyncio.run(_durations(bench, model, precision, count)):
                yield {
                    "model": model,
                    "precision": precision,
                    "texts": "reviews",
                    "rows": count,
                    "engine_rows_per_s": count / engine_s,
                    "predict_rows_per_s": count / predict_s,
                    "of_engine": engine_s / predict_s,
                    "aim": AIM,
                }


async def _durations(bench: Bench, model: str, precision: str, count: int) -> list[tuple[float, float]]:
    """Return how long both took, in each round, seconds."""
    bundle = bench.bundle(model)
    settings = Settings(
        device=bench.device, precision=precision, request_timeout_s=1e6, max_queue_s=1e6, tuning_cache=False
    )
    engine = LocalEngine()
    try:
        loaded = (await load_models(settings, [bundle], engine, Metrics()))[bundle.name]
        return [await _round(bundle, engine, loaded, settings, count) for _ in range(bench.rounds)]
    finally:
        await engine.close()


async def _round(
    bundle: Bundle, engine: LocalEngine, loaded: Loaded, settings: Settings, count: int
) -> tuple[float, float]:
    texts = list(islice(cycle(read_texts("reviews")), count))
    sequences = prepare_whole(load_model(bundle), texts, Truncation()).sequences
    started_at = time.perf_counter()
    jobs = [engine.submit(bundle.key, sequences[first : first + JOB]) for first in range(0, count, JOB)]
    await asyncio.gather(*(job.future for job in jobs))
    engine_s = time.perf_counter() - started_at
    with tempfile.TemporaryDirectory() as folder, Run(_options(bundle, Path(folder), texts), settings) as one:
        started_at = time.perf_counter()
        await one.predict(engine, loaded, asyncio.get_running_loop().create_future())
        predict_s = time.perf_counter() - started_at
    return engine_s, predict_s


def _options(bundle: Bundle, folder: Path, texts: Sequence[str]) -> Options:
    source = folder / "reviews.csv"
    with source.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "text"])
        writer.writerows(enumerate(texts))
    return Options(
        model=bundle.folder,
        source=source,
        output=folder / "scored.jsonl",
        bad_rows=folder / "scored.bad.jsonl",
        overwrite=False,
        columns=["text"],
        keep=None,
        input_format="csv",
        output_format="jsonl",
        delimiter=None,
        encoding="utf-8",
        task=None,
        parameters=None,
    )
