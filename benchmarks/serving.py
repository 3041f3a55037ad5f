"""Throughput and latency of this server and its peers, over HTTP, on the same weights in one run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.common import CONNECTIONS, MAX_CONNECTIONS, OFFERED, Row, ours_loaded, say, token_counts
from benchmarks.load import Stalled, closed_loop, open_loop, poisson_schedule, quantile_ms
from benchmarks.machine import gemm_gflops
from benchmarks.systems import DidNotStart, Layout, Running, System, peer_systems, serving
from benchmarks.texts import TextSet, read_texts
from benchmarks.workplace import Workplace

CURVES: Final = ("this server", "FastAPI", "mosec")


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is sent of each text set in a closed loop, and how long each open loop takes; 0 for none."""

    requests: dict[TextSet, int]
    open_s: float


def serving_systems(place: Workplace, model: str, layouts: Sequence[Layout]) -> list[System]:
    """Return this server in each of its settings, and every peer in every layout."""
    systems = ours_loaded(place, model)
    for layout in layouts:
        systems += peer_systems(
            layout,
            graph=place.graph(model),
            checkpoint=place.checkpoint(model),
            infinity_python=place.infinity_python,
        )
    return systems


def compare(place: Workplace, model: str, systems: Sequence[System], amount: Amount, *, rounds: int) -> list[Row]:
    """Measure every system once per round, each round in the other direction."""
    rows: list[Row] = []
    tokens = {name: token_counts(place, model, read_texts(name)) for name in amount.requests}
    our_rate = 0.0
    for number in range(rounds):
        for system in systems if number % 2 == 0 else reversed(systems):
            say(f"serving: {model}, round {number + 1}: {system.name}, {system.setting}")
            row: Row = {"model": model, "round": number, "system": system.name, "setting": system.setting}
            try:
                with serving(system) as running:
                    for name, count in amount.requests.items():
                        measured = _closed(running, name, count, tokens[name])
                        rows.append({**row, "texts": name, "kind": "closed", **measured})
                        if name == "reviews" and system.is_ours and system.setting == "fp32, 1 process":
                            our_rate = measured["rate_per_s"]
                    if amount.open_s and system.name in CURVES and "int8" not in system.setting:
                        own_rate = next(r["rate_per_s"] for r in reversed(rows) if r["texts"] == "reviews")
                        rows.extend({**row, **point} for point in _curve(running, our_rate, own_rate, amount.open_s))
            except (DidNotStart, Stalled) as error:
                say(f"  {error}")
                rows.append({**row, "kind": "failed", "error": str(error)[:200]})
    return rows


def _closed(running: Running, name: TextSet, count: int, tokens: Sequence[int]) -> Row:
    requests = running.requests(read_texts(name))
    gflops = gemm_gflops()
    closed_loop(running.port, requests[::-1], count=min(2 * CONNECTIONS, max(16, count // 4)), connections=CONNECTIONS)
    load = closed_loop(running.port, requests, count=count, connections=CONNECTIONS)
    answered = sum(tokens[i % len(tokens)] for i in load.request[load.is_ok].tolist())
    return {
        "requests": count,
        "rate_per_s": float(load.is_ok.sum()) / load.duration_s,
        "tokens_per_s": answered / load.duration_s,
        "p50_ms": quantile_ms(load.latency_s, 0.5),
        "p99_ms": quantile_ms(load.latency_s, 0.99),
        "failed": int((~load.is_ok).sum()),
        "generator_cpu": load.generator_cpu,
        "gemm_gflops": gflops,
    }


def _curve(running: Running, our_rate: float, own_rate: float, duration_s: float) -> Iterator[Row]:
    """Yield latencies at offered loads, up to the first that the system cannot carry."""
    requests = running.requests(read_texts("reviews"))
    for share in OFFERED:
        rate = share * our_rate
        due_s = poisson_schedule(rate, duration_s, seed=1)
        load = open_loop(running.port, requests, due_s=due_s, connections=MAX_CONNECTIONS)
        yield {
            "kind": "open",
            "texts": "reviews",
            "offered_per_s": rate,
            "requests": len(due_s),
            "p50_ms": quantile_ms(load.latency_s, 0.5),
            "p99_ms": quantile_ms(load.latency_s, 0.99),
            "failed": int((~load.is_ok).sum()),
        }
        if rate > own_rate:
            return
