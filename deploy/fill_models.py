# noqa: INP001 - scripts, not a package: each is run alone
"""Fill the models folder of a deployment, then end: the export service of docker-compose.yml.

A version of a model is a bundle in `.versions/<version>/<name>`; what is served is the link `<name>` to one of them. The
link is replaced in one step, and old versions stay, so that going back is the same step again. A bundle that this
release can read is left as it is, and so is a folder that was put there by hand. Runs alone, once per start of the
stack; of `app` it may import `bundle` and `errors` only.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from app.bundle import load_bundle
from app.errors import BundleError

DEMO_TASKS = {"sentiment": "classify", "fill-mask": "fill-mask"}
"""The demo checkpoint has two heads: one model each."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model to have in the folder."""

    name: str
    version: str
    checkpoint: str
    task: str


def models_to_fill(environment: dict[str, str]) -> list[Model]:
    """Return what the environment asks for: one model by name, else those of the demo checkpoint."""
    version = environment.get("MODEL_VERSION") or "1"
    checkpoint = environment["CHECKPOINT"]
    name = environment.get("MODEL_NAME")
    if name:
        return [Model(name, version, checkpoint, environment.get("MODEL_TASK") or "auto")]
    return [Model(name, version, checkpoint, task) for name, task in DEMO_TASKS.items()]


def is_readable(bundle: Path) -> bool:
    """Tell whether there is a bundle that this release can serve."""
    try:
        load_bundle(bundle)
    except BundleError:
        return False
    return True


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
    if is_readable(bundle):
        print(f"{model.name}: version {model.version} is there already", flush=True)  # noqa: T201
    else:
        bundle.parent.mkdir(parents=True, exist_ok=True)
        arguments = ["--checkpoint", model.checkpoint, "--output", str(bundle), "--task", model.task]
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
    wanted = models_to_fill(dict(os.environ))
    try:
        for model in wanted:
            fill(models, model)
    except subprocess.CalledProcessError as error:
        return error.returncode
    withdraw_others(models, wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
