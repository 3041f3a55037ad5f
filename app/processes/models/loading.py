"""Load every bundle into an engine, according to the settings. Runs in the process that owns the device."""

import asyncio
import logging
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from app.bundle.cpus import usable_cpus
from app.bundle.files import Bundle
from app.engine.admission import Admission
from app.engine.local import LocalEngine
from app.engine.messages import Loaded
from app.engine.protocols import Runner
from app.errors import BundleError, NoRoom, OutOfDeviceMemory, StartupError
from app.processes.models.bad_bundles import NONE_SKIPPED, BadBundles
from app.processes.models.remembered import Remembered
from app.processes.models.room import measure_memory, require_room
from app.runtime.advice import advised, log_advice
from app.runtime.choice import choose_precisions, open_runner
from app.settings import Settings
from app.telemetry.metrics import Metrics, ServedModel

T = TypeVar("T")

log = logging.getLogger(__name__)


async def load_models(
    settings: Settings,
    bundles: Sequence[Bundle],
    engine: LocalEngine,
    metrics: Metrics,
    previous: Mapping[str, Loaded] = MappingProxyType({}),
    *,
    bad: BadBundles = NONE_SKIPPED,
    absent: Collection[str] = (),
    may_lack: Collection[str] = (),
    only: str | None = None,
    is_successor: bool = False,
) -> dict[str, Loaded]:
    """Load, warm up and serve the bundles one after the other; return how each was loaded.

    Args:
        settings: How.
        bundles: Which.
        engine: Where.
        metrics: Gets the series of each.
        previous: How bundles that are as fast were loaded before, by name: nothing of these is measured anew.
        bad: Gets those that are skipped.
        absent: The names that settings may name though they are not served.
        may_lack: Those that may lack the precision for all; see `choose_precisions`.
        only: The one to load, beside the others, which serve meanwhile.
        is_successor: Whether an engine before served. What that had comes first, and what is new is skipped if it does not fit: it
            may be what that was killed for.

    Raises:
        BundleError: a bundle is damaged and not skipped, or all are.
        StartupError: the requested device does not work, or has too little memory.
        EngineLost: the device failed while loading.
    """
    may_be_named = {*bad.names, *absent}
    precisions = choose_precisions(
        bundles, settings.device, settings.precision_by_model, bad.skipping, may_be_named, may_lack=may_lack
    )

    def open_one(known_threads: Sequence[int], bundle: Bundle) -> Runner:
        known = [settings.threads] if settings.threads else known_threads
        return open_runner(
            bundle,
            device=settings.device,
            precision=precisions[bundle.name],
            threads=known or _threads(usable_cpus()),
            gpu_memory_bytes=settings.gpu_memory_mib * 2**20,
        )

    async def load(bundle: Bundle) -> Loaded:
        task = bundle.manifest.task
        before = previous.get(bundle.name)
        remembered = await Remembered.of(bundle, settings, precisions[bundle.name], before)
        taken_bytes = measure_memory(settings)
        try:
            one = await engine.load(
                bundle,
                partial(open_one, remembered.threads),
                metrics.add_model(bundle.name, task),
                budget_tokens=settings.batch_tokens or None,
                admission=Admission(settings.max_queue_s, settings.request_timeout_s),
                previous=remembered.measured,
                beside=only is not None,
            )
        except OutOfDeviceMemory as error:
            raise StartupError(
                f"Model {bundle.name} does not fit into the free memory of the device: {error}. Lower "
                "BERT_BATCH_TOKENS, raise BERT_GPU_MEMORY_MIB if it is set, or serve fewer models on this device."
            ) from error
        # Requests blur what is measured while others are served.
        taken = taken_bytes(not one.threads) if before is None else before.taken_bytes
        one = advised(bundle, replace(one, taken_bytes=taken))
        await remembered.keep(one)
        to_check.append((remembered, one))
        _warn(bundle, one)
        metrics.model_loaded(served_as(bundle, one), one.speed.budget_tokens)
        return one

    loaded: dict[str, Loaded] = {}
    to_check: list[tuple[Remembered, Loaded]] = []
    known_first = sorted(bundles, key=lambda one: one.name not in previous)
    for bundle in (one for one in known_first if one.name in precisions and only in (None, one.name)):
        with bad.skipping(bundle.name):
            if is_successor and bundle.name not in previous:
                await _require_room(bundle, settings)
            loaded[bundle.name] = await load(bundle)
    if only is None:
        metrics.not_loaded(bad.names)
    bad.refuse_none(loaded)
    log_advice(loaded)
    for remembered, one in to_check:  # not while another model is loaded, which takes all cores
        remembered.check(engine, one)
    return loaded


async def _require_room(bundle: Bundle, settings: Settings) -> None:
    try:
        await asyncio.to_thread(require_room, bundle, settings)
    except NoRoom as error:
        raise BundleError(error.message) from error


def _threads(cpus: int) -> list[int]:
    """Return with how many threads a batch may run: one, all cores, and half of these, and half of those."""
    return sorted({max(1, cpus >> halvings) for halvings in range(cpus.bit_length())})


def served_as(bundle: Bundle, one: Loaded) -> ServedModel:
    """Return what metrics say of a bundle."""
    return ServedModel(
        bundle.name, bundle.manifest.task, one.variant, one.provider, bundle.identity[:12], one.version or ""
    )


def _warn(bundle: Bundle, one: Loaded) -> None:
    if not bundle.has_checksum:
        log.warning(
            "model %s was exported by an older release, so that damage to its manifest cannot be seen. Export it again",
            bundle.name,
        )
    if max(one.threads, default=0) > usable_cpus():
        log.warning(
            "BERT_THREADS is %d, but this process may use %d CPUs: batches run slower than with as many threads as CPUs",
            *(max(one.threads), usable_cpus()),
        )


async def load_unless_stopped(loading: Coroutine[Any, Any, T], stopped: asyncio.Future[Any]) -> T | None:
    """Return what `loading` returns, or None if `stopped` is done before.

    A model that is just being read is not waited for: its thread ends with the process.
    """
    task = asyncio.create_task(loading)
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    log.info("stopped while the models were loading")
    task.cancel()
    return None
