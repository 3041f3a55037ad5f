"""A bundle on disk: finding, reading and trusting it."""

import hashlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

import pydantic_core
from pydantic import ValidationError

from app.bundle import checksum
from app.bundle.manifest import MANIFEST_FILE, SCHEMA_VERSION, BundleFile, Golden, Manifest
from app.bundle.regular_file import open_regular, parts_of, unreadable
from app.errors import BundleError

LARGEST_MANIFEST: Final = 2**24
LARGEST_READ: Final = 2**28
"""Bytes of a manifest, and of what else is read whole: a tokenizer or golden answers. Those of the largest multilingual models
have 20 MB."""


class Bundle:
    """A bundle on disk whose manifest has been read. Its files are hashed only when they are read."""

    def __init__(self, folder: Path, manifest: Manifest, *, has_checksum: bool = True, name: str | None = None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.has_checksum = has_checksum
        """Whether the manifest shows that it is whole. Those of older releases do not."""

        self.name = folder.name if name is None else name
        """The name it is served under: that of its folder, so that a link or a rename deploys another version."""

    @cached_property
    def identity(self) -> str:
        """Tells it from every other bundle that was ever there under its name: the manifest holds the hashes of all files."""
        return hashlib.sha256(self.manifest.model_dump_json().encode()).hexdigest()

    @property
    def key(self) -> str:
        """What an engine calls it: no other bundle, and no other version of this one, has it."""
        return key_of(self.name, self.identity)

    @property
    def version(self) -> str | None:
        """The version by which `fill_models` put it there: a folder of `.versions`, into which its own is a link."""
        parts = self.folder.parts
        return parts[-2] if len(parts) > 2 and parts[-3] == ".versions" else None

    @property
    def written_at(self) -> int:
        """When its manifest was written, in seconds since 1970: at its export, or when it was copied."""
        return int((self.folder / MANIFEST_FILE).stat().st_mtime)

    def path(self, file: BundleFile) -> Path:
        return self.folder / file.file

    def verify(self) -> None:
        """Pass if every file is that of the manifest.

        Raises:
            BundleError: one is not.
        """
        for file in self.manifest.files:
            self.verify_file(file)

    def verify_file(self, file: BundleFile) -> Path:
        """Return the path of a bundle file whose size and hash are those of the manifest.

        Raises:
            BundleError: the file is missing, cut short or changed, or is no regular file.
        """
        path = self.path(file)
        with open_regular(path) as stream:
            self._check_size(file, os.fstat(stream.fileno()).st_size)
            try:
                sha256 = _sha256(stream)
            except OSError as error:
                raise unreadable(path, error) from error
        self._check_hash(file, sha256)
        return path

    def check_size(self, file: BundleFile) -> None:
        """Pass if a bundle file is there and has the size that the manifest says, whatever it holds.

        Raises:
            BundleError: it does not.
        """
        with open_regular(self.path(file)) as stream:
            self._check_size(file, os.fstat(stream.fileno()).st_size)

    def read_file(self, file: BundleFile) -> bytes:
        """Return the content of a bundle file whose size and hash are those of the manifest.

        Raises:
            BundleError: the file is missing, cut short, changed or too large to be read, or is no regular file.
        """
        content = _read(self.path(file), LARGEST_READ)
        self._check_size(file, len(content))
        self._check_hash(file, hashlib.sha256(content).hexdigest())
        return content

    def _check_size(self, file: BundleFile, size_bytes: int) -> None:
        if size_bytes != file.size_bytes:
            raise BundleError(
                f"{self.path(file)} has {size_bytes} bytes, its manifest says {file.size_bytes}: the copy is incomplete. "
                "Copy the bundle again, or export the model again."
            )

    def _check_hash(self, file: BundleFile, sha256: str) -> None:
        if sha256 != file.sha256:
            raise BundleError(
                f"{self.path(file)} is not the file that was exported: its sha256 differs from the manifest's. "
                "Copy the bundle again, or export the model again."
            )

    @cached_property
    def golden(self) -> Golden:
        """The golden inputs and answers, read once.

        Raises:
            BundleError: they are missing or damaged.
        """
        content = self.read_file(self.manifest.golden)
        try:
            return Golden.model_validate_json(content)
        except ValidationError as error:
            path = self.path(self.manifest.golden)
            raise BundleError(f"{path} does not hold golden answers: {_first_problem(error)}.") from error


def key_of(name: str, identity: str) -> str:
    """Return the key of a bundle."""
    return f"{name}@{identity}"


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of a file's content."""
    with path.open("rb") as stream:
        return _sha256(stream)


def _sha256(stream: BufferedReader) -> str:
    digest = hashlib.sha256()
    for part in parts_of(stream):
        digest.update(part)
    return digest.hexdigest()


def describe_file(path: Path) -> BundleFile:
    """Return the manifest entry of a file as it is now."""
    return BundleFile(file=path.name, sha256=sha256_of(path), size_bytes=path.stat().st_size)


def load_bundle(folder: Path) -> Bundle:
    """Read the manifest of the bundle in `folder`, which stays where it is when a link of that name leads to another version.

    Raises:
        BundleError: there is no manifest, it is damaged, or of another release than this server reads.
    """
    name, folder = folder.name, Path(os.path.realpath(folder))
    path = folder / MANIFEST_FILE
    if not os.path.lexists(path):
        raise BundleError(
            f"{folder} is not a bundle: it has no readable {MANIFEST_FILE}. Name the folder that the export of one model wrote."
        )
    raw = _read(path, LARGEST_MANIFEST)
    try:
        document = pydantic_core.from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise BundleError(f"{path} is not JSON. Export the model again.") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version}, this server reads {SCHEMA_VERSION}: a newer release made it. {_UPGRADE}"
        )
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version!r}, this server reads {SCHEMA_VERSION}. "
            "Export the model again with the model_export of this release."
        )
    has_checksum = checksum.KEY in document
    is_intact = has_checksum and checksum.is_intact(raw)
    manifest = _manifest(path, document, is_intact=is_intact)
    if has_checksum and not is_intact:
        raise BundleError(
            f"{path} is damaged: it does not match its checksum, so it was not written by an export as it is. "
            "Copy the bundle again, or export the model again."
        )
    return Bundle(folder, manifest, has_checksum=has_checksum, name=name)


