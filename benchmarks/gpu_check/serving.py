"""The served figures: from one to many front ends, single texts and many in a request, latency against load."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.common import MAX_CONNECTIONS, OFFERED, Row, say
from benchmarks.gpu_check.bench import Bench
from benchmarks.gpu_check.generators import Generators
from benchmarks.inside.batches import token_sequences
from benchmarks.load import Load, closed_loop, poisson_schedule, quantile_ms
from benchmarks.systems import Running, our_system, serving
from benchmarks.texts import SHORT_TEXT, TextSet, http_request, read_texts

BATCH: Final = 32
"""Texts of a batched request."""
SINGLE_CONNECTIONS: Final = 64
"""For each front end, in the closed loop of single texts: together they fill the batches of a GPU."""


def served(bench: Bench) -> Iterator[Row]:
    """Measure the server with each number of front ends that the machine has cores for."""
    cores = len(os.sched_getaffinity(0))
    folder = bench.bundles.folder(bench.form.model)
    with Generators(max(1, cores // 4)) as generators:
        for front_ends in bench.form.front_ends:
            if front_ends > cores:
                continue
            say(f"serving: {bench.form.model}, front ends: {front_ends}")
            system = our_system(
                Path(sys.executable),
                folder.parent,
                f"{front_ends} front ends",
                *("--device", bench.device, "--precision", bench.served_precision, "--workers", str(front_ends)),
                # A refusal is answered at once, and a closed loop of refusals has no rate.
                *("--max-queue-s", "60", "--request-timeout-s", "120"),
            )
            with serving(system) as running:
                for row in _figures(bench, running, generators, front_ends):
                    yield {
                        "model": bench.form.model,
                        "precision": bench.served_precision,
                        "front_ends": front_ends,
                        **row,
                    }


def _figures(bench: Bench, running: Running, generators: Generators, front_ends: int) -> Iterator[Row]:
    form = bench.form
    idle = closed_loop(running.port, running.requests([SHORT_TEXT]), count=form.idle_requests, connections=1)
    yield {"kind": "idle", "requests": "single", **_latencies(idle)}
    single = running.requests(read_texts("reviews"))
    best = _closed(
        *(bench, running, generators),
        requests=single,
        texts="reviews",
        batch=1,
        connections=SINGLE_CONNECTIONS * front_ends,
    )
    yield {"kind": "closed", "requests": "single", **best}
    texts = read_texts("mix")
    batched = [
        http_request(running.system.path, {"inputs": texts[i : i + BATCH]})
        for i in range(0, len(texts) - BATCH + 1, BATCH)
    ]
    measured = _closed(
        *(bench, running, generators),
        requests=batched,
        texts="mix",
        batch=BATCH,
        connections=form.batched_connections,
    )
    yield {"kind": "closed", "requests": "batched", **measured}
    for share in OFFERED:
        rate = share * best["requests_per_s"]
        due_s = poisson_schedule(rate, form.open_s, seed=1)
        load = generators.open(running.port, single, due_s=due_s, connections=MAX_CONNECTIONS)
        yield {"kind": "open", "requests": "single", "share": share, "offered_per_s": rate, **_latencies(load)}


def _closed(
    bench: Bench,
    running: Running,
    generators: Generators,
    *,
    requests: list[bytes],
    texts: TextSet,
    batch: int,
    connections: int,
) -> Row:
    """Send for about as long as the form says, once it is known how fast the server is."""
    warm_up = generators.closed(running.port, requests, count=2 * connections, connections=connections)
    rate = len(warm_up.request) / warm_up.duration_s
    count = max(2 * connections, round(rate * bench.form.closed_s))
    load = generators.closed(running.port, requests, count=count, connections=connections)
    sequences = token_sequences(bench.bundles.folder(bench.form.model), read_texts(texts))
    tokens = [sum(map(len, sequences[i * batch : (i + 1) * batch])) for i in range(len(requests))]
    answered = load.request[load.is_ok] % len(requests)
    rate = len(answered) / load.duration_s
    return {
        "texts": texts,
        "connections": connections,
        "requests_per_s": rate,
        "sequences_per_s": rate * batch,
        "tokens_per_s": sum(tokens[i] for i in answered.tolist()) / load.duration_s,
        **_latencies(load),
    }


def _latencies(load: Load) -> Row:
    statuses, counts = np.unique(load.status[~load.is_ok], return_counts=True)
    latency_s = load.latency_s[load.is_ok]
    return {
        "sent": len(load.request),
        # By status; 0 is a connection that ended without an answer.
        "failed": dict(zip(map(str, statuses.tolist()), counts.tolist(), strict=True)),
        "p50_ms": quantile_ms(latency_s, 0.5) if len(latency_s) else None,
        "p99_ms": quantile_ms(latency_s, 0.99) if len(latency_s) else None,
        "generator_cpu": load.generator_cpu,
    }
