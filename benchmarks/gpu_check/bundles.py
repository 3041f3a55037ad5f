"""The models that are run, exported into a cache by another interpreter: the server's environment cannot export."""

import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from app.bundle.manifest import Precision, Target, Task
from benchmarks.common import say
from benchmarks.systems import ROOT

MODELS: Final[Mapping[str, tuple[str, Task]]] = MappingProxyType(
    {
        "demo": ("demo", "classify"),
        "demo-masked": ("demo", "fill-mask"),
        "demo-embed": ("demo", "embed"),
        "tiny": ("tiny", "classify"),
        "base": ("base", "classify"),
        "large": ("large", "classify"),
    }
)
"""A checkpoint of `benchmarks.checkpoints` and its task, by the name of the bundle."""
PRECISIONS: Final[Mapping[Target, tuple[Precision, ...]]] = MappingProxyType(
    {"cpu": ("fp32",), "cuda": ("fp16", "fp32")}
)
"""What runs on a kind of device, the one that is served first."""

_MAKE_CHECKPOINT: Final = """
import sys
from pathlib import Path
from benchmarks.checkpoints import checkpoint
print(checkpoint(sys.argv[1], Path(sys.argv[2])))
"""


class ExportFailed(Exception):
    """The other interpreter could not make what was asked of it; the message has the end of what it said."""


class Bundles:
    """The bundles in a cache."""

    def __init__(self, export_python: Path, cache: Path, target: Target) -> None:
        self._python: Final = export_python
        self._cache: Final = cache.resolve()
        self._target: Final = target

    def folder(self, name: str) -> Path:
        """Return the bundle of a model, alone in its folder, as today's export writes it.

        Raises:
            ExportFailed: there is none, and none can be made.
        """
        folder = self._cache / "gpu-check" / self._target / name / name
        # Not by the time of the files: a cache that is copied to another machine is as good there.
        exported_by, today = folder.with_suffix(".exported-by"), _export_hash()
        if exported_by.exists() and exported_by.read_text() == today:
            return folder
        say(f"exporting {name} for {self._target}")
        source, task = MODELS[name]
        folder.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = self._run("-c", _MAKE_CHECKPOINT, source, str(self._cache)).strip()
        variants = ",".join(f"{self._target}-{precision}" for precision in PRECISIONS[self._target])
        self._run(
            *("-m", "model_export", "export", "--checkpoint", checkpoint, "--task", task),
            *("--variants", variants, "--output", str(folder)),
        )
        exported_by.write_text(today)
        return folder

    def products(self, precision: Precision, count: int) -> Path:
        """Return a graph of so many matrix products and nothing else.

        Raises:
            ExportFailed: it is not there and cannot be made.
        """
        path = self._cache / "gpu-check" / f"{count}-products-{precision}.onnx"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._run("-m", "benchmarks.gpu_check.products", str(path), precision, str(count))
        return path

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(self._python), *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=900
        )
        if done.returncode:
            raise ExportFailed(f"{self._python} {' '.join(arguments[:2])}: {done.stderr.strip()[-500:]}")
        return done.stdout


def _export_hash() -> str:
    digest = hashlib.sha256()
    for source in sorted((ROOT / "model_export").glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()
