"""This server and the strongest peers, all of them up at once and asked in turns: ratios that a noisy machine leaves alone.

`serving` starts one server after the other, minutes apart, in which a shared machine may become half as fast. Here whatever it
does for longer than a turn, a few seconds, is done to all; the ratios are those within a round.
"""

import contextlib

from benchmarks.common import CONNECTIONS, Row, ours_loaded, say
from benchmarks.load import closed_loop
from benchmarks.systems import Layout, System, peer_systems, serving
from benchmarks.texts import read_texts
from benchmarks.workplace import Workplace

STRONGEST = ("FastAPI", "mosec")


def side_by_side(place: Workplace, model: str, *, count: int, rounds: int) -> list[Row]:
    """Measure every system once per round, each round in the other direction; return a row for each turn."""
    systems = [*ours_loaded(place, model), *_peers(place, model, Layout(16, 1, place.cores))]
    if place.cores > 1:
        systems += _peers(place, model, Layout(1, place.cores, 1))
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        say(f"side by side: {model}: starting {len(systems)} servers")
        running = [stack.enter_context(serving(system)) for system in systems]
        for one in running:
            closed_loop(one.port, one.requests(read_texts("reviews"))[::-1], count=count // 2, connections=CONNECTIONS)
        for number in range(rounds):
            say(f"side by side: {model}, round {number + 1}")
            for one in running if number % 2 == 0 else reversed(running):
                load = closed_loop(one.port, one.requests(read_texts("reviews")), count=count, connections=CONNECTIONS)
                rows.append(
                    {
                        "model": model,
                        "round": number,
                        "system": one.system.name,
                        "setting": one.system.setting,
                        "rate_per_s": float(load.is_ok.sum()) / load.duration_s,
                    }
                )
    return rows


def _peers(place: Workplace, model: str, layout: Layout) -> list[System]:
    found = peer_systems(
        layout,
        graph=place.graph(model),
        checkpoint=place.checkpoint(model),
        infinity_python=place.infinity_python,
    )
    return [system for system in found if system.name in STRONGEST]
