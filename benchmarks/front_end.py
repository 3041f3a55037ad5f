"""Requests per second of HTTP, validation and tokenization without a model, on one core."""

import itertools
import os

from benchmarks.common import CONNECTIONS, Row, say
from benchmarks.load import closed_loop
from benchmarks.systems import ROOT, System, serving
from benchmarks.texts import read_texts
from benchmarks.workplace import Workplace


def front_end(place: Workplace, *, count: int, rounds: int) -> list[Row]:
    """Measure HTTP without a model: the server has one core, the generator the others."""
    bundle = place.bundle("demo")
    mine = os.sched_getaffinity(0)
    core = min(mine)
    systems = [
        System(
            kind,
            "one core",
            (
                str(place.server_python),
                "-m",
                "benchmarks.inside.front_end_servers",
                kind,
                str(bundle),
                "{port}",
                str(core),
            ),
            path="/v1/classify",
            form="inputs",
            folder=ROOT,
        )
        for kind in ("asgi", "fastapi-bare", "fastapi", "ours")
    ]
    rows = []
    os.sched_setaffinity(0, mine - {core} or mine)
    try:
        for number, system in itertools.product(range(rounds), systems):
            say(f"front end, round {number + 1}: {system.name}")
            with serving(system) as running:
                requests = running.requests(read_texts("reviews"))
                closed_loop(running.port, requests, count=count // 8, connections=CONNECTIONS)
                load = closed_loop(running.port, requests, count=count, connections=CONNECTIONS)
            rows.append(
                {
                    "system": system.name,
                    "round": number,
                    "rate_per_s": count / load.duration_s,
                    "failed": int((~load.is_ok).sum()),
                    "generator_cpu": load.generator_cpu,
                }
            )
    finally:
        os.sched_setaffinity(0, mine)
    return rows
