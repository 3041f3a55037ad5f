"""What the service adds to its own run of the model, for one short text at a time."""

import itertools
from collections.abc import Iterator, Sequence

from benchmarks.bench import Bench
from benchmarks.load import closed_loop
from benchmarks.report import Row, say
from benchmarks.servers import our_servers, serving
from benchmarks.texts import SHORT_TEXT


def idle(bench: Bench, *, models: Sequence[str], requests: int) -> Iterator[Row]:
    """Send one short text at a time: measure what is added to the server's own run, from the queue to the results.

    In fp32 with the default threads, each round in a server of its own. Where a process has its weights in memory makes its runs faster or slower.
    """
    for number, model in itertools.product(range(bench.rounds), models):
        for system in our_servers(bench, model):
            if system.engine != "cpu-fp32" or "threads" in system.setting:
                continue
            say(f"idle: {model}, round {number + 1}: {system.setting}")
            with serving(system) as running:
                request = system.request(SHORT_TEXT)
                closed_loop(running.port, [request], count=requests // 10, connections=1)
                before = running.batches()
                load = closed_loop(running.port, [request], count=requests, connections=1)
                seconds, count = running.batches() - before
            run_ms = float(1e3 * seconds / count)
            aim = "<= 1 ms" if "1 process" in system.setting else "<= 1.5 ms"
            mean_ms = float(1e3 * load.latency_s.mean())
            added = {"mean_ms": mean_ms, "mean_run_ms": run_ms, "added_ms": mean_ms - run_ms, "aim": aim}
            yield {"model": model, "setting": system.setting, **load.row(), **added}
