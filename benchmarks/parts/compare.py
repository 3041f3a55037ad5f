"""This server and its peers, over HTTP, on the same weights: rates in closed loops, and latency against offered load."""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from benchmarks.batches import token_sequences
from benchmarks.bench import Bench
from benchmarks.load import Stalled, closed_loop, open_loop, poisson_schedule
from benchmarks.machine import gemm_gflops
from benchmarks.report import Row, say
from benchmarks.servers import OURS, DidNotStart, Layout, Running, System, our_servers, peers, serving
from benchmarks.texts import TextSet, read_texts

CONNECTIONS: Final = 32
"""Of a closed loop: enough for batches of 16 to form while others run."""
MAX_CONNECTIONS: Final = 1024
"""Of an open loop: callers that no server of the comparison can keep waiting."""
OFFERED: Final = (0.25, 0.5, 0.75, 0.95)
"""Loads of the latency curves, as shares of what this server reached in a closed loop."""
CURVED: Final = ("cpu-fp32", "ONNX Runtime fp32")
STRONGEST: Final = (OURS, "FastAPI", "mosec")
CONTENDS: Final = 0.5
"""A peer that does not reach this share of the fastest one of its precision is measured in the sweep alone: it does not become the
fastest, and takes a third of the time."""
SIDE_BY_SIDE: Final = ("ONNX Runtime fp32", "OpenVINO bf16", "OpenVINO int8")
"""Engines of the peers that are all up at once."""


def compare(
    bench: Bench,
    *,
    model: str,
    requests: Mapping[TextSet, int],
    open_s: float = 0.0,
    batches: Sequence[int] = (16,),
    batches_split: Sequence[int] = (1,),
    swept: Mapping[TextSet, int] | None = None,
) -> Iterator[Row]:
    """Measure every server once per round, each round in the other direction, one server up at a time.

    Where there is more than one round, a sweep before them finds the settings that are fastest for a server and an engine. Those
    that contend with the fastest peer are in the rounds, and all of this server; of the others the rate in the sweep is told.

    Args:
        bench: What is measured on.
        model: What all of them serve.
        requests: How many are sent of each set of texts.
        open_s: How long each open loop takes; 0 for none.
        batches: Batch sizes of peers that are one process with all cores.
        batches_split: Batch sizes of peers that are a process for each core.
        swept: How many requests of each set are sent in a sweep; without it every setting is in the rounds.
    """
    systems = _systems(bench, model, batches, batches_split)
    if swept:
        rows = list(_compare(replace(bench, rounds=1), model, systems, swept))
        fastest = fastest_settings(rows)
        again = {system.title for system in systems if system.name == OURS} | contending(rows, fastest)
        for row in rows:
            is_tried_only = row["kind"] == "closed loop" and (_title(row) in again or _title(row) not in fastest)
            yield {**row, "kind": "sweep"} if is_tried_only else row
        systems = [system for system in systems if system.title in again]
    yield from _compare(bench, model, systems, requests, open_s)


def fastest_settings(rows: Sequence[Row]) -> set[str]:
    """Return the titles of the systems that were the fastest of their server and engine for a set of texts."""
    best: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        if row["kind"] == "closed loop":
            key = (row["server"], row["engine"], row["texts"])
            best[key] = max(row, best.get(key, row), key=lambda one: one["requests_per_s"])
    return set(map(_title, best.values()))


def contending(rows: Sequence[Row], fastest: Collection[str]) -> set[str]:
    """Return those of the fastest settings that are not far behind the fastest peer of their precision, for a set of texts."""
    rates = [row for row in rows if row["kind"] == "closed loop" and row["server"] != OURS]
    most: dict[tuple[str, str], float] = {}
    for row in rates:
        most[_class(row)] = max(row["requests_per_s"], most.get(_class(row), 0.0))
    return {
        title
        for row in rates
        if (title := _title(row)) in fastest and row["requests_per_s"] >= CONTENDS * most[_class(row)]
    }


def _class(row: Row) -> tuple[str, str]:
    """Return what is compared with each other: the texts, and the precision, which an engine's title has before any comma."""
    return row["texts"], row["engine"].partition(",")[0].split()[-1]


