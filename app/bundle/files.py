"""A bundle on disk: finding, reading and trusting it."""

import hashlib
import json
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from app.bundle.manifest import MANIFEST_FILE, SCHEMA_VERSION, BundleFile, Golden, Manifest
from app.errors import BundleError


class Bundle:
    """A bundle on disk whose manifest has been read. Its files are hashed only by `verify_file`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @property
    def name(self) -> str:
        """The name it is served under: that of its folder, so that a link or a rename deploys another version."""
        return self.folder.name

    @cached_property
    def identity(self) -> str:
        """Tells it from every other bundle that was ever there under its name: the manifest holds the hashes of all files."""
        return hashlib.sha256(self.manifest.model_dump_json().encode()).hexdigest()

    @property
    def written_at(self) -> int:
        """When its manifest was written, in seconds since 1970: at its export, or when it was copied."""
        return int((self.folder / MANIFEST_FILE).stat().st_mtime)

    def path(self, file: BundleFile) -> Path:
        return self.folder / file.file

    def verify_file(self, file: BundleFile) -> Path:
        """Return the path of a bundle file whose size and hash are those of the manifest.

        Raises:
            BundleError: the file is missing, cut short or changed.
        """
        path = self.path(file)
        try:
            size_bytes = path.stat().st_size
            if size_bytes != file.size_bytes:
                raise BundleError(
                    f"{path} has {size_bytes} bytes, its manifest says {file.size_bytes}: the copy is incomplete. "
                    "Copy the bundle again, or export the model again."
                )
            sha256 = sha256_of(path)
        except FileNotFoundError as error:
            raise BundleError(f"{path} is missing from the bundle. Export the model again.") from error
        except OSError as error:
            raise _unreadable(path, error) from error
        if sha256 != file.sha256:
            raise BundleError(
                f"{path} is not the file that was exported: its sha256 differs from the manifest's. "
                "Copy the bundle again, or export the model again."
            )
        return path

    @cached_property
    def golden(self) -> Golden:
        """The golden inputs and answers, read once.

        Raises:
            BundleError: they are missing or damaged.
        """
        path = self.verify_file(self.manifest.golden)
        try:
            return Golden.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise BundleError(f"{path} does not hold golden answers: {_first_problem(error)}.") from error


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_file(path: Path) -> BundleFile:
    """Return the manifest entry of a file as it is now."""
    return BundleFile(file=path.name, sha256=sha256_of(path), size_bytes=path.stat().st_size)


def load_bundle(folder: Path) -> Bundle:
    """Read the manifest of the bundle in `folder`.

    Raises:
        BundleError: there is no manifest, it is damaged, or of a schema version that this server does not know.
    """
    path = folder / MANIFEST_FILE
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{folder} is not a bundle: it has no readable {MANIFEST_FILE}.") from error
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise BundleError(f"{path} is not JSON. Export the model again.") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version!r}, this server reads {SCHEMA_VERSION}. "
            "Export the model again with the model_export of this release."
        )
    try:
        return Bundle(folder, Manifest.model_validate_json(raw))
    except ValidationError as error:
        raise BundleError(f"{path} is damaged: {_first_problem(error)}. Export the model again.") from error


def find_bundles(models: Path) -> list[Bundle]:
    """Return the bundles under `models`, by name; `models` may itself be a bundle.

    Raises:
        BundleError: there is none, or one is damaged or cannot be read.
    """
    try:
        is_bundle = (models / MANIFEST_FILE).exists()
    except OSError as error:
        raise _unreadable(models, error) from error
    if is_bundle:
        return [load_bundle(models.resolve() if models.name in ("", "..") else models)]
    if models.is_file():
        raise BundleError(
            f"{models} is a file. Set --models to the folder of a bundle, which has a {MANIFEST_FILE}, or to a folder of bundles."
        )
    if not models.is_dir():
        raise BundleError(
            f"The models folder {models} does not exist. Make a bundle with "
            f"'python -m model_export export --checkpoint DIR_OR_HUB_ID --output {models}/NAME', or set --models."
        )
    try:
        # Passed over: what fill_models and the export keep there (.versions, a link that was never put in its place), and
        # what a file system does, which only root may open.
        folders = sorted(
            folder
            for folder in models.iterdir()
            if not folder.name.startswith(".") and folder.name != "lost+found" and (folder / MANIFEST_FILE).exists()
        )
    except OSError as error:
        raise _unreadable(Path(error.filename or models), error) from error
    if not folders:
        raise BundleError(
            f"No bundle in {models}. Make one with "
            f"'python -m model_export export --checkpoint DIR_OR_HUB_ID --output {models}/NAME', or set --models."
        )
    return [load_bundle(folder) for folder in folders]


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(
        f"{path} cannot be read: {error.strerror}. Let the user that serves read it, or take it out of the models folder."
    )


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
