"""Tokens per second of the engine alone, in a process of the project's environment."""

import json

from benchmarks.common import Row, say
from benchmarks.workplace import Workplace


def offline(place: Workplace, model: str, *, rounds: int, count: int) -> Row:
    """Measure the engine alone."""
    say(f"offline: {model}")
    output = place.run(
        *("-m", "benchmarks.inside.offline", str(place.bundle(model)), "--padded", str(place.graph(model))),
        *("--rounds", str(rounds), "--count", str(count)),
    )
    return {"model": model, **json.loads(output)}
