# noqa: INP001 - scripts, not a package: each is run alone
"""Fill the models folder of a deployment, then end: the export service of docker-compose.yml.

A version of a model is a bundle in `.versions/<version>/<name>`; what is served is the link `<name>` to one of them. The
link is replaced in one step, and old versions stay, so that going back is the same step again. A bundle that this
release can serve is left as it is, and so is a folder that was put there by hand; one that was made of something else
than what is asked for stops the deployment. A name is served until it is withdrawn: its callers may not know the next one yet.
Runs once per start of the stack; of `app` it may import `bundle` and `errors` only, of `model_export` what finds weights.

    python -m deploy.fill_models                           make what the environment asks for, and serve it
    python -m deploy.fill_models rollback [NAME [VERSION]] serve the version before, or VERSION, again
    python -m deploy.fill_models versions                  list what is there
    python -m deploy.fill_models withdraw NAME...          serve these names no longer
"""

import signal
import sys

if __name__ == "__main__":
    # Before what takes a second to import: process 1 of a container does not get a signal that it has no handler for.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))

import argparse
import fcntl
import itertools
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.bundle.files import bundle_folders, load_bundle
from app.bundle.manifest import Manifest
from app.errors import BundleError
from model_export.checkpoint.load import hash_of
from model_export.checkpoint.sentence_transformers import read_embedding_settings
from model_export.checkpoint.weights import open_weights
from model_export.errors import ExportError, system_message

FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
DEMO_CHECKPOINT = "model_export/demo_checkpoint"
DEMO_TASKS = {"sentiment": "classify", "masked-token": "fill-mask", "next-sentence": "next-sentence"}
"""The demo checkpoint has three heads: one model each."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model to have in the folder. Empty `variants`, `revision`: what the export does by itself."""

    name: str
    task: str
    version: str
    checkpoint: str
    revision: str
    variants: str


def models_to_fill(environment: Mapping[str, str]) -> list[Model]:
    """Return what the environment asks for: one model by name, else those of the demo checkpoint.

    Raises:
        SystemExit: a name or a version would not be one folder.
    """
    for variable in ("MODEL_NAME", "MODEL_VERSION"):
        if not FOLDER.fullmatch(environment.get(variable) or "1"):
            raise SystemExit(f"{variable} becomes the name of a folder: use letters, digits, '.', '_' and '-' only.")
    name = environment.get("MODEL_NAME")
    tasks = {name: environment.get("MODEL_TASK") or "auto"} if name else DEMO_TASKS
    return [
        Model(
            name,
            task,
            version=environment.get("MODEL_VERSION") or "1",
            checkpoint=environment.get("CHECKPOINT") or DEMO_CHECKPOINT,
            revision=environment.get("CHECKPOINT_REVISION", ""),
            variants=environment.get("MODEL_VARIANTS", ""),
        )
        for name, task in tasks.items()
    ]


def unreadable(folder: Path) -> Path | None:
    """Return what of a folder this process may not read, if anything: `save_pretrained` writes weights for their owner alone."""
    if not os.access(folder, os.R_OK | os.X_OK):
        return folder
    for root, folders, files in os.walk(folder):
        for path in (Path(root, name) for name in (*folders, *files)):
            needs = os.R_OK | os.X_OK if path.name in folders else os.R_OK
            if not os.access(path, needs) and os.access(path, os.F_OK):
                return path
    return None


@contextmanager
def explaining(model: Model) -> Iterator[None]:
    """End with a sentence if a file cannot be used, and with the command that makes a checkpoint readable on the host."""
    try:
        yield
    except (SystemExit, OSError, subprocess.CalledProcessError) as error:
        folder = Path(model.checkpoint)
        if folder.is_dir() and (found := unreadable(folder)):
            host_folder = os.environ.get("CHECKPOINT_DIR") or model.checkpoint
            print(  # noqa: T201
                f"{model.name}: the export runs as user {os.getuid()}, who may not read {found}. "
                f"On the host, run: chmod -R a+rX {shlex.quote(host_folder)}",
                file=sys.stderr,
            )
        if isinstance(error, OSError):
            raise SystemExit(f"{model.name}: {system_message(error)}") from error
        raise


