"""The served figures: from one to many front ends, single texts and many in a request, latency against load."""

from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.batches import token_sequences
from benchmarks.bench import Bench
from benchmarks.generators import Generators
from benchmarks.load import closed_loop, poisson_schedule
from benchmarks.parts.compare import MAX_CONNECTIONS, OFFERED
from benchmarks.report import Row, say
from benchmarks.servers import Running, our_server, serving
from benchmarks.texts import SHORT_TEXT, TextSet, http_request, read_texts

BATCH: Final = 32
"""Texts of a batched request."""
SINGLE_CONNECTIONS: Final = 64
"""For each front end, in the closed loop of single texts: together they fill the batches of a GPU."""
AIMS: Final = {
    "one short text at a time": "p50 < 3 ms",
    "batched": ">= 0.9 of offline",
    "single": ">= 30,000/s with 12 front ends",
    "50%": "p99 < 20 ms at 15,000/s",
}
"""For BERT-base in fp16 on a card of the H100's class."""


def served(
    bench: Bench,
    *,
    model: str = "base",
    front_ends: Sequence[int] = (1, 2, 4, 8, 12),
    batched_connections: int = 64,
    closed_s: float = 10,
    open_s: float = 10,
    idle_requests: int = 500,
) -> Iterator[Row]:
    """Measure the server with each number of front ends that the machine has cores for: single texts and requests of 32.

    Args:
        bench: What is measured on.
        model: What is served.
        front_ends: How many processes answer HTTP.
        batched_connections: Of the closed loop of batched requests: enough texts for a batch that runs and one that waits.
        closed_s: About how long each closed loop takes.
        open_s: How long each open loop takes.
        idle_requests: How many single texts an idle server is sent.
    """
    precision = bench.precisions[0]
    with Generators(max(1, bench.cores // 4)) as generators:
        for count in (count for count in front_ends if count <= bench.cores):
            say(f"serving: {model}, front ends: {count}")
            system = our_server(
                bench.models_folder(model),
                f"{bench.device}-{precision}",
                f"{count} front ends",
                *("--device", bench.device, "--precision", precision, "--workers", str(count)),
                # A refusal is answered at once, and a closed loop of refusals has no rate.
                *("--max-queue-s", "60", "--request-timeout-s", "120"),
            )
            row = {"model": model, "precision": precision, "front_ends": str(count)}
            with serving(system) as running:
                loads = Loads(bench, model, running, generators)
                yield row | loads.idle(idle_requests)
                best = loads.closed("reviews", batch=1, connections=SINGLE_CONNECTIONS * count, duration_s=closed_s)
                yield row | best
                yield row | loads.closed("mix", batch=BATCH, connections=batched_connections, duration_s=closed_s)
                for share in OFFERED:
                    yield row | loads.open(share, best["requests_per_s"], open_s)


class Loads:
    """The loads that a server is given."""

    def __init__(self, bench: Bench, model: str, running: Running, generators: Generators) -> None:
        self._folder: Final = bench.bundles.folder(model)
        self._running: Final = running
        self._generators: Final = generators

    def idle(self, count: int) -> Row:
        requests = self._running.requests([SHORT_TEXT])
        load = closed_loop(self._running.port, requests, count=count, connections=1)
        return _row("one short text at a time", "one short text at a time", load.row())

    def closed(self, name: TextSet, *, batch: int, connections: int, duration_s: float) -> Row:
        """Send for about as long as asked, once it is known how fast the server is."""
        texts = read_texts(name)
        lengths = list(map(len, token_sequences(self._folder, texts)))
        starts = range(0, len(texts) - batch + 1, batch)
        inputs = [texts[i : i + batch] if batch > 1 else texts[i] for i in starts]
        requests = [http_request(self._running.system.path, {"inputs": one}) for one in inputs]
        tokens = [sum(lengths[i : i + batch]) for i in starts]
        port, count = self._running.port, 2 * connections
        warm_up = self._generators.closed(port, requests, count=count, connections=connections)
        count = max(count, round(len(warm_up.request) / warm_up.duration_s * duration_s))
        load = self._generators.closed(port, requests, count=count, connections=connections)
        kind = "batched" if batch > 1 else "single"
        return _row(
            "closed loop", kind, {"requests": kind, "texts": name, "connections": connections} | load.row(tokens)
        )

    def open(self, share: float, best_per_s: float, duration_s: float) -> Row:
        requests = self._running.requests(read_texts("reviews"))
        rate_per_s, offered = share * best_per_s, f"{share:.0%}"
        due_s = poisson_schedule(rate_per_s, duration_s, seed=1)
        load = self._generators.open(self._running.port, requests, due_s=due_s, connections=MAX_CONNECTIONS)
        return _row("open loop", offered, {"offered": offered, "offered_per_s": rate_per_s} | load.row())


def _row(kind: str, aim: str, row: Row) -> Row:
    return {"kind": kind, **row, "aim": AIMS.get(aim, "")}
