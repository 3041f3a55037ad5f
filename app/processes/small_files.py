"""What front ends read of a bundle, kept in the service's folder for as long as the engine serves it, whatever becomes of the original.

So a front end that is started later makes its requests for the bundle that the engine has, not for the one that is there now.
"""

import shutil
from pathlib import Path

from app.bundle.files import Bundle, load_bundle
from app.bundle.manifest import MANIFEST_FILE
from app.errors import BundleError


def folder_of(service: Path, key: str) -> Path:
    """Return where the small files of a bundle are kept in the service's folder."""
    name, _, identity = key.rpartition("@")
    return service / "bundles" / identity / name


def keep(service: Path, bundle: Bundle) -> Bundle:
    """Copy the small files of a bundle, the manifest with its time, and return the copy.

    Raises:
        BundleError: one is missing, damaged or was changed just now, or there is no room for the copy.
    """
    folder = folder_of(service, bundle.key)
    contents = [(file, bundle.read_file(file)) for file in (bundle.manifest.tokenizer, bundle.manifest.golden)]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file, content in contents:
            (folder / file.file).write_bytes(content)
        shutil.copy2(bundle.folder / MANIFEST_FILE, folder / MANIFEST_FILE)
    except OSError as error:
        raise BundleError(
            f"{bundle.folder} cannot be copied to the service's folder of temporary files: {error.strerror}. "
            "Make room in it, or set TMPDIR to another."
        ) from error
    copy = load_bundle(folder)
    if copy.identity != bundle.identity:
        raise BundleError(f"{bundle.folder / MANIFEST_FILE} was changed while it was read. Load the model again.")
    return copy


def of_original(text: str, service: Path, bundle: Bundle) -> str:
    """Return what is said of the copy of a bundle as it is of the bundle."""
    return text.replace(str(folder_of(service, bundle.key).parent), str(bundle.folder.parent))


def forget(service: Path, keys: set[str]) -> None:
    """Remove what is kept of all bundles but these."""
    kept = {folder_of(service, key) for key in keys}
    for folder in (service / "bundles").glob("*/*"):
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)
