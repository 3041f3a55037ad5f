"""What HTTP, tokenizing and the processes leave of the engine's own rate."""

import json
import re

from benchmarks.common import CONNECTIONS, Row, ours_loaded, say, token_counts
from benchmarks.load import closed_loop
from benchmarks.systems import Running, serving
from benchmarks.texts import read_texts
from benchmarks.workplace import Workplace


def own_engine(place: Workplace, model: str, *, count: int, rounds: int) -> list[Row]:
    """Measure each setting served and with no server, in turns, in batches of the same budget."""
    tokens = token_counts(place, model, read_texts("reviews"))
    rows = []
    for system in ours_loaded(place, model):
        say(f"own engine: {model}, {system.setting}")
        with serving(system) as running:
            requests = running.requests(read_texts("reviews"))
            budget_tokens = _budget(running)
            environment = {**system.environment, "BERT_BATCH_TOKENS": str(budget_tokens)}
            closed_loop(running.port, requests[::-1], count=2 * CONNECTIONS, connections=CONNECTIONS)
            for number in range(rounds):
                alone = json.loads(
                    place.run(
                        *("-m", "benchmarks.inside.engine_alone", str(place.bundle(model)), str(count)), **environment
                    )
                )
                load = closed_loop(running.port, requests, count=count, connections=CONNECTIONS)
                served = sum(tokens[i % len(tokens)] for i in load.request.tolist()) / load.duration_s
                rows.append(
                    {
                        "model": model,
                        "round": number,
                        "setting": system.setting,
                        "budget_tokens": budget_tokens,
                        "alone_tokens_per_s": alone,
                        "served_tokens_per_s": served,
                        "share": served / alone,
                    }
                )
    return rows


def _budget(running: Running) -> int:
    found = re.search(r"^bert_batch_budget_tokens{.*} (\S+)$", running.get("/metrics"), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))
