"""Which bundles of the models folder are served, and how that changes while they are. Runs beside the engine, on its event loop.

A bundle is loaded beside the one that it replaces. All front ends make themselves ready for it, then all requests go over at once,
then the one before answers what it has, and its memory is freed. Changes are made one after the other.
"""

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from app.bundle.files import Bundle, bundle_folders, key_of, load_bundle
from app.engine.local import LocalEngine
from app.engine.messages import Loaded, ModelState, Serving
from app.errors import BadBundle, Internal, NoRoom, NotFound, ServiceError, StartupError
from app.processes.models.loading import load_models, served_as
from app.processes.models.models_folder import Release
from app.processes.models.room import FREE_MEMORY, require_room, served_weights_bytes
from app.processes.models.succession import check_named
from app.settings import Settings
from app.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


class FrontEnds(Protocol):
    """Whoever makes requests for the engine."""

    async def prepare(self, bundle: Bundle) -> None:
        """Read what requests for a bundle need, and go on serving what is served.

        Raises:
            BundleError: a file is damaged, or does not give the golden token ids or answers.
        """

    async def switch(self, serving: Serving) -> None:
        """Have all requests that come from now on made for these bundles; return once they are."""


class Repository:
    """The bundles that an engine serves. An `Administration`."""

    def __init__(
        self,
        settings: Settings,
        engine: LocalEngine,
        metrics: Metrics,
        front_ends: FrontEnds,
        *,
        bundles: Iterable[Bundle],
        serving: Serving,
    ) -> None:
        """Take what the engine has loaded at the start: those of the bundles that `serving` has."""
        self._settings: Final = settings
        self._engine: Final = engine
        self._metrics: Final = metrics
        self._front_ends: Final = front_ends
        self._bundles = {bundle.name: bundle for bundle in bundles if bundle.name in serving.models}
        self.serving = serving
        self._states: dict[str, ModelState] = {}
        for name in serving.unloaded:
            self._states[name] = ModelState(name=name, state="unloaded")
        for name in serving.failed:
            self._states[name] = ModelState(name=name, state="failed", error="The log of the start says why.")
        for name in self._bundles:
            self._states[name] = self._ready(name)
        self._one_at_a_time: Final = asyncio.Lock()
        self._running: set[asyncio.Task[ModelState]] = set()

    async def states(self) -> Sequence[ModelState]:
        return [state for _, state in sorted(self._states.items())]

    async def load(self, name: str) -> ModelState:
        return await self._to_its_end(partial(self._load, name))

    async def unload(self, name: str) -> ModelState:
        return await self._to_its_end(partial(self._unload, name))

    @property
    def served(self) -> Mapping[str, Release]:
        """The identity and the version of each bundle that is served, by name."""
        return {name: (one.identity, one.version) for name, one in self.serving.models.items()}

    async def refresh(self, only: Collection[str] | None = None) -> None:
        """Serve what the models folder has now: load what is new or has changed, unload what is gone; log each.

        What cannot be loaded replaces nothing, nor does a folder whose manifest is missing: it may be a copy in progress. What an
        operator has unloaded stays so. A folder that cannot be read, or has no bundle at all, changes nothing: it may be one that
        is just being mounted.

        Args:
            only: The names to look at; all by default.
        """
        try:
            folders = await asyncio.to_thread(bundle_folders, self._settings.models)
        except StartupError as error:
            log.error("nothing is loaded: %s", error)  # noqa: TRY400
            return
        there = [folder.name for folder in folders]
        if not there:
            log.error("nothing is loaded: there is no bundle in %s", self._settings.models)
            return
        known = {*self._bundles, *(name for name, state in self._states.items() if state.state == "failed")} - {*there}
        gone = [name for name in known if not await asyncio.to_thread(os.path.lexists, self._settings.models / name)]
        for name in sorted({*there, *self._bundles}.difference(gone)):
            if name not in self.serving.unloaded and (only is None or name in only):
                with suppress(Exception):  # the log has it
                    await self.load(name)
        for name in gone:
            if only is None or name in only:
                is_served = name in self._bundles
                await self._to_its_end(
                    partial(self._unload, name, is_gone=True) if is_served else partial(self._forget, name)
                )

    async def _to_its_end(self, change: Callable[[], Coroutine[Any, Any, ModelState]]) -> ModelState:
        """Make a change after those before it, and to its end, whoever waits for it."""

        async def in_turn() -> ModelState:
            async with self._one_at_a_time:
                return await change()

        task = asyncio.create_task(in_turn())
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: "asyncio.Task[ModelState]") -> None:
        self._running.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            log.debug("a change of models failed: %s", error)

    async def _load(self, name: str) -> ModelState:
        folder = await asyncio.to_thread(self._folder, name)  # a file system may take long
        before = self._states.get(name)
        self._states[name] = replace(before or ModelState(name=name, state="loading"), state="loading")
        old = self._bundles.get(name)
        try:
            bundle = await asyncio.to_thread(load_bundle, folder)
            if old is not None and bundle.identity == old.identity:
                return await self._go_on_with(old, bundle)
            others = [one for one in self._bundles.values() if one.name != name]
            check_named([*others, bundle], self._settings)
            if old is not None and self._settings.swap == "unload-first":
                return await self._in_place_of(old, bundle, others)
            known = self._as_fast(bundle)
            await self._require_room(bundle, known)
            opened = await self._open(bundle, others, known)
        except ServiceError as error:
            raise self._refused(name, before, error) from error
        except StartupError as error:
            raise self._refused(name, before, BadBundle(str(error))) from error
        except asyncio.CancelledError:
            log.warning("model %s is not loaded, as the service stops", name)
            raise
        except Exception as error:
            if not (isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)):
                log.exception("model %s cannot be loaded for a fault of this service", name)
                raise self._refused(name, before, Internal()) from error
            no_room = NoRoom(f"The system gave too little memory to load bundle {name}. {FREE_MEMORY}")
            raise self._refused(name, before, no_room) from error
        return await self._go_over(bundle, opened, old)

    def _folder(self, name: str) -> Path:
        """Return the folder of a name: never one that is not directly in the models folder."""
        models = self._settings.models
        try:
            folders = {folder.name: folder for folder in bundle_folders(models)}
        except StartupError as error:
            raise BadBundle(str(error)) from error
        if name in folders:
            return folders[name]
        if name in self._bundles and os.path.lexists(models / name):
            return models / name  # whose manifest is missing, or a link to nothing
        raise NotFound("The models folder has no bundle of that name.")

    async def _require_room(self, bundle: Bundle, known: Mapping[str, Loaded], freed_bytes: int = 0) -> None:
        taken_bytes = known[bundle.name].taken_bytes if known else 0
        await asyncio.to_thread(require_room, bundle, self._settings, taken_bytes, freed_bytes)

    async def _open(self, bundle: Bundle, others: Sequence[Bundle], known: Mapping[str, Loaded]) -> Loaded:
        """Have front ends and the engine load a bundle, beside all else; `known` says how one was that is as fast.

        Raises:
            StartupError: it cannot be loaded.
        """
        try:
            await self._front_ends.prepare(bundle)
            loaded = await load_models(
                self._settings,
                [*others, bundle],
                self._engine,
                self._metrics,
                known,
                absent=self._settings.models_named,
                may_lack=[one.name for one in self._bundles.values() if one.name != bundle.name or self._lacks_it(one)],
                only=bundle.name,
            )
        except Exception:
            await self._switch(self.serving)  # so that nothing of it stays
            if served := self._bundles.get(bundle.name):
                self._metrics.add_model(served.name, served.manifest.task)  # which may be another task
            raise
        return loaded[bundle.name]

    def _lacks_it(self, bundle: Bundle) -> bool:
        """Return whether a bundle lacks the precision that is for all."""
        precision = self._settings.precision_by_model[""]
        return all(variant.precision != precision for variant in bundle.manifest.servable)

    def _as_fast(self, bundle: Bundle) -> Mapping[str, Loaded]:
        """Return how the bundle of this name that is served was loaded, if another one of its size is as fast and as large.

        Measuring takes time from the requests, and they from what is measured.
        """
        old = self._bundles.get(bundle.name)
        if old is None:
            return {}
        one, other = bundle.manifest, old.manifest
        is_alike = (one.architecture, one.max_length, one.task) == (other.architecture, other.max_length, other.task)
        known = self.serving.models.get(bundle.name)
        return {bundle.name: known} if is_alike and known is not None else {}

    async def _go_on_with(self, old: Bundle, bundle: Bundle) -> ModelState:
        """Serve on what is loaded, which is now found in this folder, and say so if that is of another version."""
        name = bundle.name
        if bundle.folder != old.folder:
            await asyncio.to_thread(bundle.verify)  # it may have to be loaded again
        before = self.serving.models[name]
        now = replace(before, version=bundle.version)
        if now != before:
            self._metrics.model_released(served_as(bundle, before))
            self._metrics.model_loaded(served_as(bundle, now), now.speed.budget_tokens)
            self._metrics.load_ended(name, "loaded")
            log.info("model %s is now %s%s, the same bundle", name, bundle.identity[:12], _of_version(now))
            await self._serve(bundle, now)
        self._bundles[name] = bundle
        self._states[name] = self._ready(name)
        return self._states[name]

    async def _go_over(self, bundle: Bundle, opened: Loaded, old: Bundle | None) -> ModelState:
        """Have all requests go over to a bundle that is loaded, and release the one before it."""
        name = bundle.name
        as_before = self.serving.models.get(name)
        await self._serve(bundle, opened)
        self._metrics.load_ended(name, "loaded")
        self._states[name] = self._ready(name)
        log.info("model %s is now %s%s", name, bundle.identity[:12], _of_version(opened))
        if old is not None and as_before is not None:
            await self._release(old, as_before)
        return self._states[name]

    async def _in_place_of(self, old: Bundle, bundle: Bundle, others: Sequence[Bundle]) -> ModelState:
        """Unload a bundle, load another, and if that fails, load the one before again, whose files may still be there.

        Nothing is unloaded for one that is damaged, does not fit or that front ends cannot read.
        """
        name = bundle.name
        as_before = self.serving.models[name]
        known = self._as_fast(bundle)
        await self._require_room(bundle, known, max(as_before.taken_bytes, served_weights_bytes(old, as_before)))
        await asyncio.to_thread(bundle.verify)
        try:
            await self._front_ends.prepare(bundle)
        except Exception:
            await self._switch(self.serving)
            raise
        await self._switch(replace(self.serving.without(name), loading=[name]))
        await self._release(old, as_before)
        try:
            opened = await self._open(bundle, others, known)
        except Exception as error:
            log.error("model %s cannot be loaded, and the one before it is loaded again: %s", name, error)  # noqa: TRY400
            try:
                reopened = await self._open(old, others, {name: as_before})
            except Exception as again:
                log.error("model %s is not served: %s", name, again)  # noqa: TRY400
                del self._bundles[name]
                rest = self.serving.without(name)
                await self._switch(replace(rest, failed=[*rest.failed, name]))
                self._states[name] = ModelState(name=name, state="failed")
                raise BadBundle(f"{error} Nor can the one before it be loaded again: {again}") from again
            await self._serve(old, reopened)
            self._states[name] = self._ready(name)
            raise
        return await self._go_over(bundle, opened, None)

    async def _serve(self, bundle: Bundle, opened: Loaded) -> None:
        self._bundles[bundle.name] = bundle
        models = {**self.serving.models, bundle.name: opened}
        await self._switch(replace(self.serving.without(bundle.name), models=models))

    async def _switch(self, serving: Serving) -> None:
        """Have all requests go to what is served from now on, and metrics say what is not."""
        self.serving = serving
        self._metrics.not_loaded(serving.failed)
        await self._front_ends.switch(serving)

    async def _forget(self, name: str) -> ModelState:
        """Forget a bundle that could not be loaded, and is there no longer."""
        await self._switch(self.serving.without(name))
        log.info("model %s, which is not served, is gone", name)
        return self._states.pop(name)

    async def _unload(self, name: str, *, is_gone: bool = False) -> ModelState:
        if name not in self._bundles:
            raise NotFound("No model of that name is served.")
        self._states[name] = replace(self._states[name], state="unloading")
        old = self._bundles.pop(name)
        as_before = self.serving.models[name]
        rest = self.serving.without(name)
        await self._switch(rest if is_gone else replace(rest, unloaded=[*rest.unloaded, name]))
        await self._release(old, as_before)
        self._metrics.load_ended(name, "unloaded")
        state = ModelState(name=name, state="unloaded")
        if is_gone:
            del self._states[name]
        else:
            self._states[name] = state
        log.info("model %s is unloaded%s", name, ", as its folder is gone" if is_gone else "")
        return state

    async def _release(self, old: Bundle, loaded: Loaded) -> None:
        self._metrics.model_released(served_as(old, loaded))
        await self._engine.release(key_of(old.name, loaded.identity))

    def _ready(self, name: str) -> ModelState:
        one = self.serving.models[name]
        return ModelState(
            name=name, state="ready", hash=one.identity[:12], version=one.version, loaded_at=one.loaded_at
        )

    def _refused(self, name: str, before: ModelState | None, error: ServiceError) -> ServiceError:
        """Take note of a load that failed, and return its error."""
        log.error("model %s is not loaded: %s", name, error.message)
        self._metrics.load_ended(name, "refused")
        if self._states[name].state != "loading":  # what was served is loaded again, or could not be
            before = self._states[name]
        if before is None or before.state == "failed":
            before = ModelState(name=name, state="failed")
        self._states[name] = replace(before, error=error.message)
        return error


def _of_version(loaded: Loaded) -> str:
    return "" if loaded.version is None else f", version {loaded.version}"
