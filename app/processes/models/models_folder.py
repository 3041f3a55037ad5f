"""`--watch-models`: notices when a bundle of the models folder has changed completely.

It looks at the folder each second. Notifications of the kernel would cost less, and do not come from NFS and some volumes of
containers.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Final

from app.bundle.files import Bundle, bundle_folders, load_bundle
from app.bundle.manifest import MANIFEST_FILE
from app.errors import BundleError
from app.processes.reread.changes import Signature, signature_of

log = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0

Release = tuple[str, str | None]
"""The identity and the version of a bundle."""

Look = tuple[str | Signature, ...]
"""Where a bundle is, and the signatures of its manifest and of the files that it names."""


class ModelsFolder:
    """What has been seen of a models folder."""

    def __init__(self, models: Path) -> None:
        self._models: Final = models
        self._last: dict[str, Look | None] = {}
        self._judged: dict[str, Look | None] = {}
        self._incomplete: set[str] = set()
        self._manifests: dict[str, tuple[Look, Bundle | BundleError]] = {}

    def changed(self, served: Mapping[str, Release]) -> list[str]:
        """Return the names of bundles that have changed, or are gone, and are as they were at the look before.

        Each change is returned once. A bundle whose files are not all there as its manifest says is logged once, and returned when
        it is complete. Files are hashed once, when their signatures rest; those of a bundle that is served are not.

        Args:
            served: The identity and the version of each bundle that is served, by name.
        """
        try:
            folders = {folder.name: folder for folder in bundle_folders(self._models)}
        except BundleError as error:
            self._wait_for("", error)
            return []
        if not folders:
            return []  # as it is while a volume is mounted
        self._incomplete.discard("")
        looks: dict[str, Look | None] = {name: self._look(folder) for name, folder in folders.items()}
        for name in served:
            if name not in looks:
                looks[name] = () if os.path.lexists(self._models / name) else None
        found = [name for name, look in looks.items() if self._rests(name, look) and self._is_complete(name, served)]
        self._last = looks
        return sorted(found)

    def _look(self, folder: Path) -> Look:
        manifest = (os.path.realpath(folder), signature_of(folder / MANIFEST_FILE))
        known = self._manifests.get(folder.name)
        if known is None or known[0] != manifest:
            bundle: Bundle | BundleError
            try:
                bundle = load_bundle(folder)
            except BundleError as error:
                bundle = error
            known = self._manifests[folder.name] = (manifest, bundle)
        _, bundle = known
        if isinstance(bundle, BundleError):
            return manifest
        return (*manifest, *(signature_of(bundle.path(file)) for file in bundle.manifest.files))

    def _rests(self, name: str, look: Look | None) -> bool:
        """Return whether a bundle is as it was at the look before, and has not been judged as it is."""
        if name not in self._last or self._last[name] != look or self._judged.get(name, ()) == look:
            return False
        self._judged[name] = look
        return True

    def _is_complete(self, name: str, served: Mapping[str, Release]) -> bool:
        if self._judged[name] is None:
            self._incomplete.discard(name)
            return True
        if not self._judged[name]:
            self._wait_for(name, BundleError(f"{self._models / name} has no {MANIFEST_FILE}."))
            return False
        _, bundle = self._manifests[name]
        try:
            if isinstance(bundle, BundleError):
                raise bundle
            identity, version = served.get(name, (None, None))
            if bundle.identity != identity:
                bundle.verify()
        except BundleError as error:
            self._wait_for(name, error)
            return False
        self._incomplete.discard(name)
        return (bundle.identity, bundle.version) != (identity, version)

    def _wait_for(self, name: str, error: BundleError) -> None:
        if name not in self._incomplete:
            self._incomplete.add(name)
            log.warning("%s is incomplete, and is not loaded until it is not: %s", name or "the models folder", error)


async def watch(
    models: Path, served: Callable[[], Mapping[str, Release]], take: Callable[[Collection[str]], Awaitable[None]]
) -> None:
    """Have the bundles that have changed completely taken, until this is cancelled.

    Args:
        models: The folder.
        served: Returns the identity and the version of each bundle that is served, by name.
        take: Called with the names of those that have changed; the folder is looked at again when it is done.
    """
    folder = ModelsFolder(models)
    while True:
        await asyncio.sleep(INTERVAL_S)
        try:
            if names := await asyncio.to_thread(folder.changed, served()):
                await take(names)
        except Exception:
            log.exception("a change of the models folder could not be taken")
