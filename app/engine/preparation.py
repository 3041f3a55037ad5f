"""What happens to a model between being opened and serving. Runs in the engine's thread."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

from app.bundle.files import Bundle
from app.engine.golden import replay_golden
from app.engine.messages import Measured, Speed
from app.engine.protocols import Runner
from app.engine.tuning import FIRST_BUDGET_TOKENS, measure_speed, useful_threads
from app.engine.warmup import run_every_shape
from app.errors import OutOfDeviceMemory

log = logging.getLogger(__name__)

MAX_BUDGET_TOKENS: Final = 65536


class Prepared(NamedTuple):
    """A model that can serve: its runner, its speed with the budget to serve with, and how long it took to get there, in seconds."""

    runner: Runner
    speed: Speed
    took_s: float


def way_of(runner: Runner) -> tuple[str, str, tuple[int, ...]]:
    """Return what decides how fast a runner is on one machine, as `Measured.way` does of what was measured."""
    return runner.variant_name, runner.provider, tuple(runner.threads)


def prepare(
    bundle: Bundle,
    open_runner: Callable[[Bundle], Runner],
    *,
    budget_tokens: int | None,
    previous: Measured | None = None,
) -> Prepared:
    """Open a model, compare its golden answers, measure how fast it is, and have the device take its memory.

    Args:
        bundle: The model.
        open_runner: Makes its runner.
        budget_tokens: Most tokens that share a batch; None measures what is best here.
        previous: How it ran before, in an engine that was lost or in another start, or how one ran that is as fast. If it runs the
            same way again, its speed is not measured anew, nor are the same bundle's golden answers compared one by one on a CPU.

    Raises:
        BundleError: a file is damaged, or the answers are not the golden ones.
        StartupError: the requested device does not work.
        OutOfDeviceMemory: a batch of the budget does not fit; one that is chosen here is halved as long as that helps.
    """
    started_at = time.perf_counter()
    runner = open_runner(bundle)
    runs = [partial(runner.run, threads=threads) for threads in runner.threads or (0,)]
    known = previous if previous is not None and previous.way == way_of(runner) else None
    is_proven = known is not None and known.identity == bundle.identity and not runner.launches_ahead
    replay_golden(bundle, runner.variant_name, *runs, alone=not is_proven)
    if known is not None:
        speed = known.speed
    else:
        if len(runner.threads) > 1:
            runner.keep_threads(useful_threads(bundle, runner))
        limit_tokens = budget_tokens or MAX_BUDGET_TOKENS
        speed = measure_speed(bundle, runs[0], limit_tokens=limit_tokens, on_gpu=runner.launches_ahead)
    if budget_tokens is not None:
        speed = replace(speed, budget_tokens=budget_tokens)
    while runner.launches_ahead:
        try:
            run_every_shape(bundle, runner.run, runner.trim, speed.budget_tokens)
            break
        except OutOfDeviceMemory:
            if budget_tokens is not None or speed.budget_tokens <= FIRST_BUDGET_TOKENS:
                raise
        # The batch that was measured has texts of other lengths than the one that takes the most memory.
        log.warning(
            "model %s: the largest batch of %d tokens does not fit into the device's memory. It serves with half of that",
            *(bundle.name, speed.budget_tokens),
        )
        speed = replace(speed, budget_tokens=speed.budget_tokens // 2)
    return Prepared(runner, speed, time.perf_counter() - started_at)
