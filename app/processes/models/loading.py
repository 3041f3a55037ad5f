"""Load every bundle into an engine, according to the settings. Runs in the process that owns the device."""

import asyncio
import logging
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from app.bundle.cpus import usable_cpus
from app.bundle.files import Bundle
from app.engine.admission import Admission
from app.engine.local import EngineObserver, LocalEngine
from app.engine.messages import Loaded
from app.errors import BundleError, NoRoom, OutOfDeviceMemory, StartupError
from app.processes.models.ahead import Ahead, FoundAhead, open_remembered
from app.processes.models.bad_bundles import NONE_SKIPPED, BadBundles
from app.processes.models.remembered import Remembered
from app.processes.models.room import measure_memory, require_room
from app.runtime.advice import advised, log_advice
from app.runtime.choice import Wanted, choose_precisions
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
    ahead: Ahead | None = None,
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
        ahead: What may have been opened already.
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

    found = {} if ahead is None else await ahead.found()
    loading = _Loading(settings, engine, metrics, precisions, previous, found, is_beside=only is not None)
    loaded: dict[str, Loaded] = {}
    known_first = sorted(bundles, key=lambda one: (one.name not in previous, not loading.is_open(one)))
    for bundle in (one for one in known_first if one.name in precisions and only in (None, one.name)):
        with bad.skipping(bundle.name):
            if is_successor and bundle.name not in previous:
                await _require_room(bundle, settings)
            loaded[bundle.name] = await loading.load(bundle)
    if only is None:
        metrics.not_loaded(bad.names)
    bad.refuse_none(loaded)
    log_advice(loaded)
    for remembered, one in loading.to_check:  # not while another model is loaded, which takes all cores
        remembered.check(engine, one)
    return loaded


@dataclass(frozen=True, slots=True)
class _Loading:
    """Loads models into an engine, one after the other."""

    settings: Settings
    engine: LocalEngine
    metrics: Metrics
    precisions: Mapping[str, Wanted]
    previous: Mapping[str, Loaded]
    found: Mapping[str, FoundAhead]
    is_beside: bool
    """Whether the engine serves meanwhile."""
    to_check: list[tuple[Remembered, Loaded]] = field(default_factory=list)

    def is_open(self, bundle: Bundle) -> bool:
        """Whether a model only has to be served."""
        found = self.found.get(bundle.key)
        return found is not None and found.prepared is not None

    async def load(self, bundle: Bundle) -> Loaded:
        """Load a model, keep what was measured of it, and return how it was loaded."""
        precision = self.precisions[bundle.name]
        observer = self.metrics.add_model(bundle.name, bundle.manifest.task)
        found = self.found.get(bundle.key)
        if found is None or found.precision != precision:
            look_up = partial(Remembered.of, bundle, self.settings, precision, self.previous.get(bundle.name))
            found = FoundAhead(precision, await asyncio.to_thread(look_up), None)
        remembered = found.remembered
        if found.prepared is not None:
            one = self.engine.serve(bundle, found.prepared, observer, admission=self._admission)
        else:
            one = await self._open(bundle, precision, remembered, observer)
        if remembered.measured is not None:  # and blurred neither by requests nor by other models that were opened
            one = replace(one, taken_bytes=remembered.measured.taken_bytes)
        one = advised(bundle, one)
        await asyncio.to_thread(remembered.keep, one)
        self.to_check.append((remembered, one))
        _warn(bundle, one)
        self.metrics.model_loaded(served_as(bundle, one), one.speed.budget_tokens)
        return one

    async def _open(
        self, bundle: Bundle, precision: Wanted, remembered: Remembered, observer: EngineObserver
    ) -> Loaded:
        taken_bytes = measure_memory(self.settings)
        try:
            one = await self.engine.load(
                bundle,
                partial(open_remembered, remembered, self.settings, precision),
                observer,
                budget_tokens=self.settings.batch_tokens or None,
                admission=self._admission,
                previous=remembered.measured,
                beside=self.is_beside,
            )
        except OutOfDeviceMemory as error:
            raise StartupError(
                f"Model {bundle.name} does not fit into the free memory of the device: {error}. Lower "
                "BERT_BATCH_TOKENS, raise BERT_GPU_MEMORY_MIB if it is set, or serve fewer models on this device."
            ) from error
        except BundleError:
            await asyncio.to_thread(remembered.forget)
            raise
        return replace(one, taken_bytes=taken_bytes(not one.threads))

    @property
    def _admission(self) -> Admission:
        return Admission(self.settings.max_queue_s, self.settings.request_timeout_s)


async def _require_room(bundle: Bundle, settings: Settings) -> None:
    try:
        await asyncio.to_thread(require_room, bundle, settings)
    except NoRoom as error:
        raise BundleError(error.message) from error


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
