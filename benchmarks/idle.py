"""What the service adds to the bare session run when one short text at a time is asked of it."""

import json

import numpy as np

from benchmarks.common import Row, ours, say
from benchmarks.load import closed_loop, quantile_ms
from benchmarks.systems import serving
from benchmarks.texts import SHORT_TEXT
from benchmarks.workplace import Workplace


def idle(place: Workplace, model: str, *, count: int, rounds: int) -> list[Row]:
    """Measure one short text at a time, and the bare session run just before and after it."""
    rows = []
    for system in ours(place, model):
        if "int8" in system.setting:
            continue
        say(f"idle: {model}, {system.setting}")
        served: list[float] = []
        bare: list[float] = []
        runs: list[float] = []
        for _ in range(rounds):
            # A server of its own: where a process has its weights in memory makes a run faster or slower by some percent.
            with serving(system) as running:
                bare += json.loads(
                    place.run("-m", "benchmarks.inside.bare_run", str(place.bundle(model)), SHORT_TEXT, str(count))
                )
                before = running.batches()
                load = closed_loop(running.port, [system.request(SHORT_TEXT)], count=count, connections=1)
                after = running.batches()
                runs.append((after[0] - before[0]) / (after[1] - before[1]))
                served += load.latency_s[count // 10 :].tolist()
        p50, bare_p50 = quantile_ms(np.array(served), 0.5), quantile_ms(np.array(bare), 0.5)
        rows.append(
            {
                "model": model,
                "setting": system.setting,
                "requests": len(served),
                "p50_ms": p50,
                "bare_p50_ms": bare_p50,
                "added_ms": p50 - bare_p50,
                "run_ms": float(np.median(runs)) * 1e3,
                "p99_ms": quantile_ms(np.array(served), 0.99),
            }
        )
    return rows
