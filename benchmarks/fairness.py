"""How long single texts wait beside a client that sends in bulk."""

import contextlib
import itertools
import threading
from collections.abc import Iterator

from benchmarks.common import CONNECTIONS, MAX_CONNECTIONS, Row, ours_loaded, say
from benchmarks.load import closed_loop, open_loop, poisson_schedule, quantile_ms
from benchmarks.systems import Running, serving
from benchmarks.texts import http_request, read_texts
from benchmarks.workplace import Workplace


def fairness(place: Workplace, model: str, *, rate_per_s: float, duration_s: float, rounds: int) -> list[Row]:
    """Measure single texts on schedule while another client sends requests of 512 texts without pause."""
    rows = []
    for number, system in itertools.product(range(rounds), ours_loaded(place, model)):
        say(f"fairness: {model}, round {number + 1}: {system.setting}")
        with serving(system) as running:
            requests = running.requests(read_texts("reviews"))
            closed_loop(running.port, requests, count=2 * CONNECTIONS, connections=CONNECTIONS)
            due_s = poisson_schedule(rate_per_s, duration_s, seed=3)
            alone = open_loop(running.port, requests, due_s=due_s / 2, connections=MAX_CONNECTIONS)
            with _bulk(running) as bulk:
                before = running.batches()
                load = open_loop(running.port, requests, due_s=due_s, connections=MAX_CONNECTIONS)
                after = running.batches()
        batch_ms = 1e3 * (after[0] - before[0]) / (after[1] - before[1])
        answered_s = load.latency_s[load.is_ok]
        p99_ms = quantile_ms(answered_s, 0.99) if answered_s.size else None
        rows.append(
            {
                "model": model,
                "round": number,
                "setting": system.setting,
                "requests": len(due_s),
                "refused": int((~load.is_ok).sum()),
                "alone_p50_ms": quantile_ms(alone.latency_s, 0.5),
                "p50_ms": quantile_ms(answered_s, 0.5) if answered_s.size else None,
                "p99_ms": p99_ms,
                "batch_ms": batch_ms,
                "p99_batches": None if p99_ms is None else p99_ms / batch_ms,
                "statuses": sorted(set(load.status.tolist())),
                "bulk_statuses": sorted(set(bulk)),
            }
        )
    return rows


@contextlib.contextmanager
def _bulk(running: Running) -> Iterator[list[int]]:
    """Send requests of 512 texts without pause; yields the statuses that come."""
    texts = list(itertools.islice(itertools.cycle(read_texts("reviews")), 512))
    request = http_request(running.system.path, {running.system.form: texts})
    stopping = threading.Event()
    statuses: list[int] = []

    def send() -> None:
        while not stopping.is_set():
            # In turns of one request, so that the thread sees that it shall stop.
            statuses.extend(closed_loop(running.port, [request], count=1, connections=1).status.tolist())

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield statuses
    finally:
        stopping.set()
        thread.join()
