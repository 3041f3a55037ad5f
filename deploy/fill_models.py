# noqa: INP001 - scripts, not a package: each is run alone
"""Fill the models folder of a deployment, then end: the export service of docker-compose.yml.

A version of a model is a bundle in `.versions/<version>/<name>`; what is served is the link `<name>` to one of them. The
link is replaced in one step, and old versions stay, so that going back is the same step again. A bundle that this
release can serve is left as it is, and so is a folder that was put there by hand. Runs alone, once per start of the
stack; of `app` it may import `bundle` and `errors` only.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.bundle import load_bundle
from app.errors import BundleError

FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
DEMO_CHECKPOINT = "model_export/demo_checkpoint"
DEMO_TASKS = {"sentiment": "classify", "masked-token": "fill-mask"}
"""The demo checkpoint has two heads: one model each."""


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


def is_there(bundle: Path, model: Model) -> bool:
    """Tell whether the bundle is one that this release can serve, with the variants asked for."""
    try:
        manifest = load_bundle(bundle).manifest
    except BundleError:
        return False
    return {variant.name for variant in manifest.variants}.issuperset(filter(None, model.variants.split(",")))


def serve_version(models: Path, name: str, bundle: Path) -> None:
    """Point the served name at a bundle; a reader sees the old one or the new one, never neither."""
    new = models / f".{name}.new"
    new.unlink(missing_ok=True)
    new.symlink_to(bundle.relative_to(models))
    new.replace(models / name)


def fill(models: Path, model: Model) -> None:
    """Export the model if this version of it is not there, and serve it.

    Raises:
        subprocess.CalledProcessError: the export failed; what was served before still is.
    """
    bundle = models / ".versions" / model.version / model.name
    if is_there(bundle, model):
        print(f"{model.name}: version {model.version} is there already", flush=True)  # noqa: T201
    else:
        bundle.parent.mkdir(parents=True, exist_ok=True)
        arguments = ["--checkpoint", model.checkpoint, "--output", str(bundle), "--task", model.task]
        arguments += ["--revision", model.revision] if model.revision else []
        arguments += ["--variants", model.variants] if model.variants else []
        subprocess.run([sys.executable, "-m", "model_export", "export", *arguments], check=True)  # noqa: S603
    serve_version(models, model.name, bundle)


def withdraw_others(models: Path, wanted: list[Model]) -> None:
    """Take away the links to models that are no longer asked for; their versions stay."""
    names = {model.name for model in wanted}
    for link in models.iterdir():
        if link.is_symlink() and link.name not in names:
            link.unlink()


def main() -> int:
    """Fill the folder; the exit code is that of an export that failed."""
    models = Path(os.environ.get("BERT_MODELS", "/models"))
    wanted = models_to_fill(os.environ)
    try:
        for model in wanted:
            fill(models, model)
    except subprocess.CalledProcessError as error:
        return error.returncode
    withdraw_others(models, wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
