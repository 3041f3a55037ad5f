"""What the engine's process, which all front ends share, takes of a processor for a request, without the model."""

import itertools
import json
from typing import Final

from benchmarks.common import Row, say
from benchmarks.workplace import Workplace

OUTSTANDING: Final = (4, 16, 64)
"""Requests that each front end has in flight: more of them make larger batches."""


def engine_process(place: Workplace, *, count: int, rounds: int) -> list[Row]:
    """Measure processor time by thread, in batches of some sizes, in turns."""
    bundle = place.bundle("demo")
    rows = []
    for number, outstanding in itertools.product(range(rounds), OUTSTANDING):
        say(f"engine's process, round {number + 1}: {outstanding} requests in flight of each front end")
        printed = place.run(
            *("-m", "benchmarks.inside.engine_process", str(bundle)),
            *("--outstanding", str(outstanding), "--requests", str(count)),
        )
        rows.append({"round": number, **json.loads(printed)})
    return rows
