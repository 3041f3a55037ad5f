"""Tokens per second of this project's engine with no HTTP before it: all texts are asked of it at once. Prints JSON.

Runs in the project's environment, with the settings of a server in the environment (`BERT_PRECISION`, `BERT_THREADS`, ...).

    python -m benchmarks.inside.engine_alone BUNDLE COUNT
"""

import asyncio
import json
import sys
import time
from pathlib import Path

from prometheus_client import CollectorRegistry

from app.bundle.files import load_bundle
from app.engine.local import LocalEngine
from app.processes.loading import load_models
from app.settings import Settings
from app.telemetry.metrics import Metrics
from benchmarks.inside.batches import token_sequences
from benchmarks.texts import read_texts


async def main(folder: Path, count: int) -> None:
    """Measure and print."""
    bundle = load_bundle(folder)
    engine = LocalEngine()
    # Every text is admitted at once, however long the last one waits.
    settings = Settings(max_queue_s=3600, request_timeout_s=3600)
    await load_models(settings, [bundle], engine, Metrics(CollectorRegistry()))
    sequences = token_sequences(folder, read_texts("reviews")[:count])
    started_at = time.perf_counter()
    await asyncio.gather(*(engine.infer(bundle.name, [sequence]) for sequence in sequences))
    duration_s = time.perf_counter() - started_at
    await engine.close()
    print(json.dumps(sum(map(len, sequences)) / duration_s))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
