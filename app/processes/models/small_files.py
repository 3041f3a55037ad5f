"""What front ends read of a bundle, kept in the service's folder for as long as the engine serves it, whatever becomes of the original.

So a front end that is started later makes its requests for the bundle that the engine has, not for the one that is there now.
"""

import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from app.bundle.files import Bundle, load_bundle
from app.bundle.manifest import MANIFEST_FILE
from app.errors import BundleError


def folder_of(service: Path, key: str) -> Path:
    """Return where the small files of a bundle are kept in the service's folder."""
    name, _, identity = key.rpartition("@")
    return service / "bundles" / identity / name


class SmallFiles:
    """Those that an engine keeps. They are open, so that they can be put back: some clean folders of temporary files."""

    def __init__(self, service: Path) -> None:
        """Keep none yet."""
        self._service: Final = service
        self._open: Final[dict[str, dict[Path, BinaryIO]]] = {}

    def keep(self, bundle: Bundle) -> Bundle:
        """Copy the small files of a bundle, the manifest with its time, and return the copy.

        Raises:
            BundleError: one is missing, damaged or was changed just now, or there is no room for the copy.
        """
        folder = folder_of(self._service, bundle.key)
        contents = [(file.file, bundle.read_file(file)) for file in (bundle.manifest.tokenizer, bundle.manifest.golden)]
        names = (MANIFEST_FILE, *(name for name, _ in contents))
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name, content in contents:
                (folder / name).write_bytes(content)
            shutil.copy2(bundle.folder / MANIFEST_FILE, folder / MANIFEST_FILE)
            opened: dict[Path, BinaryIO] = {folder / name: (folder / name).open("rb") for name in names}
        except OSError as error:
            raise BundleError(
                f"{bundle.folder} cannot be copied to the service's folder of temporary files: {error.strerror}. "
                "Make room in it, or set TMPDIR to another."
            ) from error
        self._close(bundle.key)
        self._open[bundle.key] = opened
        copy = load_bundle(folder)
        if copy.identity != bundle.identity:
            raise BundleError(f"{bundle.folder / MANIFEST_FILE} was changed while it was read. Load the model again.")
        return copy

    def of_original(self, text: str, bundle: Bundle) -> str:
        """Return what is said of the copy of a bundle as it is of the bundle."""
        return text.replace(str(folder_of(self._service, bundle.key)), str(bundle.folder))

    def put_back(self) -> None:
        """Write again what is missing."""
        for files in self._open.values():
            for path, stream in files.items():
                with suppress(OSError):  # a front end that reads it says so
                    if not path.exists():
                        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                        stream.seek(0)
                        # What is cut short as a disk is full would be taken for the file.
                        part = path.with_suffix(".part")
                        with part.open("wb") as new:
                            shutil.copyfileobj(stream, new)
                        part.replace(path)

    def keep_only(self, keys: Collection[str]) -> None:
        """Remove what is kept of all other bundles, also what is left of copies that failed, and of engines before."""
        for key in self._open.keys() - {*keys}:
            self._close(key)
        kept = {folder_of(self._service, key) for key in keys}
        for folder in (self._service / "bundles").glob("*/*"):
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):  # the same bundle is served by another name
                    folder.parent.rmdir()

    def _close(self, key: str) -> None:
        for stream in self._open.pop(key, {}).values():
            stream.close()
