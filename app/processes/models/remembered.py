"""Take over what an earlier start measured of a model, and keep what this one measures for the next."""

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from app import __version__
from app.bundle.cpus import cpu_limit, processor
from app.bundle.files import Bundle
from app.engine.local import LocalEngine
from app.engine.messages import Loaded, Measured
from app.engine.speed_check import is_alike
from app.engine.tuning_cache import Conditions, TuningCache
from app.errors import BundleError
from app.runtime.choice import Wanted, choose_variant
from app.runtime.kept_weights import KeptWeights
from app.runtime.options import runtime_versions
from app.settings import Settings

log = logging.getLogger(__name__)

FOLDER_NAME: Final = "bert-inference-service"


class Remembered:
    """What is known of a model before it is loaded. `of`, `keep` and `forget` wait for the disk."""

    def __init__(
        self,
        bundle: Bundle,
        cache: TuningCache | None,
        measured: Measured | None,
        kept: KeptWeights | None,
        *,
        fixed_threads: bool,
    ) -> None:
        """Take what was read from a cache, if there is one."""
        self._bundle: Final = bundle
        self._fixed_threads: Final = fixed_threads
        self._cache: Final = cache
        self.measured: Final = measured
        self.kept: Final = kept
        """Where the weights as this CPU reads them are from start to start."""

    @classmethod
    def of(cls, bundle: Bundle, settings: Settings, precision: Wanted, before: Measured | None) -> "Remembered":
        """Look up a model that is to run in a precision, and how it ran, unless that is known of just before.

        Nothing is found of one that does not run on a CPU.
        """
        found = _caches_of(bundle, settings, precision)
        cache, kept = (None, None) if found is None else found
        if before is not None:
            cache = None
        measured = before if cache is None else cache.recall()
        return cls(bundle, cache, measured, kept, fixed_threads=settings.threads > 0)

    @property
    def threads(self) -> Sequence[int]:
        """How many CPU threads a run may have; empty if that is not known, or it ran on no CPU."""
        return () if self.measured is None else self.measured.threads

    def keep(self, loaded: Loaded) -> None:
        """Keep how the model was loaded, if that was measured now."""
        if self._cache is None or not loaded.threads:
            return
        if self._is_used(loaded):
            log.info(
                "model %s: its speed was measured by an earlier start and is in %s", self._bundle.name, self._cache.path
            )
        elif self._has_all_threads(loaded):
            self._cache.remember(loaded)

    def forget(self) -> None:
        """Have the next start find nothing."""
        for one in (self._cache, self.kept):
            if one is not None:
                one.forget()

    def check(self, engine: LocalEngine, loaded: Loaded) -> None:
        """Have the engine see later whether it is right, if it was not measured now."""
        if self._cache is not None and self._is_used(loaded):
            engine.check_speed(self._bundle, loaded.speed, partial(self._found, self._cache))

    def _has_all_threads(self, loaded: Loaded) -> bool:
        """Whether memory and disk allowed runs with few threads, too. If not now, they may at the next start."""
        return self._fixed_threads or min(loaded.threads) == 1

    def _is_used(self, loaded: Loaded) -> bool:
        return self.measured is not None and self.measured.way == loaded.way

    def _found(self, cache: TuningCache, slowness: float) -> None:
        name = self._bundle.name
        if is_alike(slowness):
            log.debug("model %s: a batch takes %.2f times as long as was remembered", name, slowness)
            return
        log.info(
            "model %s: a batch takes %.2f times as long as was remembered. The next start measures again",
            name,
            slowness,
        )
        cache.forget()


def _caches_of(bundle: Bundle, settings: Settings, precision: Wanted) -> tuple[TuningCache, KeptWeights] | None:
    """Return where it is kept how a model runs on this CPU, and its weights as the CPU reads them.

    None if nothing is to be kept, or if it cannot run on a CPU: on a GPU the search for the best batch is a part of the warm-up.
    """
    folder = _folder(settings)
    if folder is None or settings.device == "cuda":
        return None
    try:
        variant = choose_variant(bundle, "cpu", precision)
    except BundleError:
        return None
    conditions = Conditions(
        bundle=bundle.identity,
        variant=variant.name,
        threads=settings.threads,
        batch_tokens=settings.batch_tokens,
        processor=processor(),
        cores=cpu_limit(),
        runtime=runtime_versions(),
        release=__version__,
    )
    of_weights = (conditions.bundle, conditions.processor, conditions.runtime, conditions.release)
    return TuningCache(folder, conditions), KeptWeights(folder, (bundle.name, variant.name), of_weights)


def _folder(settings: Settings) -> Path | None:
    if not settings.tuning_cache:
        return None
    if settings.tuning_cache_dir is not None:
        return settings.tuning_cache_dir
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # A relative path does not count, as the XDG Base Directory Specification has it.
        return (caches if caches.is_absolute() else Path.home() / ".cache") / FOLDER_NAME
    except RuntimeError:  # this user has no home
        return None
