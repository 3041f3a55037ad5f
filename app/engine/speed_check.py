"""See whether a model is as fast as was remembered, in moments when no request is there.

Nothing is measured anew while the server runs. What a busy device does differently the estimate learns from the batches
(`app.engine.estimate`); only what the next start would take over must be right.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final

AFTER_S: Final = 10.0
"""Seconds after a load. Whoever waited for it comes first."""
RUNS: Final = 10
"""As many as `measure_speed` makes of a size; the shortest counts there, too."""
LOOK_EVERY_S: Final = 0.1
ALIKE: Final = 2.0
"""How many times longer or shorter a batch may take. A neighbour on the other thread of each core nearly halves what a core does, and
the clock of a processor varies less: both pass, and change all sizes alike, so that the same budget and threads are best. What is
beyond that is not the machine that was measured, or was measured beside other work. On two cores of an EPYC (Zen 4) that other programs
kept four times as busy as they can be, 31% of 625 pairs of a measurement and a check were beyond it: there, about one start in three
measures again."""


async def slowness(
    run: Callable[[], Awaitable[float]],
    expected_s: float,
    is_idle: Callable[[], bool],
    *,
    look_every_s: float = LOOK_EVERY_S,
) -> float:
    """Return how many times as long a batch takes as expected.

    Args:
        run: Runs it, and returns how long it took, seconds.
        expected_s: How long it should take.
        is_idle: Whether no request is there. One that comes during a run shares the cores with that one batch.
        look_every_s: How often to ask that, seconds.
    """
    shortest_s = math.inf
    for _ in range(RUNS):
        while not is_idle():  # noqa: ASYNC110 - requests know nothing of this check
            await asyncio.sleep(look_every_s)
        shortest_s = min(shortest_s, await run())
    return shortest_s / expected_s


def is_alike(slowness: float) -> bool:
    """Return whether a model is about as fast as it was."""
    return 1 / ALIKE < slowness < ALIKE
