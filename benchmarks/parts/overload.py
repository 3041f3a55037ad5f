"""Answers and refusals at three times the rate that the server can answer."""

import itertools
from collections.abc import Iterator
from typing import Final

from benchmarks.batches import token_sequences
from benchmarks.bench import Bench
from benchmarks.load import closed_loop, open_loop, poisson_schedule, quantile_ms
from benchmarks.parts.compare import CONNECTIONS, MAX_CONNECTIONS
from benchmarks.report import Row, say
from benchmarks.servers import our_servers, serving
from benchmarks.texts import read_texts

SETTLE_S: Final = 6.0
"""Left out of what is counted: the queue fills meanwhile."""


def overload(bench: Bench, *, model: str, requests: int, duration_s: float) -> Iterator[Row]:
    """Send three times what the server can answer: measure what is answered, and how fast the rest is refused.

    The best rate is measured just before and just after: the machine's own speed changes.
    """
    texts = read_texts("reviews")
    tokens = list(map(len, token_sequences(bench.bundles.folder(model), texts)))
    for number, system in itertools.product(range(bench.rounds), our_servers(bench, model)):
        say(f"overload: {model}, round {number + 1}: {system.title}")
        with serving(system) as running:
            sent = running.requests(texts)

            def best(count: int, sent: list[bytes] = sent, port: int = running.port) -> Row:
                return closed_loop(port, sent, count=count, connections=2 * CONNECTIONS).row(tokens)

            best(2 * CONNECTIONS)  # warms up
            before = best(requests)
            offered_per_s = 3 * before["requests_per_s"]
            due_s = poisson_schedule(offered_per_s, duration_s, seed=2)
            load = open_loop(running.port, sent, due_s=due_s, connections=MAX_CONNECTIONS)
            after = best(requests)
        best_tokens_per_s = (before["tokens_per_s"] + after["tokens_per_s"]) / 2
        goodput = load.tokens(tokens, SETTLE_S, float(due_s[-1])) / (float(due_s[-1]) - SETTLE_S)
        refused_s = load.latency_s[(load.status == 429) & (load.answered_s >= SETTLE_S)]
        yield {
            "model": model,
            "engine": system.engine,
            "setting": system.setting,
            "offered_per_s": offered_per_s,
            "best_tokens_per_s": best_tokens_per_s,
            "goodput_tokens_per_s": goodput,
            "share": goodput / best_tokens_per_s,
            "refusal_p50_ms": quantile_ms(refused_s, 0.5),
            "refusal_p99_ms": quantile_ms(refused_s, 0.99),
            "aim": "share >= 0.95, refusals p99 <= 20 ms",
            **load.row(),
        }
