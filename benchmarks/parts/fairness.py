"""How long single texts wait beside a client that sends in bulk."""

import contextlib
import itertools
import threading
from collections.abc import Iterator
from typing import Final

from benchmarks.bench import Bench
from benchmarks.load import closed_loop, open_loop, poisson_schedule, quantile_ms
from benchmarks.parts.compare import CONNECTIONS, MAX_CONNECTIONS
from benchmarks.report import Row, say
from benchmarks.servers import Running, our_servers, serving
from benchmarks.texts import http_request, read_texts

BULK_TEXTS: Final = 512


def fairness(bench: Bench, *, model: str, rate_per_s: float, duration_s: float) -> Iterator[Row]:
    """Measure single texts on schedule while another client sends requests of 512 texts without pause."""
    for number, system in itertools.product(range(bench.rounds), our_servers(bench, model)):
        say(f"fairness: {model}, round {number + 1}: {system.title}")
        with serving(system) as running:
            requests = running.requests(read_texts("reviews"))
            closed_loop(running.port, requests, count=2 * CONNECTIONS, connections=CONNECTIONS)
            due_s = poisson_schedule(rate_per_s, duration_s, seed=3)
            alone = open_loop(running.port, requests, due_s=due_s / 2, connections=MAX_CONNECTIONS)
            with _bulk(running):
                before = running.batches()
                load = open_loop(running.port, requests, due_s=due_s, connections=MAX_CONNECTIONS)
                seconds, count = running.batches() - before
        p99_ms = quantile_ms(load.latency_s[load.is_ok], 0.99)
        batch_ms = float(1e3 * seconds / count)
        yield {
            "model": model,
            "engine": system.engine,
            "setting": system.setting,
            "alone_p50_ms": quantile_ms(alone.latency_s, 0.5),
            "batch_ms": batch_ms,
            "p99_in_batches": None if p99_ms is None else p99_ms / batch_ms,
            "aim": "p99 <= 2.5 batches",
            **load.row(),
        }


@contextlib.contextmanager
def _bulk(running: Running) -> Iterator[None]:
    """Send requests of many texts without pause."""
    texts = list(itertools.islice(itertools.cycle(read_texts("reviews")), BULK_TEXTS))
    request = http_request(running.system.path, {running.system.form: texts})
    stopping = threading.Event()

    def send() -> None:
        while not stopping.is_set():  # seen between two requests
            closed_loop(running.port, [request], count=1, connections=1)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
