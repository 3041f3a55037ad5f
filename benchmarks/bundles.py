"""The models that are run, exported into a cache by another interpreter: a server's environment cannot export."""

import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from app.bundle.manifest import Precision, Target, Task
from benchmarks.report import say

ROOT: Final = Path(__file__).parent.parent
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
"""What is exported for a kind of device unless asked otherwise; the first is the one that is served."""


class ExportFailed(Exception):
    """The other interpreter did not make what was asked of it; the message has the end of its output."""


class Bundles:
    """The bundles in a cache."""

    def __init__(
        self, export_python: Path, cache: Path, target: Target, precisions: tuple[Precision, ...] = ()
    ) -> None:
        self.precisions: Final = precisions or PRECISIONS[target]
        # The interpreter of an environment is a link: resolved, it would be the one that the environment was made from.
        self._python: Final = export_python.absolute()
        self._cache: Final = cache.resolve()
        self._target: Final = target

    def folder(self, name: str) -> Path:
        """Return the bundle of a model, alone in its folder, as today's export writes it.

        Raises:
            ExportFailed: there is none, and none can be made.
        """
        folder = self._cache / "bundles" / self._target / name / name
        # Not by the time of the files: a cache that is copied to another machine is as good there.
        exported_by, today = folder.with_suffix(".exported-by"), self._export_hash()
        if exported_by.exists() and exported_by.read_text() == today:
            return folder
        say(f"exporting {name} for {self._target}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        variants = ",".join(f"{self._target}-{precision}" for precision in self.precisions)
        self._run(
            *("model_export", "export", "--checkpoint", str(self.checkpoint(name)), "--task", MODELS[name][1]),
            *("--variants", variants, "--output", str(folder)),
            # Random weights decide nothing by a margin, so int8 may change any label of theirs.
            *(["--keep-inaccurate"] if "int8" in self.precisions else []),
        )
        exported_by.write_text(today)
        return folder

    def checkpoint(self, name: str) -> Path:
        """Return the folder of a model's checkpoint.

        Raises:
            ExportFailed: it is not there and cannot be made.
        """
        return Path(self._run("benchmarks.checkpoints", MODELS[name][0], str(self._cache)).strip())

    def padded_graph(self, name: str) -> Path:
        """Return the graph of a model that the peers serve.

        Raises:
            ExportFailed: it is not there and cannot be made.
        """
        path = self._cache / "padded" / f"{name}.onnx"
        return self._made(path, "benchmarks.padded_graph", str(self.checkpoint(name)))

    def products(self, precision: Precision, count: int) -> Path:
        """Return a graph of so many matrix products and nothing else.

        Raises:
            ExportFailed: it is not there and cannot be made.
        """
        path = self._cache / "products" / f"{count}-{precision}.onnx"
        return self._made(path, "benchmarks.products", precision, str(count))

    def _made(self, path: Path, module: str, *arguments: str) -> Path:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            self._run(module, str(partial), *arguments)
            partial.rename(path)
        return path

    def _run(self, *module_and_arguments: str) -> str:
        command = [str(self._python), "-m", *module_and_arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
        if done.returncode:
            raise ExportFailed(f"{' '.join(command[:3])}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def _export_hash(self) -> str:
        digest = hashlib.sha256(" ".join(self.precisions).encode())
        for source in sorted((ROOT / "model_export").rglob("*.py")):
            digest.update(source.read_bytes())
        return digest.hexdigest()
