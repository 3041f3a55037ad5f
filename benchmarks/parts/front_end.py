"""Requests per second of HTTP, validation and tokenization without a model, on one core."""

import itertools
import os
import sys
from collections.abc import Iterator
from typing import Final

from benchmarks.bench import Bench
from benchmarks.bundles import ROOT
from benchmarks.load import closed_loop
from benchmarks.parts.compare import CONNECTIONS
from benchmarks.report import Row, say
from benchmarks.servers import System, serving
from benchmarks.texts import read_texts

KINDS: Final = {
    "asgi": "raw ASGI under uvicorn: constant answer, nothing read",
    "fastapi-bare": "idiomatic FastAPI route: validates, no tokenizer",
    "fastapi": "idiomatic FastAPI route with this service's work: tokenizer, scores",
    "ours": "this service, its engine replaced by one that answers at once",
}


def front_end(bench: Bench, *, requests: int) -> Iterator[Row]:
    """Measure HTTP without a model: the server has one core, the generator the others."""
    bundle = bench.bundles.folder("demo")
    mine = os.sched_getaffinity(0)
    core = min(mine)
    command = (sys.executable, "-m", "benchmarks.parts.front_end_servers")
    systems = [
        System(
            name,
            "none",
            "one core",
            (*command, kind, str(bundle), "{port}", str(core)),
            path="/v1/classify",
            form="inputs",
            folder=ROOT,
        )
        for kind, name in KINDS.items()
    ]
    os.sched_setaffinity(0, mine - {core} or mine)
    for number, system in itertools.product(range(bench.rounds), systems):
        say(f"front end, round {number + 1}: {system.name}")
        with serving(system) as running:
            sent = running.requests(read_texts("reviews"))
            closed_loop(running.port, sent, count=requests // 8, connections=CONNECTIONS)
            load = closed_loop(running.port, sent, count=requests, connections=CONNECTIONS)
        yield {"server": system.name, "requests_per_s": requests / load.duration_s, **load.row()}