def manifest_of(bundle: Path) -> Manifest | None:
    """Return the manifest of a bundle that this release can serve, else nothing."""
    try:
        return load_bundle(bundle).manifest
    except BundleError:
        return None


def differences(manifest: Manifest, model: Model) -> list[str]:
    """Return how a bundle differs from the requested model, variants apart.

    Cheap, and without a network: a folder's weights are hashed, of a hub's checkpoint the name and the commit are compared.

    Raises:
        ExportError: the folder holds no weights, or its sentence-transformers files cannot be read.
    """
    source = manifest.source
    found = []
    if model.task not in ("auto", manifest.task):
        found.append(f"its task is {manifest.task}, not {model.task}")
    if Path(model.checkpoint).is_dir():
        # Not its name: in a container every folder is /checkpoint.
        folder = Path(model.checkpoint)
        embedding = read_embedding_settings(folder, manifest.pooling) if manifest.pooling else None
        if hash_of(open_weights(folder), embedding) != source.sha256:
            found.append(f"it was made of other weights than those of {model.checkpoint}")
    elif model.checkpoint != source.checkpoint:
        found.append(f"it was made of {source.checkpoint}, not of {model.checkpoint}")
    elif model.revision and source.revision not in (model.revision, downloaded_commit(model)):
        found.append(f"it was made of revision {source.revision}, not of {model.revision}")
    return found


