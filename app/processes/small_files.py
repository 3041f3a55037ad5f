"""What front ends read of a bundle, kept in the service's folder for as long as the engine serves it, whatever becomes of the original.

So a front end that is started later makes its requests for the bundle that the engine has, not for the one that is there now.
"""

import shutil
from pathlib import Path

from app.bundle.files import Bundle
from app.bundle.manifest import MANIFEST_FILE


def folder_of(service: Path, key: str) -> Path:
    """Return where the small files of a bundle are kept in the service's folder."""
    name, _, identity = key.rpartition("@")
    return service / "bundles" / identity / name


def keep(service: Path, bundle: Bundle) -> None:
    """Copy the small files of a bundle, with their times.

    Raises:
        OSError: there is no room for them, or one cannot be read.
    """
    folder = folder_of(service, bundle.key)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in (MANIFEST_FILE, bundle.manifest.tokenizer.file, bundle.manifest.golden.file):
        shutil.copy2(bundle.folder / name, folder / name)


def forget(service: Path, keys: set[str]) -> None:
    """Remove what is kept of all bundles but these."""
    kept = {folder_of(service, key) for key in keys}
    for folder in (service / "bundles").glob("*/*"):
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)