def _manifest(path: Path, document: dict[str, Any], *, is_intact: bool) -> Manifest:
    try:
        return Manifest.model_validate({key: value for key, value in document.items() if key != checksum.KEY})
    except ValidationError as error:
        problem = _first_problem(error)
        if is_intact or all(one["type"] == "extra_forbidden" for one in error.errors(include_url=False)):
            raise BundleError(
                f"{path} is of another release, which is newer if the file is whole: {problem}. {_UPGRADE}"
            ) from error
        raise BundleError(f"{path} is damaged: {problem}. Export the model again.") from error


_UPGRADE: Final = "Upgrade the server to the release that exported it, or export the model again with this one."


def _read(path: Path, most_bytes: int) -> bytes:
    with open_regular(path) as stream:
        try:
            # The size first: so large a read would take as much of a limited address space.
            content = stream.read(min(most_bytes, os.fstat(stream.fileno()).st_size) + 1)
        except OSError as error:
            raise unreadable(path, error) from error
    if len(content) > most_bytes:
        raise BundleError(f"{path} has more than {most_bytes} bytes, the most that is read. Export the model again.")
    return content


def by_name(folder: Path) -> Path:
    """Return a path of a folder that ends with its name, under which its bundle is served."""
    return folder.resolve() if folder.name in ("", "..") else folder


Skipping = Callable[[str], AbstractContextManager[None]]
"""What a bundle of this name is read in: a context that may go on after a `BundleError`."""


def skipping_none(name: str) -> AbstractContextManager[None]:  # noqa: ARG001
    """Have the first `BundleError` end the work."""
    return nullcontext()


def find_bundles(models: Path, skipping: Skipping = skipping_none, *, may_be_empty: bool = False) -> list[Bundle]:
    """Return the bundles under `models`, by name; `models` may itself be a bundle.

    Args:
        models: The folder.
        skipping: What each of them is read in.
        may_be_empty: Whether there may be none in the folder, which has to be there.

    Raises:
        BundleError: there is none, or one is damaged or cannot be read.
    """
    try:
        is_bundle = _has_manifest(models)
    except OSError as error:
        raise unreadable(models, error) from error
    if is_bundle:
        return [load_bundle(by_name(models))]
    if models.is_file():
        raise BundleError(
            f"{models} is a file. Set --models to the folder of a bundle, which has a {MANIFEST_FILE}, or to a folder of bundles."
        )
    if not models.is_dir():
        raise BundleError(
            f"The models folder {models} does not exist. Make a bundle with "
            f"'python -m model_export export --checkpoint DIR_OR_HUB_ID --output {models}/NAME', or set --models."
        )
    folders = bundle_folders(models)
    if not folders and not may_be_empty:
        raise BundleError(
            f"No bundle in {models}. Make one with "
            f"'python -m model_export export --checkpoint DIR_OR_HUB_ID --output {models}/NAME', or set --models."
        )
    found = []
    for folder in folders:
        with skipping(folder.name):
            found.append(load_bundle(folder))
    return found


def bundle_folders(models: Path) -> list[Path]:
    """Return the folders of the bundles under `models`, by name; `models` may itself be a bundle.

    Raises:
        BundleError: the folder cannot be read.
    """
    try:
        if _has_manifest(models):
            return [by_name(models)]
        # Passed over: what fill_models and the export keep there (.versions, a link that was never put in its place), and
        # what a file system does, which only root may open, and a name that is no UTF-8, which no request or metric can have.
        return sorted(
            folder
            for folder in models.iterdir()
            if not folder.name.startswith(".")
            and folder.name != "lost+found"
            and _is_text(folder.name)
            and _has_manifest(folder)
        )
    except OSError as error:
        raise unreadable(Path(error.filename or models), error) from error


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _has_manifest(folder: Path) -> bool:
    """Return whether a folder is a bundle. One whose manifest is a link to nothing is a damaged one."""
    path = folder / MANIFEST_FILE
    return path.exists() or path.is_symlink()


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