def downloaded_commit(model: Model) -> str | None:
    """Return the commit that a branch or tag was when it was downloaded, if it was."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415  # slow, and folders do not need it

    file = try_to_load_from_cache(model.checkpoint, "config.json", revision=model.revision)
    return Path(file).parent.name if isinstance(file, str) else None


def refuse_another(models: Path, model: Model, manifest: Manifest) -> None:
    """Pass if the bundle is of the requested model: a version never changes its answers.

    Raises:
        SystemExit: it is of something else.
    """
    try:
        found = differences(manifest, model)
    except ExportError as error:
        raise SystemExit(f"{model.name}: {error}") from error
    if found:
        versions = models / ".versions"
        free = next(n for n in itertools.count(2) if not (versions / str(n) / model.name).exists())
        raise SystemExit(
            f"{model.name}: version {model.version} is there already, and {', and '.join(found)}. "
            f"Set MODEL_VERSION={free} to deploy what you ask for, or ask for what version {model.version} is."
        )


def serve_version(models: Path, name: str, bundle: Path) -> None:
    """Point the served name at a bundle; a reader sees the old one or the new one, never neither."""
    link = models / name
    target = bundle.relative_to(models) if bundle.is_relative_to(models) else bundle
    with alone(models / ".lock"):
        refuse_folder(link)
        if link.is_symlink() and link.readlink() != target:
            put_link(previous_link(models, name), link.readlink())
        put_link(link, target)


def refuse_folder(link: Path) -> None:
    """Pass if a link can be put there in one step.

    Raises:
        SystemExit: something else is in its place.
    """
    if os.path.lexists(link) and not link.is_symlink():
        raise SystemExit(
            f"{link.name}: {link} is no link to a version: it was put there by hand, and is left as it is. "
            "Use another name, or move it away first."
        )


def previous_link(models: Path, name: str) -> Path:
    """Return the link to what was served under a name before; servers pass over what begins with a dot."""
    return models / f".{name}.previous"


def put_link(link: Path, target: Path) -> None:
    """Make a link, or replace one, in one step."""
    new = link.with_name(f".{link.name.lstrip('.')}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)


@contextmanager
def alone(file: Path, waiting: str = "") -> Iterator[None]:
    """Wait until no other run has locked this file, and keep the others from it meanwhile; say so if it may take long."""
    # A file that is open to be written: NFS locks no other.
    with file.open("a") as lock:
        if waiting:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(waiting, flush=True)  # noqa: T201
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def roll_back(models: Path, names: Iterable[str], version: str | None = None) -> None:
    """Serve the version that each name had before, or the one that is named; if one of them cannot be, change nothing.

    Raises:
        SystemExit: there is no such version, or this release cannot serve it.
    """
    bundles: dict[str, Path] = {}
    for name in names:
        link, before = models / name, previous_link(models, name)
        refuse_folder(link)
        is_none = not before.is_symlink() or (link.is_symlink() and link.readlink() == before.readlink())
        if version is None and is_none:
            raise SystemExit(f"{name}: no version was served before. 'versions' lists what is there: name one of them.")
        bundle = models / (Path(".versions", version, name) if version else before.readlink())
        if manifest_of(bundle) is None:
            raise SystemExit(
                f"{name}: version {bundle.parent.name} is not there, or this release cannot serve it. "
                "'versions' lists what is there. Nothing has changed."
            )
        bundles[name] = bundle
    for name, bundle in bundles.items():
        serve_version(models, name, bundle)
        chosen = bundle.parent.name
        print(  # noqa: T201
            f"{name}: version {chosen} is served. Set MODEL_VERSION={chosen} and its checkpoint before the next export, "
            "which otherwise serves what they name",
            flush=True,
        )


def list_versions(models: Path) -> Iterator[str]:
    """Return a line for each version of each model that this release can serve, by name."""
    versions = models / ".versions"
    folders = [version for version in versions.iterdir() if version.is_dir()] if versions.is_dir() else []
    bundles = [bundle for folder in folders for bundle in folder.iterdir() if FOLDER.fullmatch(bundle.name)]
    for bundle in sorted(bundles, key=lambda bundle: (bundle.name, bundle.stat().st_mtime)):
        if (manifest := manifest_of(bundle)) is None:
            continue  # an export is in progress, or has made it for another release
        told = [
            word
            for word, link in (("served", models / bundle.name), ("before", previous_link(models, bundle.name)))
            if link.is_symlink() and models / link.readlink() == bundle
        ]
        marks = f" ({', '.join(told)})" if told else ""
        yield f"{bundle.name} {bundle.parent.name}{marks}: {manifest.task}, made of {manifest.source.checkpoint}"


def export(command: list[str]) -> None:
    """Run an export; if this process is told to end meanwhile, so is the export, which removes what it has not finished.

    Raises:
        SystemExit: it was killed.
        subprocess.CalledProcessError: it failed.
    """
    with subprocess.Popen(command) as process:  # noqa: S603
        try:
            status = process.wait()
        except SystemExit:
            process.terminate()
            raise
    if status < 0:
        raise SystemExit(
            f"The export was ended by signal {-status}. If it ran out of memory, give it more (EXPORT_MEMORY)."
        )
    if status:
        raise subprocess.CalledProcessError(status, command)


def make(models: Path, model: Model) -> Path:
    """Export the model if this version of it is not there, and return its bundle.

    Raises:
        SystemExit: the version is there, of something else, or no link can be put there.
        subprocess.CalledProcessError: the export failed.
    """
    refuse_folder(models / model.name)
    bundle = models / ".versions" / model.version / model.name
    manifest = manifest_of(bundle)
    if manifest is not None:
        refuse_another(models, model, manifest)
    there = {variant.name for variant in manifest.variants} if manifest else set()
    if manifest and there.issuperset(filter(None, map(str.strip, model.variants.split(",")))):
        print(f"{model.name}: version {model.version} is there already", flush=True)  # noqa: T201
    else:
        bundle.parent.mkdir(parents=True, exist_ok=True)
        arguments = ["--checkpoint", model.checkpoint, "--output", str(bundle), "--task", model.task]
        arguments += ["--revision", model.revision] if model.revision else []
        arguments += ["--variants", model.variants] if model.variants else []
        export([sys.executable, "-m", "model_export", "export", *arguments])
    return bundle


def fill(models: Path, *wanted: Model) -> None:
    """Make what is not there yet, then serve all of it; if one of them cannot be made, what was served before still is.

    Raises:
        SystemExit: one of them cannot be made or served.
        subprocess.CalledProcessError: an export failed.
    """
    models.mkdir(parents=True, exist_ok=True)
    with alone(models / ".export.lock", "another export into this folder is waited for"):
        bundles: dict[str, Path] = {}
        for model in wanted:
            with explaining(model):
                bundles[model.name] = make(models, model)
        for name, bundle in bundles.items():
            serve_version(models, name, bundle)
            print(f"{name}: version {bundle.parent.name} is served", flush=True)  # noqa: T201
    others = sorted(
        link.name
        for link in models.iterdir()
        if link.is_symlink() and link.name not in bundles and FOLDER.fullmatch(link.name)
    )
    if others:
        print(  # noqa: T201
            f"served besides, as before: {', '.join(others)}. Once nobody asks for them: withdraw {' '.join(others)}",
            flush=True,
        )


def withdraw(models: Path, names: Sequence[str]) -> None:
    """Remove the links to models, which `roll_back` puts back; their versions stay. If one cannot be, change nothing.

    Raises:
        SystemExit: there is no such link.
    """
    with alone(models / ".lock"):
        for name in names:
            refuse_folder(models / name)
            if not (models / name).is_symlink():
                raise SystemExit(f"{name}: it is not served. 'versions' lists what is. Nothing has changed.")
        for name in dict.fromkeys(names):
            put_link(previous_link(models, name), (models / name).readlink())
            (models / name).unlink()
            print(f"{name}: withdrawn; 'rollback {name}' serves it again", flush=True)  # noqa: T201
    if not bundle_folders(models):
        print("No model is left. A server that watches takes that for a folder that is being mounted, and serves on.")  # noqa: T201


def main(arguments: list[str] | None = None) -> int:
    """Fill the folder, roll back, list or withdraw; the exit code is that of an export that failed."""
    parser = argparse.ArgumentParser(prog="fill_models", description="Fill the models folder of a deployment.")
    commands = parser.add_subparsers(dest="command", title="instead of filling it")
    rollback = commands.add_parser("rollback", help="serve the version that was served before, or another one")
    rollback.add_argument("name", nargs="?", metavar="NAME", help="model; all that the environment asks for by default")
    rollback.add_argument("version", nargs="?", metavar="VERSION", help="the one served before by default")
    commands.add_parser("versions", help="list the versions that are there")
    withdrawal = commands.add_parser("withdraw", help="serve these models no longer")
    withdrawal.add_argument("names", nargs="+", metavar="NAME", help="model")
    asked = parser.parse_args(arguments)
    names = [asked.name, asked.version] if asked.command == "rollback" else getattr(asked, "names", [])
    for given in names:
        if given is not None and not FOLDER.fullmatch(given):
            parser.error("NAME and VERSION are names of folders: use letters, digits, '.', '_' and '-' only.")
    models = Path(os.environ.get("BERT_MODELS", "/models"))
    wanted = models_to_fill(os.environ)
    try:
        if asked.command and not models.is_dir():
            raise SystemExit(f"The models folder {models} does not exist. BERT_MODELS names it.")
        if asked.command == "rollback":
            roll_back(models, [asked.name] if asked.name else [model.name for model in wanted], asked.version)
        elif asked.command == "versions":
            lines = list(list_versions(models)) or [f"There is no version in {models}."]
            print(*lines, sep="\n", flush=True)  # noqa: T201
        elif asked.command == "withdraw":
            withdraw(models, asked.names)
        else:
            fill(models, *wanted)
    except BundleError as error:
        raise SystemExit(str(error)) from error
    except subprocess.CalledProcessError as error:
        return error.returncode
    except OSError as error:
        raise SystemExit(system_message(error)) from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