def _title(row: Row) -> str:
    """Return the title of the system that a row is of."""
    return f"{row['server']}, {row['engine']}, {row['setting']}"


def side_by_side(bench: Bench, *, requests: Mapping[str, int]) -> Iterator[Row]:
    """Measure this server and the strongest peers, all up at once and asked in turns: `requests` of each model.

    Whatever a noisy machine does for longer than a turn, a few seconds, is done to all of them.
    """
    bench = replace(bench, rounds=2 * max(bench.rounds, 2) + 1)
    for model, count in requests.items():
        systems = [
            system
            for system in _systems(bench, model, (16,), (1,))
            if system.name == OURS or (system.name in STRONGEST and system.engine in SIDE_BY_SIDE)
        ]
        yield from _compare(bench, model, systems, {"reviews": count}, together=True)


def _systems(bench: Bench, model: str, batches: Sequence[int], batches_split: Sequence[int]) -> list[System]:
    layouts = [Layout(batch, 1, bench.cores) for batch in batches]
    if bench.cores > 1:
        layouts += [Layout(batch, bench.cores, 1) for batch in batches_split]
    return [*our_servers(bench, model), *(system for layout in layouts for system in peers(bench, model, layout))]


def _compare(
    bench: Bench,
    model: str,
    systems: Sequence[System],
    requests: Mapping[TextSet, int],
    open_s: float = 0.0,
    *,
    together: bool = False,
) -> Iterator[Row]:
    our_rate = 0.0
    with contextlib.ExitStack() as stack:
        up = {system.title: stack.enter_context(serving(system)) for system in systems if together}
        for number in range(bench.rounds):
            rows: list[Row] = []
            for system in systems if number % 2 == 0 else reversed(systems):
                say(f"{model}, round {number + 1}: {system.title}")
                row = {"model": model, **system.row}
                try:
                    with contextlib.nullcontext(up[system.title]) if together else serving(system) as running:
                        measured = [_closed(bench, running, model, *one) for one in requests.items() if one[1]]
                        rows += [row | one for one in measured]
                        own_rate = measured[0]["requests_per_s"]
                        if system.title == f"{OURS}, cpu-fp32, 1 process":
                            our_rate = own_rate
                        if open_s and system.name in STRONGEST and system.engine in CURVED:
                            rows += [row | point for point in _curve(running, our_rate, own_rate, open_s)]
                except (DidNotStart, Stalled) as error:
                    say(f"  {error}")
                    rows.append({"kind": "not measured", **row, "error": str(error)[:200]})
            yield from _beside_the_best_peer(rows)


def _closed(bench: Bench, running: Running, model: str, name: TextSet, count: int) -> Row:
    texts = read_texts(name)
    requests = running.requests(texts)
    gflops = gemm_gflops()
    closed_loop(running.port, requests[::-1], count=min(2 * CONNECTIONS, max(16, count // 4)), connections=CONNECTIONS)
    load = closed_loop(running.port, requests, count=count, connections=CONNECTIONS)
    tokens = list(map(len, token_sequences(bench.bundles.folder(model), texts)))
    return {"kind": "closed loop", "texts": name, **load.row(tokens), "gemm_gflops": gflops}


def _curve(running: Running, our_rate: float, own_rate: float, duration_s: float) -> Iterator[Row]:
    """Yield latencies at offered loads, up to the first that the server cannot carry."""
    requests = running.requests(read_texts("reviews"))
    for share in OFFERED:
        rate = share * our_rate
        due_s = poisson_schedule(rate, duration_s, seed=1)
        load = open_loop(running.port, requests, due_s=due_s, connections=MAX_CONNECTIONS)
        yield {"kind": "open loop", "offered": f"{share:.0%}", "offered_per_s": rate, **load.row()}
        if rate > own_rate:
            return


def _beside_the_best_peer(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows of a round, those of closed loops with their rate relative to that of the fastest peer."""
    best: dict[str, float] = {}
    for row in rows:
        if row["kind"] == "closed loop" and row["server"] != OURS:
            best[row["texts"]] = max(row["requests_per_s"], best.get(row["texts"], 0.0))
    for row in rows:
        yield row | ({"of_best_peer": row["requests_per_s"] / best[row["texts"]]} if row.get("texts") in best else {})
