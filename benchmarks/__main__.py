"""Measure this server and its peers on CPUs: `python -m benchmarks`, in the environment of the export, which can serve, too.

The short form is for looking, the full one for claims: peers swept over batch sizes and processes, then medians of three rounds
of the best settings.
Writes `cpu-<processor>.json` and `.md`, and prints the tables.
"""

import sys
from collections.abc import Iterator
from functools import partial
from typing import Final

from benchmarks.harness import Command, Form, Part, run
from benchmarks.parts.accuracy import accuracy
from benchmarks.parts.bulk import bulk
from benchmarks.parts.compare import compare, side_by_side
from benchmarks.parts.engine_process import engine_process
from benchmarks.parts.engines import engines
from benchmarks.parts.fairness import fairness
from benchmarks.parts.front_end import front_end
from benchmarks.parts.idle import idle
from benchmarks.parts.offline import offline
from benchmarks.parts.overload import overload
from benchmarks.report import Row


def _form(
    *,
    base: "partial[Iterator[Row]]",
    tiny: "partial[Iterator[Row]]",
    beside: tuple[int, int],
    engine_tokens: int,
    mixed_texts: int,
    rated: int | None,
    timed: int,
    texts: int,
    front_end_requests: int,
    engine_process_requests: int,
    idle_requests: int,
    bulk_rows: dict[str, int],
    overload_s: float,
    fairness_s: float,
    rounds: int = 1,
) -> Form:
    """Return a form with as many requests and texts, and seconds."""
    engine = partial(offline, models=("base",), lengths=(), texts="reviews", most_texts=texts)
    budgets = partial(engine, budgets=(1, 64, 128, 256, 512, 1024), threads=(1,), side=1024, pass_s=0, hold_s=0)
    parts = {
        "offline": Part(budgets, ("base",)),
        "base": Part(base, ("base",)),
        "tiny": Part(tiny, ("tiny",)),
        "side-by-side": Part(partial(side_by_side, requests={"base": beside[0], "tiny": beside[1]}), ("base", "tiny")),
        "engines": Part(partial(engines, model="base", tokens=engine_tokens, mixed_texts=mixed_texts), ("base",)),
        # minilm needs the environment of torch, and demo does not: the part makes it.
        "accuracy": Part(partial(accuracy, models=("demo", "minilm"), texts=rated, timed_texts=timed), ("demo",)),
        "front-end": Part(partial(front_end, requests=front_end_requests), ("demo",)),
        "engine-process": Part(partial(engine_process, requests=engine_process_requests), ("demo",)),
        "idle": Part(partial(idle, models=("demo", "base"), requests=idle_requests), ("demo", "base")),
        "bulk": Part(partial(bulk, rows=bulk_rows), tuple(bulk_rows)),
        "overload": Part(partial(overload, model="base", requests=128, duration_s=overload_s), ("base",)),
        "fairness": Part(partial(fairness, model="base", rate_per_s=3, duration_s=fairness_s), ("base",)),
    }
    return Form(parts, part_within_s=6 * 3600, rounds=rounds)


SHORT: Final = _form(
    base=partial(compare, model="base", requests={"reviews": 160, "mix": 32}, open_s=5),
    tiny=partial(compare, model="tiny", requests={"reviews": 4000}),
    beside=(80, 2000),
    engine_tokens=1000,
    mixed_texts=32,
    rated=1500,
    timed=160,
    texts=48,
    front_end_requests=8000,
    engine_process_requests=50000,
    idle_requests=100,
    bulk_rows={"demo": 3000, "base": 240, "tiny": 60000},
    overload_s=16,
    fairness_s=30,
)
_SWEPT: Final = partial(compare, batches=(1, 4, 16, 32), batches_split=(1, 4, 16))
FULL: Final = _form(
    rounds=3,
    base=partial(
        _SWEPT, model="base", requests={"reviews": 320, "mix": 96}, swept={"reviews": 64, "mix": 24}, open_s=20
    ),
    tiny=partial(_SWEPT, model="tiny", requests={"reviews": 12000, "mix": 3000}, swept={"reviews": 1500, "mix": 500}),
    beside=(160, 6000),
    engine_tokens=2000,
    mixed_texts=64,
    rated=None,
    timed=480,
    texts=64,
    front_end_requests=30000,
    engine_process_requests=100000,
    idle_requests=300,
    bulk_rows={"demo": 6000, "base": 480, "tiny": 200000},
    overload_s=20,
    fairness_s=40,
)
SMOKE: Final = _form(
    base=partial(compare, model="base", requests={"reviews": 32, "mix": 16}, open_s=1),
    tiny=partial(compare, model="tiny", requests={"reviews": 200}),
    beside=(16, 100),
    engine_tokens=100,
    mixed_texts=16,
    rated=160,
    timed=32,
    texts=8,
    front_end_requests=500,
    engine_process_requests=10000,
    idle_requests=20,
    bulk_rows={"demo": 200},
    overload_s=8,
    fairness_s=8,
)
COMMAND: Final = Command("cpu", __doc__, {"short": SHORT, "full": FULL, "smoke": SMOKE}, precisions=("fp32", "int8"))

if __name__ == "__main__":
    sys.exit(run(COMMAND))
