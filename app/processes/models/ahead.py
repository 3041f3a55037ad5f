"""Open models as an earlier start has opened them: all at once, and while the rest of the server is imported and set up."""

import asyncio
import logging
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from app.bundle.cpus import usable_cpus
from app.bundle.files import Bundle
from app.engine.preparation import Prepared, prepare, way_of
from app.engine.protocols import Runner
from app.processes.models.remembered import Remembered
from app.runtime.choice import Wanted, open_runner, runs_on_cpu
from app.settings import Settings

log = logging.getLogger(__name__)


class FoundAhead(NamedTuple):
    """What is remembered of a model in a precision, and the model if it could be opened so."""

    precision: Wanted
    remembered: Remembered
    prepared: Prepared | None


class Ahead:
    """Begins at once. What is not remembered, or cannot be opened so, is opened as in the first start, later."""

    def __init__(self, settings: Settings, bundles: Collection[Bundle]) -> None:
        """Open bundles if they can only run on the CPU: a GPU has one thread that opens them."""
        self._opening: dict[str, Future[FoundAhead | None]] = {}
        if bundles and runs_on_cpu(settings.device):
            threads = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="ahead")
            self._opening = {bundle.key: threads.submit(_open, settings, bundle) for bundle in bundles}
            threads.shutdown(wait=False)

    async def found(self) -> Mapping[str, FoundAhead]:
        """Return what was found, by key, when the threads are done: what is measured then has all cores. Call it once."""
        opening, self._opening = self._opening, {}  # so that nothing here keeps a model in memory
        results = await asyncio.gather(*map(asyncio.wrap_future, opening.values()))
        return {key: one for key, one in zip(opening, results, strict=True) if one is not None}


def open_remembered(remembered: Remembered, settings: Settings, precision: Wanted, bundle: Bundle) -> Runner:
    """Return a runner of a bundle: with the threads and the weights that are remembered, as far as any are."""
    cpus = usable_cpus()
    # One thread, all cores, and half of these, and half of those.
    useful = sorted({max(1, cpus >> halvings) for halvings in range(cpus.bit_length())})
    return open_runner(
        bundle,
        device=settings.device,
        precision=precision,
        threads=[settings.threads] if settings.threads else remembered.threads or useful,
        gpu_memory_bytes=settings.gpu_memory_mib * 2**20,
        kept=remembered.kept,
    )


def _open(settings: Settings, bundle: Bundle) -> FoundAhead | None:
    precisions = settings.precision_by_model
    precision = precisions.get(bundle.name, precisions[""])
    remembered = Remembered.of(bundle, settings, precision, None)
    measured = remembered.measured
    if measured is None:
        return FoundAhead(precision, remembered, None)

    def open_same(bundle: Bundle) -> Runner:
        runner = open_remembered(remembered, settings, precision, bundle)
        if way_of(runner) != measured.way:  # there is less room now
            raise _RunsOtherwise
        return runner

    try:
        prepared = prepare(bundle, open_same, budget_tokens=settings.batch_tokens or None, previous=measured)
    except _RunsOtherwise:
        return FoundAhead(precision, remembered, None)
    except Exception as error:
        log.info("model %s is opened as if nothing were remembered: %s", bundle.name, error)
        remembered.forget()
        return None
    return FoundAhead(precision, remembered, prepared)


class _RunsOtherwise(Exception):
    """Not as is remembered, so that its speed would have to be measured."""
