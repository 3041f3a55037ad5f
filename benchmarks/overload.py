"""What becomes of requests when three times more come than the server can answer."""

import itertools

import numpy as np

from benchmarks.common import CONNECTIONS, MAX_CONNECTIONS, Row, ours_loaded, say, token_counts
from benchmarks.load import Load, closed_loop, open_loop, poisson_schedule, quantile_ms
from benchmarks.systems import serving
from benchmarks.texts import read_texts
from benchmarks.workplace import Workplace


def overload(
    place: Workplace, model: str, *, requests: int, duration_s: float, settle_s: float, rounds: int
) -> list[Row]:
    """Measure what is answered and how fast the rest is refused. `settle_s` is left out: the queue fills meanwhile.

    The best rate is measured just before and just after: the machine's own speed changes.
    """
    tokens = np.array(token_counts(place, model, read_texts("reviews")))
    rows = []
    for number, system in itertools.product(range(rounds), ours_loaded(place, model)):
        say(f"overload: {model}, round {number + 1}: {system.setting}")
        with serving(system) as running:
            texts = running.requests(read_texts("reviews"))
            closed_loop(running.port, texts[::-1], count=2 * CONNECTIONS, connections=CONNECTIONS)
            before = closed_loop(running.port, texts, count=requests, connections=2 * CONNECTIONS)
            offered_per_s = 3 * requests / before.duration_s
            due_s = poisson_schedule(offered_per_s, duration_s, seed=2)
            load = open_loop(running.port, texts, due_s=due_s, connections=MAX_CONNECTIONS)
            after = closed_loop(running.port, texts, count=requests, connections=2 * CONNECTIONS)
        under = _under_overload(load, tokens, settle_s, float(due_s[-1]))
        best_s = before.duration_s + after.duration_s
        asked = np.concatenate([before.request, after.request])
        best_tokens_per_s = float(tokens[asked % len(tokens)].sum()) / best_s
        rows.append(
            {
                "model": model,
                "round": number,
                "setting": system.setting,
                "best_per_s": 2 * requests / best_s,
                "best_tokens_per_s": best_tokens_per_s,
                "goodput_share": under["goodput_tokens_per_s"] / best_tokens_per_s,
                "offered_per_s": offered_per_s,
                **under,
            }
        )
    return rows


def _under_overload(load: Load, tokens: np.ndarray, start_s: float, end_s: float) -> Row:
    within = (load.answered_s >= start_s) & (load.answered_s < end_s)
    good = load.is_ok & within
    refused = load.status == 429
    late_refusals = load.latency_s[refused & within]
    return {
        "goodput_per_s": float(good.sum()) / (end_s - start_s),
        "goodput_tokens_per_s": float(tokens[load.request[good] % len(tokens)].sum()) / (end_s - start_s),
        "answered": int(good.sum()),
        "refused": int(refused.sum()),
        "refusal_p50_ms": quantile_ms(late_refusals, 0.5) if late_refusals.size else None,
        "refusal_p99_ms": quantile_ms(late_refusals, 0.99) if late_refusals.size else None,
        "answer_p99_ms": quantile_ms(load.latency_s[good], 0.99) if good.any() else None,
        "other_statuses": sorted({int(status) for status in load.status} - {200, 429}),
        "generator_cpu": load.generator_cpu,
    }
